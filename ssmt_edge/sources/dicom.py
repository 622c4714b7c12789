"""DICOM: single images and multi-frame cines, decoded one frame at a time, with their regions and spacing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
)

from ssmt_edge.errors import SourceError
from ssmt_edge.geometry import Roi
from ssmt_edge.sources import ASSUMED_FPS, Frame, known_spacing, plausible_fps
from ssmt_edge.sources.base import BaseSource
from ssmt_edge.sources.dicom_video import MPEG, open_video

Pixels = NDArray[np.uint8]
Spacing = tuple[float, float]

# RGB (0..255) to YCbCr of partial range, luma 16..235 (PS3.3 C.7.6.3.1.2, retired there: YBR_PARTIAL_422)
TO_PARTIAL = np.array([[0.2568, 0.5041, 0.0979], [-0.1482, -0.2910, 0.4392], [0.4392, -0.3678, -0.0714]])

CENTIMETRE = 3  # code of PhysicalUnitsXDirection
IMAGE_2D = 1  # RegionSpatialFormat; others are M-mode, spectra, waveforms


def open_file(path: Path) -> DicomSource:
    """Raises SourceError for a file that is no DICOM or has no image."""
    return DicomSource(path)


class DicomSource(BaseSource):
    """Frames of one DICOM file: palette and YBR become RGB, MONOCHROME1 is inverted, deep values scaled to 8 bits."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # pydicom raises many kinds on damaged files
            raise SourceError(f"{path} is not a readable DICOM file: {error}") from None
        self._path = path
        try:
            if "Rows" not in header or "Columns" not in header:
                raise SourceError(f"{path} has no pixel data ({_kind(header)}); give a DICOM image or cine")
            self.frame_count = int(header.get("NumberOfFrames") or 1)
            self._times = _times_ms(header)
            self.fps = _fps(header)
            self._to_8_bit = _to_8_bit(header)
            self._roi, self._spacing = self._region(header)
            self._syntax = UID(header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
            self._photometric = str(header.PhotometricInterpretation)
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"{path} has an unusable header: {error}") from None
        self._video = open_video(path) if self._syntax in MPEG else None

    def __iter__(self) -> Iterator[Frame]:
        if self._video is not None:
            for frame in self._video:
                yield replace(frame, spacing_mm=self._spacing, roi=self._roi)
            self.notes += self._video.notes
            return
        interval = 1e3 / (self.fps or ASSUMED_FPS)
        index = 0
        frames = self._stored_frames()
        while True:
            try:
                stored = next(frames)
            except StopIteration:
                break
            except Exception as error:
                raise self._unreadable(error, index) from None
            time = self._times[index] if index < len(self._times) else index * interval
            yield Frame(index, time, self._to_8_bit(stored), self._spacing, self._roi)
            index += 1

    def _stored_frames(self) -> Iterator[NDArray[Any]]:
        """As pydicom decodes them: one at a time, YBR_FULL as RGB, every colour picture [H, W, 3]."""
        options: dict[str, Any] = {}
        if self._syntax in JPEG2000TransferSyntaxes:
            # GDCM, where it is installed, would come first, and stumbles over some files
            options["decoding_plugin"] = "pylibjpeg"
        if self._syntax == JPEGBaseline8Bit:
            # a damaged frame makes GDCM end the whole process
            options["decoding_plugin"] = "pillow"
        if self._photometric.startswith(
            "YBR_PARTIAL"
        ):  # pydicom knows its layout only under the name of the full range
            options |= {"photometric_interpretation": self._photometric.replace("PARTIAL", "FULL"), "raw": True}
        if self._syntax == DeflatedExplicitVRLittleEndian:  # as a whole: it has to be read as a whole
            return iter_pixels(pydicom.dcmread(self._path), **options)
        if self._photometric.endswith("_422") and not self._syntax.is_encapsulated:
            # pydicom 3.0 forgets after the first frame that chroma is halved
            each = (iter_pixels(self._path, indices=[i], **options) for i in range(self.frame_count or 1))
            return chain.from_iterable(each)
        return iter_pixels(self._path, **options)

    def close(self) -> None:
        if self._video is not None:
            self._video.close()

    def _unreadable(self, error: Exception, index: int) -> SourceError:
        if "no pixel data" in str(error):
            return SourceError(f"{self.name} has no pixel data; give a DICOM image or cine")
        if "missing dependencies" in str(error):
            return SourceError(
                f"{self.name} is compressed as {self._syntax.name}, which needs another package: "
                "pip install 'ssmt-edge[dicom]'"
            )
        return SourceError(f"{self.name}: frame {index} of {self.frame_count} cannot be decoded: {error}")

    def _region(self, header: pydicom.Dataset) -> tuple[Roi | None, Spacing | None]:
        """The largest 2D region in pixels, and mm a pixel in x and y; None for what the file does not tell."""
        # PixelSpacing names the distance of rows (y) first
        y, x = (_number(v) for v in (header.get("PixelSpacing") or (None, None)))
        spacing = known_spacing((x, y))
        regions = [
            r for r in header.get("SequenceOfUltrasoundRegions") or [] if r.get("RegionSpatialFormat") == IMAGE_2D
        ]
        if not regions:
            return None, spacing
        region = max(regions, key=lambda r: _box(r).width * _box(r).height)
        box = _box(region)
        overhang = max(box.x + box.width - header.Columns, box.y + box.height - header.Rows, -box.x, -box.y)
        # bounds may count the last pixel or the one after it; more than that means that the image was scaled or cut
        # afterwards, and then the spacing is wrong as well
        if overhang > 2 or min(box.width, box.height) < 2:
            self.notes.append(
                f"{self.name}: its ultrasound region {box.width} x {box.height} at ({box.x}, {box.y}) does not fit the "
                f"{header.Columns} x {header.Rows} image, so its region and spacing are not used"
            )
            return None, None
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRE:
            # a negative delta only says that the axis points the other way
            x, y = (abs(_number(region.get(f"PhysicalDelta{axis}"))) * 10 for axis in "XY")
            spacing = known_spacing((x, y)) or spacing
        return box.clipped((header.Rows, header.Columns)), spacing


