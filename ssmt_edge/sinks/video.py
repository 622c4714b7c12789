"""Overlay video: the frames with contour, tint and both diameters drawn in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ssmt_edge.errors import SinkError
from ssmt_edge.files import temporary_sibling
from ssmt_edge.measure import Line
from ssmt_edge.segment import Result
from ssmt_edge.sinks import writing
from ssmt_edge.sources import ASSUMED_FPS

Image = NDArray[np.uint8]  # RGB [H, W, 3]

CONTOUR = (255, 200, 0)
TINT = np.array((255, 120, 0), np.float32)
DIAMETER = (0, 255, 255)
TEXT = "research use only"


def open_file(path: Path, fps: float | None) -> VideoSink:
    """Raises SinkError if the file cannot be created."""
    return VideoSink(path, fps)


class VideoSink:
    """One video frame a result, at the source's rate and in the first frame's size; others are letterboxed into it.

    H.264 where this build of FFmpeg can write it, else MPEG-4 part 2. Odd sizes are padded by one black line, which
    both codecs ask for.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self._path = path
        # MPEG-4 part 2 allows no finer clock than 1/65535 s
        self._rate = Fraction(fps or ASSUMED_FPS).limit_denominator(1000)
        self._part = temporary_sibling(path)
        self._stream: VideoStream | None = None
        self._frames = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()  # FFmpeg would find out at the first frame only
        self._container = av.open(str(self._part.resolve()), "w")  # FFmpeg takes "a:b.mp4" for a protocol

    def write(self, result: Result) -> None:
        image = draw(result)
        try:
            if self._stream is None:
                self._stream = self._start(image.shape[1], image.shape[0])
            frame = av.VideoFrame.from_ndarray(
                caption(fit(image, self._stream.width, self._stream.height), result), format="rgb24"
            )
            frame.pts = self._frames
            self._container.mux(self._stream.encode(frame))
        except (OSError, av.error.FFmpegError) as error:
            raise SinkError(f"{self._path} cannot be written: {error.strerror}; choose another place") from None
        self._frames += 1

    def _start(self, width: int, height: int) -> VideoStream:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = cast(VideoStream, self._container.add_stream(codec, rate=self._rate))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        # the network needs the cores: one thread encodes fast enough beside it
        stream.codec_context.thread_count = 1
        stream.codec_context.max_b_frames = 0  # AVI cannot say when a frame is shown, only in which order
        if codec == "libx264":
            stream.options = {"preset": "veryfast", "crf": "20"}
        else:
            stream.bit_rate = 8_000_000
        return stream

    def close(self) -> None:
        try:
            try:
                if self._stream is not None:
                    self._container.mux(self._stream.encode(None))
            finally:
                self._container.close()
            if self._frames:
                self._part.replace(self._path)
        except (OSError, av.error.FFmpegError) as error:
            raise SinkError(f"{self._path} cannot be completed: {error.strerror}; choose another place") from None
        finally:
            self._part.unlink(missing_ok=True)


def draw(result: Result) -> Image:
    """The result's frame as RGB [H, W, 3] with mask and diameters drawn in; the frame itself stays as it is."""
    pixels = result.pixels
    image = cast(Image, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels.copy())
    x, y, w, h = cv2.boundingRect(result.mask.view(np.uint8))
    part, mask = image[y : y + h, x : x + w], result.mask[y : y + h, x : x + w]
    part[mask] = (part[mask] * np.float32(0.8) + TINT * 0.2).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    thick = max(1, round(min(image.shape[:2]) / 400))
    cv2.drawContours(image, contours, -1, CONTOUR, thick)
    for nodule in result.nodules:
        for line in (nodule.long_line, nodule.short_line):
            _draw_line(image, line, thick)
    return image


def _draw_line(image: Image, line: Line, thick: int) -> None:
    # ends lie between pixel centres: OpenCV takes fixed point with 4 fractional bits
    start, end = ((round(x * 16), round(y * 16)) for x, y in line)
    cv2.line(image, start, end, DIAMETER, thick, cv2.LINE_AA, shift=4)


def fit(image: Image, width: int, height: int) -> Image:
    """Unchanged where the size is right, padded right and below by the line that makes it even, else letterboxed."""
    h, w = image.shape[:2]
    if (w, h) == (width, height):
        return image
    canvas = np.zeros((height, width, 3), np.uint8)
    if not (width - 1 <= w <= width and height - 1 <= h <= height):
        scale = min(width / w, height / h)
        w, h = max(1, round(w * scale)), max(1, round(h * scale))
        image = cast(Image, cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
        top, left = (height - h) // 2, (width - w) // 2
    else:
        top = left = 0
    canvas[top : top + h, left : left + w] = image
    return canvas


def caption(image: Image, result: Result) -> Image:
    """Writes the text line (largest nodule's diameters, research use only) onto an image, in place."""
    text = TEXT
    if result.nodules:
        n = result.nodules[0]
        if n.long_mm is not None and n.short_mm is not None:
            text = f"{n.long_mm:.1f} x {n.short_mm:.1f} mm, {TEXT}"
        else:
            text = f"{n.long_px:.0f} x {n.short_px:.0f} px, {TEXT}"
    scale = max(0.35, min(image.shape[:2]) / 900)
    x, y = round(8 * scale) + 1, image.shape[0] - round(16 * scale)
    # a black rim keeps it readable on any ground; shifted copies, because OpenCV 5 spaces thicker letters wider
    for dx, dy, gray in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 255)):
        place, colour = (x + dx, y + dy), (gray, gray, gray)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return image
