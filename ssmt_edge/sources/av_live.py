"""Network cameras, streams and frame grabbers through FFmpeg (PyAV): rtsp://, http(s):// and v4l2://."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import parse_qsl

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ssmt_edge.errors import SourceError, SourceLost, UsageError
from ssmt_edge.sources import plausible_fps, without_credentials
from ssmt_edge.sources.live import Live
from ssmt_edge.sources.receiver import OPEN_S, SILENCE_S, Receiver
from ssmt_edge.sources.video import to_pixels

DAMAGED = "damaged packets left out"

# Little time (µs) to find out what the stream is, none to put packets in order. Not with `nobuffer`, which throws away
# the first key frame: what was buffered comes in one go, and the newest frame counts.
LOW_LATENCY = {"analyzeduration": "1000000", "max_delay": "0"}
# TCP, since UDP loses parts of frames; a few frames tell the rate
RTSP = {**LOW_LATENCY, "rtsp_transport": "tcp", "fpsprobesize": "5"}
# JPEG frames over HTTP carry no times, so no rate can be found
HTTP = {**LOW_LATENCY, "fpsprobesize": "0"}

# option of a v4l2:// URI -> what it must look like, FFmpeg's name of it
V4L2_OPTIONS = {
    "size": (r"[1-9]\d*x[1-9]\d*", "video_size", "WIDTHxHEIGHT"),
    "fps": (r"[1-9]\d*(\.\d+)?", "framerate", "frames a second"),
    "format": (r"\w+", "input_format", "mjpeg, yuyv422, h264 ..., see v4l2-ctl --list-formats-ext"),
}


def open_uri(uri: str) -> Live:
    """A live source behind `rtsp://`, `http(s)://` or `v4l2://`, opened again when it is gone.

    The name has no user and password. `v4l2:///dev/video0?size=1280x720&fps=30&format=mjpeg`: all options may be left
    out, the driver then chooses.

    Raises:
        SourceError: the first connection cannot be made.
        UsageError: options that do not exist or cannot be.
    """
    name = without_credentials(uri)
    if uri.startswith("v4l2://"):
        device, options = v4l2_options(uri)
        return Live(name, lambda: AvReceiver(name, device, "v4l2", options))
    options = RTSP if uri.startswith("rtsp:") else HTTP
    return Live(name, lambda: AvReceiver(name, uri, None, options))


def v4l2_options(uri: str) -> tuple[str, dict[str, str]]:
    """Device file and FFmpeg's options of a `v4l2://` URI. Raises UsageError."""
    device, _, query = uri.removeprefix("v4l2://").partition("?")
    if not device.startswith("/"):
        raise UsageError(f"{uri} names no device; expected v4l2:///dev/video0 (three slashes)")
    options = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in V4L2_OPTIONS:
            raise UsageError(f"{uri}: no option {key!r}; expected {', '.join(V4L2_OPTIONS)}")
        pattern, option, meaning = V4L2_OPTIONS[key]
        if not re.fullmatch(pattern, value):
            raise UsageError(f"{uri}: {key} is {value!r}, expected {meaning}")
        options[option] = value
    return device, options


class AvReceiver(Receiver[VideoFrame]):
    """One connection to whatever FFmpeg can open."""

    def __init__(self, name: str, url: str, format: str | None, options: dict[str, str]) -> None:
        """Args: as for `av.open`; `name` is what messages call it. Raises SourceError."""
        super().__init__(name)
        self._url, self._format, self._options = url, format, options
        self._converter = VideoReformatter()
        self.start()

    def receive(self, opened: Callable[[], None]) -> Iterator[tuple[float, VideoFrame]]:
        try:
            container = av.open(
                self._url,
                format=self._format,
                options=self._options,
                timeout=(OPEN_S, SILENCE_S),
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SourceError(f"{self.name} cannot be opened: {_reason(error)}") from None
        with container:
            yield from self._frames(container, opened)

    def _frames(self, container: InputContainer, opened: Callable[[], None]) -> Iterator[tuple[float, VideoFrame]]:
        if not container.streams.video:
            raise SourceError(f"{self.name} has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise SourceError(f"{self.name} sends video in a code that this FFmpeg does not know; send H.264 or JPEG")
        if self._url.startswith("http") and container.duration:
            raise SourceError(
                f"{self.name} is a file of {container.duration / av.time_base:.0f} s and no live stream; save it and "
                "give the file"
            )
        stream.codec_context.thread_count = 1  # the network needs the cores, and several threads hold frames back
        options = {"flags": "+low_delay"}
        if stream.codec_context.name == "mjpeg":  # the rest of a frame that was cut off would be painted gray
            options["err_detect"] = "explode"
        stream.codec_context.options = options
        timed = container.format.name != "mpjpeg"  # whose times FFmpeg makes up, 25 a second
        self.fps = plausible_fps(float(stream.average_rate)) if timed and stream.average_rate else None
        opened()
        clock = _Clock()
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, OSError) as error:
                raise SourceLost(f"{self.name} is gone: {_reason(error)}") from None
            if packet.size == 0:  # the end: nothing may be asked of the decoder any more
                return
            try:
                images = [] if packet.is_corrupt else packet.decode()
            except av.error.FFmpegError:
                images = []
                self.missed(DAMAGED)
            self.missed(DAMAGED, packet.is_corrupt)
            for image in images:
                if image.is_corrupt:
                    self.missed(DAMAGED)
                else:
                    yield clock(image.time if timed else None), image

    def pixels(self, raw: VideoFrame) -> NDArray[np.uint8]:
        return to_pixels(self._converter, raw)


class _Clock:
    """The sender's time stamps, as long as they go like a clock: a jump of more than a second is taken back."""

    def __init__(self) -> None:
        self._shift = 0.0
        self._last: tuple[float, float] | None = None  # stamp, and when it was seen

    def __call__(self, stamp: float | None) -> float:
        """Args: stamp: s; None if there is none."""
        now = time.perf_counter()
        expected = self._last[0] + now - self._last[1] if self._last else stamp or 0.0
        value = expected if stamp is None else stamp + self._shift
        if abs(value - expected) > 1.0:
            self._shift += expected - value
            value = expected
        self._last = (value, now)
        return value


def _reason(error: Exception) -> str:
    """One line, never with the URL, which may hold a password."""
    for kind, reason in (
        (av.error.ExitError, f"no answer within {OPEN_S:g} s, or nothing for {SILENCE_S:g} s"),
        (av.error.HTTPUnauthorizedError, "it wants a user and a password: SCHEME://USER:PASSWORD@HOST/..."),
        (av.error.HTTPForbiddenError, "it refuses this user"),
        (av.error.HTTPNotFoundError, "it has no stream of that name"),
        (ConnectionRefusedError, "connection refused; check that the sender is on, and its port"),
        (FileNotFoundError, "no such device; `ssmt-edge doctor` lists those there are"),
        (PermissionError, "permission denied; on most systems the group `video` may use cameras"),
    ):
        if isinstance(error, kind):
            return reason
    with suppress(AttributeError):
        if error.strerror:  # type: ignore[attr-defined]
            return str(error.strerror)  # type: ignore[attr-defined]
    return type(error).__name__
