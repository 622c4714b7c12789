"""What all sinks that write one file have in common: the place, the unfinished name, and how failures are told."""

from __future__ import annotations

import errno
from pathlib import Path

from ssmt_edge.errors import SinkError
from ssmt_edge.segment import Result
from ssmt_edge.sinks import writing
from ssmt_edge.sinks.unfinished import unfinished


class BaseSink:
    """Tells of the first failure only: a `close` after a failed `write` completes what it can, in silence.

    A subclass has `_add(result)` and `_finish()`, which may raise OSError or SinkError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = path.parent
        """without it nothing can be written"""
        self._written = 0
        self._failed = False
        self._closed = False

    def write(self, result: Result) -> None:
        try:
            with writing(self.path):
                self._still_there()
                self._add(result)
        except SinkError:
            self._failed = True
            raise
        self._written += 1

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            with writing(self.path):
                self._finish()
        except SinkError:
            if not self._failed:
                raise

    def _still_there(self) -> None:
        """OSError once the folder is gone: what is written into a deleted file would be lost without a word."""
        if not self._folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "its folder is gone")

    def _add(self, result: Result) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class GrowingFile(BaseSink):
    """A sink whose file grows with every result, readable at any time under its unfinished name `part`.

    `close` renames it to `path`; a file without a result is removed, and an earlier one at `path` stays.
    A subclass has `_add(result)`, and `_complete()`, which closes the file; what it leaves is renamed, also when it
    raises.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with writing(path):
            make_place(path)
            self.part = unfinished(path)
            self.part.touch()

    def _still_there(self) -> None:
        super()._still_there()
        if not self.part.exists():
            raise FileNotFoundError(errno.ENOENT, "it was removed while it was written")

    def _finish(self) -> None:
        try:
            self._complete()
        finally:
            if self._written:
                self._still_there()
                self.part.replace(self.path)
            else:
                self.part.unlink(missing_ok=True)

    def _complete(self) -> None:
        raise NotImplementedError


def make_place(path: Path) -> None:
    """Creates the folder of a file; OSError if that fails or the file is a folder."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
