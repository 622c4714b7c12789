"""`ssmt-edge run`, with an engine that stands in for a real one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import typer
from fakes import BrightEngine, record_indices, video_frames, wait_until, write_folder
from pydicom.examples import get_path
from typer.testing import CliRunner

from ssmt_edge import segment
from ssmt_edge.cli.run import run
from ssmt_edge.cli.tally import Tally
from ssmt_edge.errors import SinkError, SourceError, UsageError
from ssmt_edge.pipeline import Run, stream
from ssmt_edge.segment import Segmenter
from ssmt_edge.sinks import writing
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

pytestmark = pytest.mark.timeout(60)
HERE = Path(__file__).resolve().parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "frames", 25)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def load(path: Path, threads: int | None, *choices: Any) -> Segmenter:
        return Segmenter(BrightEngine(), *choices)

    monkeypatch.setattr(segment, "load", load)
    app = typer.Typer()
    app.command()(run)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_run_prints_what_was_done(invoke: Callable[..., Any], tmp_path: Path) -> None:
    done = invoke("engine", get_path("ybr_color"), "--sink", tmp_path / "r.jsonl", "--sink", tmp_path / "o.mp4")
    assert done.exit_code == 0, done.output
    assert "looked at " in done.stdout
    assert "30 frames in" in done.stdout and f"wrote {tmp_path / 'o.mp4'}" in done.stdout
    assert "note: " in done.stderr and "does not fit" in done.stderr
    assert len(record_indices(tmp_path / "r.jsonl")) == video_frames(tmp_path / "o.mp4") == 30


def test_run_for_machines(invoke: Callable[..., Any], folder: Path) -> None:
    done = invoke("engine", folder, "--json", "--roi", "0,0,80,120", "--mm-per-pixel", "0.1")
    summary = json.loads(done.stdout)
    assert summary["frames"] == 25 and summary["complete"] is True
    (one,) = summary["streams"]
    assert set(one["times_ms"]) == {"decode", "preprocess", "infer", "postprocess", "work", "latency"}
    assert one["times_ms"]["infer"]["p50"] <= one["times_ms"]["infer"]["p99"] and one["frames"] == 25
    assert one["region"] == [0, 0, 80, 120]


@pytest.mark.parametrize("roi", ["everything", "1,2,3", "0,0,0,5", "1,2,3,x"])
def test_run_refuses_a_region_that_is_none(invoke: Callable[..., Any], folder: Path, roi: str) -> None:
    done = invoke("engine", folder, "--roi", roi)
    assert isinstance(done.exception, UsageError) and "--roi" in str(done.exception)


def test_run_tells_what_was_written_before_an_error(invoke: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    (folder / "9.png").write_text("not an image")
    done = invoke("engine", folder, "--sink", tmp_path / "r.jsonl")
    assert isinstance(done.exception, SourceError)
    assert "9 frames in" in done.stdout and "not to the end" in done.stdout
    assert len(record_indices(tmp_path / "r.jsonl")) == 9


@pytest.mark.parametrize("as_json", [False, True])
def test_a_source_without_any_frame_does_not_hide_what_another_gave(
    folder: Path, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given = threading.Event()

    class Broken(BaseSource):
        def __iter__(self) -> Iterator[Frame]:
            given.wait(10)
            raise SourceError("no first frame")
            yield

    started = Run(BrightEngine(), [str(folder), Broken("broken")])
    with pytest.raises(SourceError, match="no first frame"), Tally(started.streams, as_json):
        for _ in started.results():
            given.set()
    printed = capsys.readouterr().out
    if as_json:
        assert [one["frames"] > 0 for one in json.loads(printed)["streams"]] == [True, False]
    else:
        assert "broken:\n0 frames in" in printed and "latency" in printed


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`run` in a process of its own, with an engine that takes 50 ms a frame."""
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import typer
from fakes import BrightEngine
from ssmt_edge import segment
from ssmt_edge.cli.run import run
segment.load = lambda *_: segment.Segmenter(BrightEngine(seconds=0.05))
app = typer.Typer(); app.command()(run)
app(["engine", {str(folder)!r}, *{[str(a) for a in arguments]!r}])
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a job that a shell put in the background inherits SIGINT ignored, and so would this one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_lines(folder: Path, count: int, kind: str = ".r.*") -> None:
    """Until an unfinished records file has so many lines."""
    wait_until(lambda: any(part.read_bytes().count(b"\n") >= count for part in folder.glob(kind)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_complete_files(folder: Path, tmp_path: Path, number: int, code: int) -> None:
    process = started(folder, "--sink", tmp_path / "r.jsonl", "--sink", tmp_path / "o.mp4")
    wait_for_lines(tmp_path, 1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "not to the end" in out and "Traceback" not in err
    written = record_indices(tmp_path / "r.jsonl")
    assert written == list(range(len(written))) and 0 < len(written) < 25
    assert video_frames(tmp_path / "o.mp4") == len(written)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "o.mp4", "r.jsonl"]


def test_what_was_written_before_a_sigkill_is_readable_and_the_next_run_tells_of_it(
    invoke: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    sinks = ("--sink", tmp_path / "r.jsonl", "--sink", tmp_path / "r.csv", "--sink", f"{tmp_path}/m/")
    process = started(folder, *sinks)
    for kind in (".r.*.jsonl", ".r.*.csv"):  # each sink writes at its own pace
        wait_for_lines(tmp_path, 8, kind)
    wait_until(lambda: len(list((tmp_path / "m").glob("mask_*.png"))) >= 7)
    process.kill()
    process.communicate(timeout=30)
    (lines,) = tmp_path.glob(".r.*.jsonl")
    (table,) = tmp_path.glob(".r.*.csv")
    whole = record_indices(lines)
    assert whole == list(range(len(whole))) and 7 <= len(whole) < 25
    assert len(table.read_text(encoding="utf-8").splitlines()) >= 7
    masks = sorted((tmp_path / "m").glob("mask_*.png"))
    assert len(masks) >= 7 and all(cv2.imread(str(mask)) is not None for mask in masks[:7])
    again = invoke("engine", folder, "--sink", tmp_path / "r.jsonl")
    assert again.exit_code == 0 and lines.name in again.stderr


def test_a_full_disk_is_told_of_and_the_other_sinks_go_on(
    invoke: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = tmp_path / "b.jsonl"

    class Full:
        def write(self, result: Any) -> None:
            with writing(full), (tmp_path / "full").open("w") as file:
                file.write("x")

        def close(self) -> None:
            pass

    told: list[str] = []
    with pytest.raises(SinkError, match="No space left"):
        list(stream(BrightEngine(), folder, sinks=[Full(), tmp_path / "r.jsonl"], tell=told.append))
    assert len(told) == 1 and "No space left" in told[0]
    assert len(record_indices(tmp_path / "r.jsonl")) == 25


def test_several_sources_and_their_sinks(invoke: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", 10)
    done = invoke("engine", folder, other, "--sink", tmp_path / "r.jsonl", "--json")
    assert done.exit_code == 0, done.output
    assert [one["frames"] for one in json.loads(done.stdout)["streams"]] == [25, 10]
    assert record_indices(tmp_path / "r-1.jsonl") == list(range(25))
    assert record_indices(tmp_path / "r-2.jsonl") == list(range(10))


def test_playing_a_part_of_a_file_again_and_again(invoke: Callable[..., Any], folder: Path) -> None:
    part = json.loads(invoke("engine", folder, "--json", "--start", "0.2", "--stop", "0.6").stdout)
    assert part["frames"] == 10  # a folder is taken for 25 frames a second
    paced = json.loads(invoke("engine", folder, "--json", "--rate", "100").stdout)
    assert paced["frames"] == 25 and paced["seconds"] >= 0.24
    for options, word in [(("--rate", "fast"), "--rate"), (("--start", "9"), "nothing to play")]:
        refused = invoke("engine", folder, *options)
        assert word in str(refused.exception)
