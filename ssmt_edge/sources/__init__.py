"""Where frames come from: video files, images, DICOM cines.

A new source is one module with `open_file(path) -> Source` and one line in `KINDS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import SUFFIXES
from ssmt_edge.errors import SourceError
from ssmt_edge.geometry import Roi

# kind of file -> module whose `open_file(path)` reads it, imported when the first such file is opened
KINDS = {
    "images": "ssmt_edge.sources.images",
    "dicom": "ssmt_edge.sources.dicom",
    "video": "ssmt_edge.sources.video",
}

ASSUMED_FPS = 25.0
"""frames a second where a source has no clock (a folder of images, a DICOM cine without times)"""


@dataclass(frozen=True)
class Frame:
    """One frame as it came from its source."""

    index: int
    """counts from 0"""
    t_source_ms: float
    """time since the first frame by the source's own clock; at ASSUMED_FPS where it has none"""
    pixels: NDArray[np.uint8]
    """gray [H, W] or RGB [H, W, 3], 0..255"""
    spacing_mm: tuple[float, float] | None = None
    """mm a pixel in x and in y; None if unknown"""
    roi: Roi | None = None
    """the 2D ultrasound region that the file itself declares"""


class Source(Protocol):
    """An opened stream of frames: iterated once, then closed. A context manager that closes itself."""

    name: str
    """file or folder, for messages"""
    frame_count: int | None
    """as declared; None if unknown"""
    fps: float | None
    """frames a second; None if unknown"""
    notes: list[str]
    """one line for each thing that the user must know at the end, e.g. how many damaged packets were left out"""

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError where no further frame can be read although there should be one."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(uri: str) -> Source:
    """The source behind a path (or `file://` URI): folder of images, image, DICOM file, video file.

    Raises SourceError if there is nothing, or nothing readable, at that place.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        raise SourceError(f"{uri}: no source for {scheme}://; give a video file, a DICOM file or a folder of images")
    if not (rest if separator else uri):
        raise SourceError(f"the source {uri!r} names no place; give a video file, a DICOM file or a folder of images")
    path = Path(rest if separator else uri)
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a video file, a DICOM file or a folder of images")
    try:
        kind = _kind(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    module: Any = importlib.import_module(KINDS[kind])
    return cast(Source, module.open_file(path))


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if path.is_dir() or suffix in SUFFIXES:
        return "images"
    with path.open("rb") as file:
        magic = file.read(132)[128:]
    if magic == b"DICM" or suffix in (".dcm", ".dicom"):
        return "dicom"
    return "video"


def plausible_fps(value: float | None) -> float | None:
    """A frame rate as files declare it; None for one that cannot be meant (zero, NaN, a clock's tick rate)."""
    return value if value is not None and 0.01 <= value <= 1000 else None
