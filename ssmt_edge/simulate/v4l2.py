"""A probe that is a camera device: frames written to the kernel module v4l2loopback, as from a frame grabber."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

import av
import av.error
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ssmt_edge.errors import SourceError
from ssmt_edge.sources import Frame

HINT = "sudo modprobe v4l2loopback video_nr=10 exclusive_caps=1 makes /dev/video10 (package v4l2loopback-dkms)"


def open_probe(uri: str, fps: float) -> V4l2Probe:
    """`v4l2:///dev/videoN`, a device of v4l2loopback. Raises SourceError for anything else."""
    return V4l2Probe(uri, fps)


@dataclass(frozen=True)
class Picture:
    image: VideoFrame

    @property
    def nbytes(self) -> int:
        return self.image.width * self.image.height * 3 // 2


class V4l2Probe:
    """4:2:0, in the first frame's size without an odd line. Every frame counts as sent: readers are unknown."""

    clients = 1
    skipped = 0

    def __init__(self, uri: str, fps: float) -> None:
        self._device = Path(urlsplit(uri).path)
        if not self._device.is_char_device():
            raise SourceError(f"{uri}: {self._device} is no camera device; {HINT}")
        self.address = f"v4l2://{self._device}"
        self.sent = 0
        self._rate = Fraction(fps).limit_denominator(1000)
        try:
            self._container = av.open(str(self._device), "w", format="v4l2")
        except (ValueError, OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{uri} cannot be opened ({error}); {HINT}") from None
        self._stream: VideoStream | None = None

    def pack(self, frame: Frame) -> Picture:
        layout = "gray" if frame.pixels.ndim == 2 else "rgb24"
        image = VideoFrame.from_ndarray(frame.pixels, format=layout)
        if self._stream is None:
            self._stream = self._container.add_stream("rawvideo", rate=self._rate)
            self._stream.width, self._stream.height = image.width & ~1, image.height & ~1
            self._stream.pix_fmt = "yuv420p"
        return Picture(image.reformat(self._stream.width, self._stream.height, "yuv420p"))

    def send(self, packed: Picture, number: int, stamp: float) -> None:
        assert self._stream is not None
        packed.image.pts = number
        try:
            self._container.mux(self._stream.encode(packed.image))
        except (OSError, av.error.FFmpegError) as error:
            raise SourceError(f"{self.address} takes no frames ({error}); {HINT}") from None
        self.sent += 1

    def close(self) -> None:
        self._container.close()
