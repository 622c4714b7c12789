"""JSON lines, one a frame."""

from __future__ import annotations

import json
from pathlib import Path

from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext
from ssmt_edge.sinks.base import GrowingFile


def open_file(path: Path, context: SinkContext) -> LinesSink:
    """Raises SinkError if the file cannot be created."""
    return RecordsSink(path)


class LinesSink(GrowingFile):
    """Lines of text that reach the system with every result, so that they outlive a killed process.

    A line that does not fit on the disk any more is taken back. A subclass says which lines a result gives.
    """

    def __init__(self, path: Path, head: bytes = b"") -> None:
        super().__init__(path)
        self._whole = 0
        self._file = self.part.open("wb", buffering=0)
        self._head = head

    def _lines(self, result: Result) -> bytes:
        raise NotImplementedError

    def _add(self, result: Result) -> None:
        lines = self._lines(result)
        if not self._written:
            lines = self._head + lines
        left = memoryview(lines)
        while left:  # a nearly full disk takes a part, and refuses the rest
            left = left[self._file.write(left) :]
        self._whole += len(lines)

    def _complete(self) -> None:
        try:
            self._file.truncate(self._whole)
        finally:
            self._file.close()


class RecordsSink(LinesSink):
    """`Result.record()` of each frame as a line of JSON."""

    def _lines(self, result: Result) -> bytes:
        return json.dumps(result.record()).encode() + b"\n"