def _kind(header: pydicom.Dataset) -> str:
    uid = header.get("SOPClassUID")
    return str(uid.name) if uid is not None else "no SOP class"


def _number(value: Any) -> float:
    """NaN for a missing or empty value."""
    return math.nan if value in (None, "") else float(value)


def _box(region: pydicom.Dataset) -> Roi:
    x0, y0 = int(region.RegionLocationMinX0), int(region.RegionLocationMinY0)
    return Roi(x0, y0, int(region.RegionLocationMaxX1) - x0 + 1, int(region.RegionLocationMaxY1) - y0 + 1)


def _times_ms(header: pydicom.Dataset) -> list[float]:
    """Time of each frame since the first, where the file tells it frame by frame; otherwise empty."""
    steps = header.get("FrameTimeVector")
    if steps is None or isinstance(steps, str):
        return []
    # the first step is the distance to a frame that does not exist; a single value is no list in pydicom
    values = [_number(v) for v in (steps if isinstance(steps, Sequence) else [steps])]
    return list(accumulate(values[1:], initial=0.0))


def _fps(header: pydicom.Dataset) -> float | None:
    times = _times_ms(header)
    if len(times) > 1 and times[-1] > 0:
        return plausible_fps(1e3 * (len(times) - 1) / times[-1])
    frame_time = _number(header.get("FrameTime"))
    rates = [1e3 / frame_time if frame_time else None]
    rates += [_number(header.get(keyword)) for keyword in ("CineRate", "RecommendedDisplayFrameRate")]
    return next((rate for rate in map(plausible_fps, rates) if rate), None)


def _to_8_bit(header: pydicom.Dataset) -> Callable[[NDArray[Any]], Pixels]:
    """What turns a stored frame into uint8 gray [H, W] or RGB [H, W, 3]. ValueError for an unknown kind of colour."""
    photometric = str(header.PhotometricInterpretation)
    bits, signed = int(header.BitsStored), bool(header.get("PixelRepresentation"))
    if photometric == "PALETTE COLOR":
        palette = _palette(header)
        return lambda stored: cast(Pixels, np.take(palette, stored, axis=0))
    if photometric not in ("MONOCHROME1", "MONOCHROME2", "RGB") and not photometric.startswith("YBR"):
        raise ValueError(f"photometric interpretation {photometric}, expected MONOCHROME, RGB, YBR or PALETTE COLOR")
    if photometric.startswith("YBR_PARTIAL"):
        return _from_partial
    lowest, span = -(1 << bits - 1) if signed else 0, (1 << bits) - 1

    def convert(stored: NDArray[Any]) -> Pixels:
        if stored.dtype != np.uint8 or span != 255:
            stored = np.clip((stored.astype(np.float32) - lowest) * (255 / span), 0, 255).round().astype(np.uint8)
        return cast(Pixels, 255 - stored if photometric == "MONOCHROME1" else stored)

    return convert


def _from_partial(ybr: NDArray[Any]) -> Pixels:
    rgb = (ybr.astype(np.float32) - (16, 128, 128)) @ np.linalg.inv(TO_PARTIAL).T
    return cast(Pixels, np.clip(rgb, 0, 255).round().astype(np.uint8))


def _palette(header: pydicom.Dataset) -> Pixels:
    """RGB uint8 [values, 3] for every value that a pixel can have."""
    size = int(header.BitsAllocated) // 8
    values = np.arange(1 << 8 * size).astype(f"u{size}")
    if header.get("PixelRepresentation"):  # index -1 is the last entry
        values = values.view(f"i{size}")
    table = apply_color_lut(values[None], header)[0, :, :3]
    # 16-bit tables hold 16-bit colours, except where a writer put 8-bit colours into them
    deep = table.dtype == np.uint16 and table.max() > 255
    return cast(Pixels, (table >> 8 if deep else table).astype(np.uint8))
