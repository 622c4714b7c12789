"""Where results go: overlay video, JSON lines, CSV, PNG masks, DICOM segmentations, reports.

A new sink is one module with `open_file(path, context) -> Sink` and one line in `BY_SUFFIX` or `BY_SCHEME`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ssmt_edge.errors import SinkError
from ssmt_edge.sinks.unfinished import leftovers

if TYPE_CHECKING:
    from ssmt_edge.health import Health
    from ssmt_edge.overlay import Overlay
    from ssmt_edge.segment import Result, Segmenter
    from ssmt_edge.sources import Source

__all__ = ["Sink", "SinkContext", "leftovers", "open_sink", "sink_path", "writing"]

# suffix of a file, or `scheme:` before a path -> module whose `open_file(path, context)` writes it
BY_SUFFIX = {
    ".mp4": "ssmt_edge.sinks.video",
    ".mkv": "ssmt_edge.sinks.video",
    ".avi": "ssmt_edge.sinks.video",
    ".jsonl": "ssmt_edge.sinks.records",
    ".csv": "ssmt_edge.sinks.table",
    ".dcm": "ssmt_edge.sinks.seg",
    ".html": "ssmt_edge.sinks.report",
    ".json": "ssmt_edge.sinks.report",
}
BY_SCHEME = {
    "png": "ssmt_edge.sinks.masks",
}
# scheme of a URI (`scheme://`) -> module whose `open_uri(uri, context)` serves it
BY_NETWORK = {
    "igtl-out": "ssmt_edge.sinks.igtl_out",
}


@dataclass(frozen=True)
class SinkContext:
    """What a sink may want to know before the first result."""

    fps: float | None = None
    """frames a second of the source; None if unknown"""
    source: Source | None = None
    """the opened source, for its `path` and `name`; never iterated by a sink"""
    segmenter: Segmenter | None = None
    """what makes the results; its threshold, region and spacing may be set while it runs"""
    health: Health | None = None
    """how the stream does, kept up to date"""
    overlay: Overlay = "tint"
    uncut: bool = False
    """pictures show the whole frame, with whatever the scanner burned into it; by default only the scan area"""
    keep_identifiers: bool = False
    """what is written may carry the identifiers of a DICOM header"""


class Sink(Protocol):
    """Takes results in the order of their frames, in one thread, and is then closed."""

    def write(self, result: Result) -> None:
        """Raises SinkError if the result cannot be written."""
        ...

    def close(self) -> None:
        """Completes what was written under its final name; leaves nothing behind if nothing was. Raises SinkError."""
        ...


def sink_path(uri: str) -> Path:
    """The file or folder that a sink would write."""
    scheme, separator, rest = uri.partition(":")
    return Path(rest) if separator and scheme in BY_SCHEME else Path(uri)


def open_sink(uri: str, context: SinkContext | None = None) -> Sink:
    """The sink for a file by its suffix, or for a folder of PNG masks (`png:DIR`, `DIR/` or a folder that exists).

    Args:
        uri: path, or scheme and path.
        context: what is known of the stream.

    Raises:
        SinkError: no such kind of sink, or the place cannot be written to.
    """
    path = sink_path(uri)
    scheme = uri.partition(":")[0]
    if scheme in BY_NETWORK and uri.startswith(f"{scheme}://"):
        return cast(Sink, importlib.import_module(BY_NETWORK[scheme]).open_uri(uri, context or SinkContext()))
    if uri and (uri.endswith("/") or path.is_dir()):
        module_name: str | None = BY_SCHEME["png"]
    elif path != Path(uri):
        module_name = BY_SCHEME[scheme]
    else:
        module_name = BY_SUFFIX.get(path.suffix.lower())
    if module_name is None or uri == f"{scheme}:":
        raise SinkError(
            f"{uri!r} is no kind of sink; expected a file ending with {', '.join(BY_SUFFIX)}, a folder of PNG masks "
            f"ending with /, or {', '.join(f'{name}://' for name in BY_NETWORK)}"
        )
    module: Any = importlib.import_module(module_name)
    return cast(Sink, module.open_file(path, context or SinkContext()))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into one SinkError line."""
    try:
        yield
    except OSError as error:
        raise SinkError(f"{path} cannot be written: {error.strerror or error}; choose another place") from None
