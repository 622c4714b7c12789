"""MPEG-2, H.264 and H.265 in DICOM: the pixel data is one whole video, cut into fragments."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any, BinaryIO, cast

import pydicom
from pydicom import uid

from ssmt_edge.errors import SourceError
from ssmt_edge.sources.video import VideoSource

MPEG = frozenset(
    syntax
    for name, syntax in vars(uid).items()
    if name.startswith(("MPEG", "HEVC")) and isinstance(syntax, uid.UID) and syntax.is_transfer_syntax
)

ITEM = 0xFFFE, 0xE000


def open_video(path: Path) -> VideoSource:
    """The video inside a DICOM file. Raises SourceError."""
    file = path.open("rb")
    pydicom.dcmread(file, stop_before_pixels=True)
    pieces = _fragments(file)
    if not pieces:
        file.close()
        raise SourceError(f"{path} has no pixel data; give a DICOM image or cine")
    return VideoSource(path, cast(BinaryIO, io.BufferedReader(_Pieces(file, pieces), 1 << 16)))


def _fragments(file: BinaryIO) -> list[tuple[int, int]]:
    """Offset and length of each fragment; `file` stands at the tag of the pixel data, which is Explicit VR."""
    file.seek(12, io.SEEK_CUR)
    found = []
    while len(head := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) != ITEM:
            break
        found.append((file.tell(), length))
        file.seek(length, io.SEEK_CUR)
    return found[1:]  # the first one is the table of offsets


class _Pieces(io.RawIOBase):
    """Parts of a file as if they were one file, read where they are."""

    def __init__(self, file: BinaryIO, pieces: list[tuple[int, int]]) -> None:
        self._file, self._pieces, self._at = file, pieces, 0
        self._size = sum(length for _, length in pieces)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        begin = 0
        for start, length in self._pieces:
            if self._at < begin + length:
                self._file.seek(start + self._at - begin)
                data = self._file.read(min(len(buffer), begin + length - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            begin += length
        return 0

    def close(self) -> None:
        self._file.close()
        super().close()
