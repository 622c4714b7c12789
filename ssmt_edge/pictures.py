"""Pictures that a person looks at: sheets of images with outlines (OpenCV), curves and bars (matplotlib)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import UsageError
from ssmt_edge.files import replacing
from ssmt_edge.geometry import Gray
from ssmt_edge.packages import extra_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Values = Sequence[float] | NDArray[Any]

# told apart by the colour-blind, too (Okabe and Ito 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TRUTH, PREDICTION = (86, 220, 255), (255, 140, 26)  # RGB, on gray
PAPER, INK = (24, 24, 24), (235, 235, 235)
FONT, TEXT = cv2.FONT_HERSHEY_SIMPLEX, 0.45
LINE = 18  # height of a line of text, pixels
GAP = 8
CELL = (300, 240)  # largest width and height of a tile's image, pixels


@dataclass(frozen=True)
class Tile:
    """One image of a sheet."""

    image: Gray
    """uint8 [H, W], any size"""
    truth: NDArray[np.bool_] | None
    """[H, W]"""
    prediction: NDArray[np.bool_] | None
    """[H, W]"""
    caption: str
    """a line or two below the image; ASCII, because OpenCV's font knows nothing else"""


@dataclass(frozen=True)
class Series:
    """One curve; `low` and `high` are the ends of error bars (values of y, not distances), of the length of `x`."""

    x: Values
    y: Values
    low: Values | None = None
    high: Values | None = None


def sheet(path: Path, tiles: Sequence[Tile], title: str = "") -> None:
    """Images side by side with the outlines of truth and prediction, as a PNG or JPEG file (by suffix), atomically.

    Raises:
        UsageError: no tiles, or another suffix.
        OSError: the file cannot be written.
    """
    if not tiles:
        raise UsageError(f"no images for the sheet {path}, expected at least one")
    _check_suffix(path, (".png", ".jpg", ".jpeg"))
    columns = min(len(tiles), max(2, math.ceil(math.sqrt(len(tiles)))))
    shown = [_tile(tile) for tile in tiles]
    rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    width = columns * (CELL[0] + GAP) + GAP
    blocks = [_head(title, width)]
    for row in rows:
        height = max(tile.shape[0] for tile in row) + GAP
        block = _blank(height, width)
        for i, tile in enumerate(row):
            left = GAP + i * (CELL[0] + GAP)
            block[: tile.shape[0], left : left + CELL[0]] = tile
        blocks.append(block)
    picture = np.concatenate(blocks)
    _, encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with replacing(path) as part:
        part.write_bytes(encoded.tobytes())


def _tile(tile: Tile) -> NDArray[np.uint8]:
    """RGB, as wide as a cell: the image in the middle, its outlines drawn after resizing, and the caption."""
    height, width = tile.image.shape
    scale = min(CELL[0] / width, CELL[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.cvtColor(cv2.resize(tile.image, size, interpolation=how), cv2.COLOR_GRAY2RGB)
    for mask, colour in ((tile.truth, TRUTH), (tile.prediction, PREDICTION)):
        if mask is not None:
            soft = cv2.resize(mask.astype(np.float32), size, interpolation=how)
            outlines, _ = cv2.findContours((soft > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, outlines, -1, colour, 1, cv2.LINE_AA)
    lines = _wrapped(tile.caption, CELL[0])
    made = _blank(CELL[1] + LINE * len(lines) + GAP // 2, CELL[0])
    top, left = (CELL[1] - size[1]) // 2, (CELL[0] - size[0]) // 2
    made[top : top + size[1], left : left + size[0]] = image
    for i, line in enumerate(lines):
        _write(made, line, 0, CELL[1] + LINE * i)
    return made


def _head(title: str, width: int) -> NDArray[np.uint8]:
    lines = _wrapped(title, width - 2 * GAP)
    head = _blank(LINE * (len(lines) + 1) + GAP, width)
    for i, line in enumerate(lines):
        _write(head, line, GAP, LINE * i)
    _write(head, "truth", GAP, LINE * len(lines), TRUTH)
    _write(head, "prediction", GAP + 64, LINE * len(lines), PREDICTION)
    return head


def _blank(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), PAPER, np.uint8)


def _wrapped(text: str, width: int) -> list[str]:
    letter = cv2.getTextSize("n" * 40, FONT, TEXT, 1)[0][0] / 40
    return [line for part in text.splitlines() for line in textwrap.wrap(part, max(8, int(width / letter)))]


def _write(picture: NDArray[np.uint8], text: str, left: int, top: int, colour: tuple[int, int, int] = INK) -> None:
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(picture, plain, (left, top + LINE - 5), FONT, TEXT, colour, 1, cv2.LINE_AA)


def lines(path: Path, title: str, x_label: str, y_label: str, series: Mapping[str, Series]) -> None:
    """Curves by name, with error bars where a series has them, as a PNG or SVG file (by suffix), atomically.

    Labels name the units. Points are marked where a curve has few of them.

    Raises:
        UsageError: no series, or another suffix.
        MissingDependency: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure, axes = _axes(path, title, series)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    for (name, one), colour in zip(series.items(), _colours(len(series)), strict=True):
        y = np.asarray(one.y, float)
        style: dict[str, Any] = {
            "label": name,
            "color": colour,
            "linewidth": 1.6,
            "marker": "o" if len(y) <= 30 else "",
            "markersize": 4,
        }
        reach = None
        if one.low is not None and one.high is not None:
            reach = np.stack([y - np.asarray(one.low, float), np.asarray(one.high, float) - y]).clip(min=0)
        axes.errorbar(one.x, y, yerr=reach, capsize=3, elinewidth=1, **style)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=9)
    _save(figure, path)


def bars(path: Path, title: str, y_label: str, values: Mapping[str, tuple[float, float, float]]) -> None:
    """A bar a name, from (mean, low, high) with low and high as the ends of the error bar; PNG or SVG, atomically.

    Raises:
        UsageError: no values, or another suffix.
        MissingDependency: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    figure, axes = _axes(path, title, values)
    axes.set_ylabel(y_label)
    means, low, high = (np.array(column, float) for column in zip(*values.values(), strict=True))
    places = np.arange(len(values))
    axes.bar(places, means, width=0.65, color=COLOURS[0])
    reach = np.stack([means - low, high - means]).clip(min=0)
    axes.errorbar(places, means, yerr=reach, fmt="none", ecolor="#222222", capsize=4, elinewidth=1.2)
    for place, mean, top in zip(places, means, np.maximum(means, high), strict=True):
        axes.annotate(f"{mean:#.3g}", (place, top), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    axes.margins(y=0.12)
    turned = len(values) > 4 or max(map(len, values)) > 14
    axes.set_xticks(places, list(values), rotation=30 if turned else 0, ha="right" if turned else "center")
    axes.grid(visible=False, axis="x")
    _save(figure, path)


def _axes(path: Path, title: str, content: Mapping[str, Any]) -> tuple[Figure, Axes]:
    _check_suffix(path, (".png", ".svg"))
    if not content:
        raise UsageError(f"nothing to draw in {path}, expected at least one value")
    try:
        from matplotlib.figure import Figure  # not pyplot: it keeps every figure and asks for a display
    except ModuleNotFoundError as error:
        raise extra_of(error) from None
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left", wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as part:
        # no date: equal content gives equal files
        figure.savefig(part, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)


def _check_suffix(path: Path, known: tuple[str, ...]) -> None:
    if path.suffix.lower() not in known:
        raise UsageError(f"{path} ends in {path.suffix or 'no suffix'}, expected one of {', '.join(known)}")
