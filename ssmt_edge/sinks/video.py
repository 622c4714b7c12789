"""Overlay video: the frames with contour, tint and both diameters drawn in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.video.stream import VideoStream

from ssmt_edge.errors import SinkError
from ssmt_edge.files import temporary_sibling
from ssmt_edge.overlay import caption, draw, fit
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, writing
from ssmt_edge.sources import ASSUMED_FPS


def open_file(path: Path, context: SinkContext) -> VideoSink:
    """Raises SinkError if the file cannot be created."""
    return VideoSink(path, context)


class VideoSink:
    """One video frame a result, at the source's rate and in the first frame's size; others are letterboxed into it.

    H.264 where this build of FFmpeg can write it, else MPEG-4 part 2. Odd sizes are padded by one black line, which
    both codecs ask for.
    """

    def __init__(self, path: Path, context: SinkContext) -> None:
        self._path = path
        # MPEG-4 part 2 allows no finer clock than 1/65535 s
        self._rate = Fraction(context.fps or ASSUMED_FPS).limit_denominator(1000)
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
