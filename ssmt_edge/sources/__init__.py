"""Where frames come from: video files, images, DICOM cines, and live devices behind a URI.

A new source is one module with `open_file(path) -> Source` and one line in `KINDS` that tells its files apart, or with
`open_uri(uri) -> Source` and one line in `BY_SCHEME`; a package of its own registers `open_uri` as an entry point of
the group ENTRY_POINTS, under the scheme's name.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import SUFFIXES
from ssmt_edge.errors import SourceError
from ssmt_edge.geometry import Roi

if TYPE_CHECKING:
    from ssmt_edge.sources.playback import Play


def _is_images(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in SUFFIXES


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        magic = file.read(132)[128:]
    return magic == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


# module whose `open_file(path)` reads a kind of file, imported when the first such file is opened -> what it reads;
# the first that fits is taken
KINDS: dict[str, Callable[[Path], bool]] = {
    "ssmt_edge.sources.images": _is_images,
    "ssmt_edge.sources.dicom": _is_dicom,
    "ssmt_edge.sources.video": lambda path: True,
}

# scheme of a URI -> module whose `open_uri(uri)` opens it
BY_SCHEME = {
    "rtsp": "ssmt_edge.sources.av_live",
    "http": "ssmt_edge.sources.av_live",
    "https": "ssmt_edge.sources.av_live",
    "v4l2": "ssmt_edge.sources.av_live",
    "csi": "ssmt_edge.sources.csi",
    "igtl": "ssmt_edge.sources.igtl",
}

ENTRY_POINTS = "ssmt_edge.sources"

ASSUMED_FPS = 25.0
"""frames a second where a source has no clock (a folder of images, a DICOM cine without times)"""


@dataclass(frozen=True)
class Frame:
    """One frame as it came from its source."""

    index: int
    """number in the stream, from 0; a gap stands for frames that the sender sent and that did not arrive whole"""
    t_source_ms: float
    """time since the first frame by the source's own clock; at ASSUMED_FPS where it has none"""
    pixels: NDArray[np.uint8]
    """gray [H, W] or RGB [H, W, 3], 0..255"""
    spacing_mm: tuple[float, float] | None = None
    """mm a pixel in x and in y; None if unknown"""
    roi: Roi | None = None
    """the 2D ultrasound region that the file itself declares"""
    waited_ms: float = 0.0
    """time that the source waited for the frame's turn, part of the time it took to hand it over"""


class Source(Protocol):
    """An opened stream of frames: iterated once, then closed. A context manager that closes itself."""

    name: str
    """file, folder or URI, for messages"""
    path: Path | None
    """the file or folder; None for anything else"""
    live: bool
    """time goes on whether frames are taken or not: the newest frame counts, and older ones may be left out.

    `close` of a live source may be called from another thread while the iteration waits for a frame; the iteration
    then ends within a second."""
    frame_count: int | None
    """as declared; None if unknown"""
    fps: float | None
    """frames a second; None if unknown"""
    on_state: Callable[[str], None] | None
    """set by who wants to know when a live source is `lost` and `running` again; called in the iterating thread"""
    waiting: str
    """of a live source that brings no frame: what it gets instead, to be told after "no frame for 5 s"; may be empty"""
    notes: list[str]
    """one line for each thing that the user must know at the end, e.g. how many damaged packets were left out"""

    def __iter__(self) -> Iterator[Frame]:
        """Raises SourceError where no further frame can be read although there should be one; `SourceLost` of a live
        source says that opening it again may bring it back."""
        ...

    def interrupt(self) -> None:
        """Ends an iteration that waits for a frame; called from another thread."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Source: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(uri: str, play: Play | None = None) -> Source:
    """The source behind a path (or `file://` URI: folder of images, image, DICOM file, video file) or another URI.

    Args:
        uri: path or URI.
        play: rate, start, stop and loop of a file; None: every frame once, as fast as they are taken.

    Raises:
        SourceError: there is nothing, or nothing readable, at that place.
        UsageError: a URI with impossible options, or `play` for a live source.
    """
    if play is not None:
        from ssmt_edge.sources.playback import Play, Playback

        if play != Play():
            return Playback(lambda: open_source(uri), play)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        return _opener(scheme, uri)(uri)
    if not (rest if separator else uri):
        raise SourceError(f"the source {uri!r} names no place; give a video file, a DICOM file or a folder of images")
    path = Path(rest if separator else uri)
    if not path.exists():
        raise SourceError(f"{path} does not exist; give a video file, a DICOM file or a folder of images")
    try:
        kind = next(module for module, reads in KINDS.items() if reads(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from None
    module: Any = importlib.import_module(kind)
    return cast(Source, module.open_file(path))


def _opener(scheme: str, uri: str) -> Callable[[str], Source]:
    """What opens a scheme: a module of this package, else what another package registered."""
    if module_name := BY_SCHEME.get(scheme):
        return cast("Callable[[str], Source]", importlib.import_module(module_name).open_uri)
    registered = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if scheme not in registered:
        known = ", ".join(f"{name}://" for name in sorted({*BY_SCHEME, *registered}))
        name = without_credentials(uri)
        raise SourceError(f"{name}: no source for {scheme}://; give a file, a folder of images or one of {known}")
    try:
        return cast("Callable[[str], Source]", registered[scheme].load())
    except Exception as error:  # whatever another package does when it is imported
        raise SourceError(f"{registered[scheme].value}, registered for {scheme}://, fails: {error}") from None


def without_credentials(uri: str) -> str:
    """The URI for messages: without `user:password@`, and without what a query says of user, password or token."""
    uri = re.sub(r"(?<=://).*@", "", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:user|usr|login|pass|pwd|token|auth|key)[^=&]*=)[^&#]*", r"\1***", uri)


def public_name(name: str) -> str:
    """A source's name for records and pages: a file's last part, since folders are often called after patients; a URI
    without user, password and options, which may hold them."""
    if "://" not in name or name.startswith("file://"):
        return Path(name).name
    parts = urlsplit(name)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def known_spacing(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    """None unless both can be real: zero, NaN and infinity stand for unknown."""
    return spacing if spacing is not None and all(math.isfinite(v) and v > 0 for v in spacing) else None


def plausible_fps(value: float | None) -> float | None:
    """A frame rate as files declare it; None for one that cannot be meant (zero, NaN, a clock's tick rate)."""
    return value if value is not None and 0.01 <= value <= 1000 else None
