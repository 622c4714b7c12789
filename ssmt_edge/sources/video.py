"""Video files, through FFmpeg (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ssmt_edge.errors import SourceError
from ssmt_edge.sources import ASSUMED_FPS, Frame, plausible_fps
from ssmt_edge.sources.base import BaseSource

# from PyAV 17 on colours are converted by a thread a core unless told otherwise, which is slower than one alone
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


def open_file(path: Path) -> VideoSource:
    """Raises SourceError for a file that is no video."""
    return VideoSource(path)


class VideoSource(BaseSource):
    """Every frame of a video file that can be decoded, with its own time stamp; damaged packets are left out."""

    def __init__(self, path: Path, content: BinaryIO | None = None) -> None:
        """Args: content: an opened, seekable file that holds the video, where it is a part of `path` only."""
        super().__init__(str(path))
        self.path = path
        try:
            # FFmpeg takes "a:b.mp4" for a protocol
            self._container = av.open(content or str(path.resolve()), mode="r", metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise SourceError(f"{path} is not a readable video ({error.strerror}); give a video file") from None
        # FFmpeg would also paint text files ("tty")
        if not self._container.streams.video or self._container.format.name == "tty":
            self._container.close()
            raise SourceError(f"{path} has no video stream; give a video file")
        self._converter = VideoReformatter()
        self._stream = self._container.streams.video[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise SourceError(f"{path} holds video in a code that this FFmpeg does not know; convert it, e.g. to H.264")
        # the network needs the cores: one thread decodes fast enough beside it
        self._stream.codec_context.thread_count = 1
        rate = self._stream.average_rate
        self.fps = plausible_fps(float(rate) if rate else None)
        self.frame_count = self._stream.frames or None

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        index = 0
        for image in self._decoded():
            time = image.time if image.time is not None else index / (self.fps or ASSUMED_FPS)
            start = time if start is None else start
            yield Frame(index, (time - start) * 1e3, to_pixels(self._converter, image))
            index += 1
        if index == 0:
            raise SourceError(f"{self.name}: not one frame could be decoded; the file is damaged or cut short")

    def _decoded(self) -> Iterator[VideoFrame]:
        damaged = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except av.error.FFmpegError as error:
                self.notes.append(f"{self.name} cannot be read to its end ({error.strerror})")
                break
            try:
                images = packet.decode()
            except av.error.FFmpegError:
                damaged += 1
                continue
            yield from images
        # frames that the decoder holds back; EOFError where the last, empty packet has already brought them out
        with suppress(av.error.FFmpegError):
            yield from self._stream.codec_context.decode(None)
        if damaged:
            self.notes.append(f"{self.name}: {damaged} damaged packets left out")

    def close(self) -> None:
        self._container.close()


def to_pixels(converter: VideoReformatter, image: VideoFrame) -> NDArray[np.uint8]:
    """Gray [H, W] of a gray frame, otherwise RGB [H, W, 3]; `converter` is kept for the next frame."""
    layout = "gray" if image.format.name.startswith("gray") else "rgb24"
    return cast("NDArray[np.uint8]", converter.reformat(image, format=layout, **ONE_THREAD).to_ndarray())
