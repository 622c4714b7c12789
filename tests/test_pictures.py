"""Pictures: what a person must find in them, equal files for equal content, and one line for what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ssmt_edge.errors import MissingDependency, UsageError
from ssmt_edge.pictures import CELL, PREDICTION, TRUTH, Series, Tile, bars, lines, sheet


def disc(x: int, size: tuple[int, int] = (120, 160)) -> Any:
    return cv2.circle(np.zeros(size, np.uint8), (x, 60), 30, 1, -1) > 0


def near(picture: Any, colour: tuple[int, int, int]) -> Any:
    """Pixels [K, 2] whose colour is close to an RGB one."""
    return np.argwhere(np.abs(picture[:, :, ::-1].astype(int) - colour).max(axis=2) < 40)


def test_a_tile_shows_both_outlines_where_they_belong(tmp_path: Path) -> None:
    image = np.full((120, 160), 90, np.uint8)
    sheet(tmp_path / "a.png", [Tile(image, disc(50), disc(110), "a caption")], "a title")
    picture = cv2.imread(str(tmp_path / "a.png"))
    below = picture[44:]  # the legend has the same colours
    scale = CELL[0] / 160
    for colour, x in ((TRUTH, 50), (PREDICTION, 110)):
        found = near(below, colour)
        assert len(found) > 100
        assert found[:, 1].mean() == pytest.approx(8 + x * scale, abs=3)
        assert np.ptp(found[:, 1]) == pytest.approx(60 * scale, abs=4) == np.ptp(found[:, 0])
    sheet(tmp_path / "b.png", [Tile(image, None, None, "")])
    assert not len(near(cv2.imread(str(tmp_path / "b.png"))[44:], TRUTH))


def test_many_tiles_of_any_size_and_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tiles = [
        Tile(rng.integers(0, 255, size, dtype=np.uint8), None, disc(20, size), "a long caption, naïve " * 4)
        for size in ((64, 64), (1080, 1920), (600, 30), (1, 1), (360, 280))
    ]
    sheet(tmp_path / "new" / "many.jpg", tiles, "title " * 60)
    assert cv2.imread(str(tmp_path / "new" / "many.jpg")).shape[1] == 3 * (CELL[0] + 8) + 8
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["many.jpg"], "no temporary file is left"
    with pytest.raises(UsageError, match="no images for the sheet"):
        sheet(tmp_path / "none.png", [])
    with pytest.raises(UsageError, match=r"ends in .gif, expected one of .png"):
        sheet(tmp_path / "a.gif", tiles)


def test_curves_and_bars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    x = np.arange(1, 6)
    series = {
        "first": Series(x, x / 10, x / 10 - 0.05, x / 10 + 0.02),
        "second": Series(list(x), [0.1, None, 0.3, 0.4, 0.5]),
    }  # type: ignore[list-item]
    for name in ("a.svg", "b.svg", "c.png"):
        lines(tmp_path / name, "a title", "labels, %", "Dice", series)
    text = (tmp_path / "a.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("a title", "labels, %", "Dice", "first", "second"))
    assert "<dc:date>" not in text
    assert cv2.imread(str(tmp_path / "c.png")).std() > 5
    bars(tmp_path / "d.svg", "bars", "Dice", {"one": (0.7, 0.65, 0.74), "a very long name": (0.75, 0.7, 0.8)})
    text = (tmp_path / "d.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("one", "a very long name", "0.700", "0.750"))
    with pytest.raises(UsageError, match="nothing to draw"):
        bars(tmp_path / "e.png", "", "", {})
    with pytest.raises(UsageError, match=r"no suffix, expected one of \.png, \.svg"):
        lines(tmp_path / "e", "", "", "", series)


def test_without_matplotlib_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(MissingDependency, match=r"matplotlib is not installed.*ssmt-edge\[plots\]"):
        lines(tmp_path / "a.png", "", "", "", {"a": Series([0], [0])})
    assert not list(tmp_path.iterdir())


class Refuse:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
