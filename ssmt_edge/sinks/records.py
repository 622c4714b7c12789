"""JSON lines, one a frame."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ssmt_edge.files import temporary_sibling
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, writing


def open_file(path: Path, context: SinkContext) -> RecordsSink:
    """Raises SinkError if the file cannot be created."""
    return RecordsSink(path)


class RecordsSink:
    """Writes `Result.record()` of each frame; a line that does not fit on the disk any more is taken back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = temporary_sibling(path)
        self._whole = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")

    def write(self, result: Result) -> None:
        line = json.dumps(result.record()).encode() + b"\n"
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
        self._whole += len(line)

    def close(self) -> None:
        with writing(self._path):
            try:
                self._file.close()
            finally:
                if self._whole:
                    os.truncate(self._part, self._whole)
                    self._part.replace(self._path)
                else:
                    self._part.unlink(missing_ok=True)
