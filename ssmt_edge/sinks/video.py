"""Overlay video: the frames with nodules drawn in, at the times of the source."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.error
from av.video.frame import PictureType
from av.video.stream import VideoStream

from ssmt_edge.overlay import caption, cut, draw, fit
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext
from ssmt_edge.sinks.base import GrowingFile
from ssmt_edge.sources import ASSUMED_FPS

FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".avi": "avi"}

CLOCK = 60_000
"""ticks a second of MP4 and Matroska: whole for 24, 25, 30, 50, 60 and 30000/1001 frames a second, and MPEG-4 part 2
allows no finer clock than 1/65535 s"""

AVI_FPS = 60
"""slots a second of an AVI from a source that does not tell its rate"""

GAP_S = 3600
"""seconds between two frames at most; a longer gap is left out, because MP4 counts it in 32 bits"""

AVI_GAP_S = 10
"""the same for AVI, which is filled with repeated frames"""


def open_file(path: Path, context: SinkContext) -> VideoSink:
    """Raises SinkError if the file cannot be created."""
    return VideoSink(path, context)


class VideoSink(GrowingFile):
    """One video frame a result, in the first frame's size; others are letterboxed into it.

    MP4 and Matroska show every frame at its own time, so that a frame left out makes no film faster. AVI knows a
    constant rate only: a frame goes into the next free slot at or after its time, and the frame before it is repeated
    until then.

    What was written until a kill or a failure stays readable, but for the last second: every second starts with a key
    frame, with which MP4 (fragments) and Matroska (clusters) write out the second before. A finished MP4 is an ordinary
    one with PyAV >= 14, and stays in fragments with an older one.

    H.264 where this build of FFmpeg can write it, else MPEG-4 part 2. Odd sizes are padded by one black line, which
    both codecs ask for.
    """

    def __init__(self, path: Path, context: SinkContext) -> None:
        super().__init__(path)
        self._style, self._uncut = context.overlay, context.uncut
        kind = FORMATS[path.suffix.lower()]
        self._rate = Fraction(context.fps or (AVI_FPS if kind == "avi" else ASSUMED_FPS)).limit_denominator(1000)
        self._repeats = kind == "avi"
        self._clock = Clock(self._rate, AVI_GAP_S) if self._repeats else Clock(Fraction(CLOCK), GAP_S)
        self._shown: av.VideoFrame | None = None
        self._stream: VideoStream | None = None
        self._key: int | None = None
        self._file = OutputFile(self.part)
        self._container = av.open(self._file, "w", format=kind, options=_options(kind))

    def _add(self, result: Result) -> None:
        seen = result if self._uncut else cut(result)
        image = draw(seen, self._style)
        if self._stream is None:
            self._stream = self._start(image.shape[1], image.shape[0])
        image = caption(fit(image, self._stream.width, self._stream.height), seen, self._style)
        before, stamp = self._clock.last, self._clock.stamp(result.t_source_ms)
        if self._shown is not None and self._repeats:
            for slot in range(before + 1, stamp):
                self._encode(self._shown, slot)
        self._shown = av.VideoFrame.from_ndarray(image, format="rgb24")
        self._encode(self._shown, stamp)

    def _encode(self, frame: av.VideoFrame | None, stamp: int = 0) -> None:
        """One frame, or with None what the encoder still holds."""
        assert self._stream is not None
        if frame is not None:
            frame.pts, frame.time_base = stamp, 1 / self._clock.ticks
            frame.pict_type = PictureType.NONE
            if self._key is None or stamp - self._key >= self._clock.ticks:
                frame.pict_type = PictureType.I
                self._key = stamp
        try:
            for packet in self._stream.encode(frame):
                packet.duration = max(1, round(self._clock.ticks / self._rate))  # how long the last one is shown
                self._container.mux(packet)
                self._file.keep()
        except (OSError, av.error.FFmpegError) as error:
            raise self._file.failure or OSError(error.errno, error.strerror) from None

    def _start(self, width: int, height: int) -> VideoStream:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = cast(VideoStream, self._container.add_stream(codec, rate=self._rate))
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self._clock.ticks
        # the network needs the cores: one thread encodes fast enough beside it
        context.thread_count = 1
        context.max_b_frames = 0  # AVI cannot say when a frame is shown, only in which order
        context.gop_size = 600  # key frames come by time
        if codec == "libx264":
            # zerolatency: no frames wait in the encoder, where a kill would lose them
            stream.options = {"preset": "veryfast", "crf": "20", "tune": "zerolatency"}
        else:
            stream.bit_rate = 8_000_000
        return stream

    def _complete(self) -> None:
        try:
            if self._failed:  # what is on the disk is readable; the file takes nothing more, the trailer neither
                self._file.failure = self._file.failure or OSError()
            elif self._stream is not None:
                self._encode(None)
            try:
                self._container.close()
            except (OSError, av.error.FFmpegError) as error:
                raise self._file.failure or OSError(error.errno, error.strerror) from None
        finally:
            self._file.close()
            if self._file.failure and not _readable(self.part):
                self._written = 0  # it failed before the first second was complete


def _readable(path: Path) -> bool:
    try:
        with av.open(str(path.resolve())) as video:  # FFmpeg takes "a:b.mp4" for a protocol
            return any(packet.size for packet in video.demux(video=0))
    except (OSError, av.error.FFmpegError, IndexError):
        return False


def _options(kind: str) -> dict[str, str]:
    """What makes FFmpeg put a second's frames on the disk as soon as they are complete."""
    options = {}
    if kind == "mp4":
        hybrid = av.library_versions["libavformat"] >= (61, 7, 100)  # FFmpeg 7.1, PyAV 14
        options["movflags"] = "+frag_keyframe+" + ("hybrid_fragmented" if hybrid else "empty_moov+default_base_moof")
    elif kind == "matroska":
        options["cluster_time_limit"] = "1000"  # ms
    return options


class Clock:
    """Time stamps from the source's times: whole ticks, counted from the first frame, always growing.

    Args:
        ticks: a second.
        gap_s: seconds between two frames at most.
    """

    def __init__(self, ticks: Fraction, gap_s: float) -> None:
        self.ticks = ticks
        self.last = -1
        """the newest stamp"""
        self._gap_s = gap_s
        self._origin_ms: float | None = None

    def stamp(self, t_source_ms: float) -> int:
        """A time before the last one by more than a second (a source that starts over), and one farther ahead than
        the largest gap, count as the next tick, and later times from there."""
        if self._origin_ms is None:
            self._origin_ms = t_source_ms
        stamp = round((t_source_ms - self._origin_ms) * self.ticks / 1000)
        if not -1 <= (stamp - self.last) / self.ticks <= self._gap_s:
            stamp = self.last + 1
            self._origin_ms = t_source_ms - float(stamp * 1000 / self.ticks)
        self.last = max(stamp, self.last + 1)
        return self.last


class OutputFile:
    """An unbuffered file for FFmpeg that goes back to what `keep` saw at the first failure, and takes nothing more.

    Half a fragment, a trailer in part, or one over what is there already would make a readable file unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._kept = 0
        self.failure: OSError | None = None

    def keep(self) -> None:
        """What is in the file now is whole."""
        self._kept = os.fstat(self._file.fileno()).st_size

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left and self.failure is None:
            try:
                left = left[self._file.write(left) :]
            except OSError as error:
                self.failure = error
                with suppress(OSError):
                    self._file.truncate(self._kept)
                raise
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        with suppress(OSError):  # every write reached the system or raised
            self._file.close()
