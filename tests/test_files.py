from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ssmt_edge.files import replacing, replacing_folder, sha256, temporary_sibling, write_json


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "video.mp4"
    with replacing(target) as part:
        assert part.parent == target.parent and part.suffix == ".mp4"
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole" and names(target.parent) == ["video.mp4"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_keeps_the_old_file(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(error), replacing(target) as part:
        part.write_text("half")
        raise error
    assert target.read_text() == "old" and names(tmp_path) == ["result.json"]


def test_a_file_never_written_is_an_error_and_keeps_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"


def test_a_folder_where_a_file_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in (tmp_path, Path(), Path(".."), Path("/")):
        with pytest.raises(IsADirectoryError), replacing(target):
            pytest.fail("told only after the work")


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"x": [1, 2]} and text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == text and names(tmp_path) == ["a.json"]


def test_a_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "engine.v1"
    for content in ("first", "second"):
        with replacing_folder(target) as part:
            (part / f"{content}.txt").write_text(content)
        assert names(target) == [f"{content}.txt"], "nothing of the folder before is left"
        assert names(tmp_path) == ["engine.v1"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_folder(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "engine"
    target.mkdir()
    (target / "old.txt").write_text("old")
    with pytest.raises(error), replacing_folder(target) as part:
        (part / "half.txt").write_text("half")
        raise error
    assert names(target) == ["old.txt"] and names(tmp_path) == ["engine"]


def test_a_failed_renaming_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "engine"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if ".part" in self.name:
            raise OSError("disk full")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="disk full"), replacing_folder(target):
        pass
    assert names(target) == ["old.txt"] and names(tmp_path) == ["engine"]


def test_a_file_where_a_folder_is_wanted_is_kept(tmp_path: Path) -> None:
    (tmp_path / "engine").write_text("a file")
    with pytest.raises(NotADirectoryError), replacing_folder(tmp_path / "engine"):
        pytest.fail("told only after the work")
    assert (tmp_path / "engine").read_text() == "a file" and names(tmp_path) == ["engine"]


def test_remains_of_a_killed_process_with_the_same_number(tmp_path: Path) -> None:
    target = tmp_path / "engine"
    remains = temporary_sibling(target)
    assert str(os.getpid()) in remains.name
    remains.mkdir()
    (remains / "half.txt").touch()
    with replacing_folder(target) as part:
        (part / "new.txt").touch()
    assert names(target) == ["new.txt"] and names(tmp_path) == ["engine"]


def test_a_linked_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "old.txt").touch()
    (tmp_path / "engine").symlink_to(tmp_path / "disk", target_is_directory=True)
    with replacing_folder(tmp_path / "engine") as part:
        (part / "new.txt").touch()
    assert (tmp_path / "engine").is_symlink() and names(tmp_path / "disk") == ["new.txt"]
    assert names(tmp_path) == ["disk", "engine"]


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    for target in (Path(), Path(".."), Path("/")):
        with pytest.raises(OSError, match="current folder"), replacing_folder(target):
            pytest.fail("told only after the work")
    assert names(tmp_path) == ["inner"]
