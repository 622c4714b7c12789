"""DICOM segmentation of a DICOM source: one mask a frame, each referring to its source frame."""

from __future__ import annotations

import io
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from ssmt_edge.errors import SinkError
from ssmt_edge.files import replacing
from ssmt_edge.packages import extra_of
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, writing
from ssmt_edge.sinks.base import BaseSink, make_place
from ssmt_edge.sinks.seg_object import Author, has_coordinates, segmentation, segmentation_in_space

LARGEST = 2**32 - 2
"""bytes of pixel data that DICOM can hold unencoded"""


def open_file(path: Path, context: SinkContext) -> SegSink:
    """Raises SinkError if the source is no DICOM file or the file cannot be created, and MissingDependency if the
    source has a coordinate system and highdicom is not installed."""
    return SegSink(path, context)


class SegSink(BaseSink):
    """Written in one piece by `close`; until then the masks wait as bits in a file without a name, 1/8 byte a pixel.

    Every result becomes a frame, also one without a nodule: it says that the source frame was looked at.
    """

    def __init__(self, path: Path, context: SinkContext) -> None:
        super().__init__(path)
        self._header = _header(path, context)
        self._author = Author.of(context.segmenter)
        self._keep_identifiers = context.keep_identifiers
        self._frame_count = int(self._header.get("NumberOfFrames") or 1)
        self._frames: list[int] = []
        if has_coordinates(self._header):
            try:
                import highdicom  # noqa: F401  said now, not when everything has been computed
            except ModuleNotFoundError as error:
                raise extra_of(error) from None
        with writing(path):
            make_place(path)
            self._bits = Bits(path.parent)

    def _add(self, result: Result) -> None:
        rows, columns = int(self._header.Rows), int(self._header.Columns)
        if result.mask.shape != (rows, columns):
            height, width = result.mask.shape
            raise SinkError(
                f"{self.path}: frame {result.frame} is {width} x {height}, and the DICOM source {columns} x {rows}; "
                "a segmentation must have its source's size"
            )
        if not 0 <= result.frame < self._frame_count:
            raise SinkError(
                f"{self.path}: frame {result.frame} is not among the {self._frame_count} of the DICOM source, which a "
                "segmentation refers to; play the source once"
            )
        if (self._written + 1) * rows * columns > 8 * LARGEST:
            raise SinkError(f"{self.path}: a segmentation holds {LARGEST} bytes, which are full; segment fewer frames")
        self._bits.add(result.mask)
        self._frames.append(result.frame)

    def _finish(self) -> None:
        with self._bits as bits:
            if not self._frames:
                return
            self._still_there()
            made = None
            if has_coordinates(self._header) and self._frames == list(range(self._frame_count)):
                masks = bits.masks(len(self._frames), int(self._header.Rows), int(self._header.Columns))
                made = segmentation_in_space(self._header, masks, self._author, self._keep_identifiers)
            if made is None:
                made = segmentation(self._header, self._frames, self._author, self._keep_identifiers)
                made.add_new("PixelData", "OB", bits.padded())
            with replacing(self.path) as part:
                pydicom.dcmwrite(part, made, enforce_file_format=True)


class Bits:
    """Masks as DICOM packs them: bit after bit, the first pixel in a byte's lowest bit, no gap between frames."""

    def __init__(self, folder: Path) -> None:
        # closed by __exit__
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        self._rest = np.zeros(0, np.bool_)
        self._whole = 0

    def add(self, mask: NDArray[np.bool_]) -> None:
        """One mask [H, W]. On OSError the masks before it stay as they are."""
        bits = np.concatenate([self._rest, mask.ravel()])
        full = len(bits) // 8 * 8
        left = memoryview(np.packbits(bits[:full], bitorder="little").tobytes())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(self._whole)
            raise
        self._whole += full // 8
        self._rest = bits[full:]

    def padded(self) -> io.BufferedReader:
        """The file at its start, filled up to an even number of bytes; it takes no more masks."""
        self._fill()
        return io.BufferedReader(self._file)

    def _fill(self) -> None:
        end = np.packbits(self._rest, bitorder="little").tobytes()
        self._file.seek(self._whole)
        self._file.write(end + b"\0" * ((self._whole + len(end)) % 2))
        self._file.seek(0)

    def masks(self, frames: int, rows: int, columns: int) -> NDArray[np.uint8]:
        """uint8 [frames, rows, columns], 0 or 1, all in memory."""
        self._fill()
        packed = np.frombuffer(self._file.readall(), np.uint8)
        bits = np.unpackbits(packed, count=frames * rows * columns, bitorder="little")
        return bits.reshape(frames, rows, columns)

    def __enter__(self) -> Bits:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _header(path: Path, context: SinkContext) -> pydicom.Dataset:
    """The source's header, without its pixels."""
    source = context.source
    name = "there is no source" if source is None else f"the source {source.name} is none"
    no = SinkError(
        f"{path}: a DICOM segmentation refers to the frames of a DICOM file, and {name}; give a DICOM file as source, "
        "or write PNG masks into a folder (DIR/)"
    )
    if source is None or source.path is None or not source.path.is_file():
        raise no
    try:
        header = pydicom.dcmread(source.path, stop_before_pixels=True)
    except (OSError, InvalidDicomError):
        raise no from None
    missing = [key for key in ("SOPClassUID", "SOPInstanceUID", "Rows", "Columns") if not header.get(key)]
    if missing:
        raise SinkError(f"{path}: {source.name} has no {', '.join(missing)}, so that nothing can refer to its frames")
    return header
