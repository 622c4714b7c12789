"""A probe that is an RTSP camera: GStreamer's RTSP server, in a process of the Python that has its bindings.

Debian and JetPack install those bindings for the system's Python only; pip has no wheels of the server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from typing import cast
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import MissingDependency, SourceError
from ssmt_edge.network.addresses import host_and_port
from ssmt_edge.network.server import FAREWELL_S
from ssmt_edge.simulate import rtsp_server
from ssmt_edge.simulate.base import FeedProbe
from ssmt_edge.sources import Frame

PORT = 8554
START_S = 20.0
"""for the process to listen"""
END_S = 5.0
"""for the process to end by itself"""
PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
NOT_INSTALLED = f"GStreamer's RTSP server is not installed: apt install {PACKAGES}"


def open_probe(uri: str, fps: float) -> RtspProbe:
    """`rtsp://[HOST][:8554][/probe]`.

    Raises:
        SourceError: nothing can listen there.
        MissingDependency: GStreamer's RTSP server is not installed.
    """
    return RtspProbe(uri, fps)


@dataclass(frozen=True)
class Picture:
    pixels: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


class RtspProbe(FeedProbe[NDArray[np.uint8]]):
    """H.264 without look-ahead, or JPEG where x264 is missing. All frames have the first one's size, made even.

    What the server's process was given while somebody watched counts as sent: it does not tell what arrived.
    """

    def __init__(self, uri: str, fps: float) -> None:
        super().__init__()
        host, port = host_and_port(uri, PORT, SourceError)
        path = urlsplit(uri).path.rstrip("/") or "/probe"
        self._fps = fps
        self._size: tuple[int, int] | None = None
        self._clients = 0
        self._process, port = _start(host, port, path)
        self.address = f"rtsp://{host}:{port}{path}"
        threading.Thread(target=self._listen, name="ssmt-rtsp-clients", daemon=True).start()
        self._writer = threading.Thread(target=self._write, name="ssmt-rtsp", daemon=True)

    @property
    def clients(self) -> int:
        """1 while anybody watches: all share one stream."""
        return self._clients

    def pack(self, frame: Frame) -> Picture:
        # 4 bytes a pixel: GStreamer wants rows of others padded, and takes gray for video's 16..235
        pixels = cv2.cvtColor(frame.pixels, cv2.COLOR_GRAY2RGBA if frame.pixels.ndim == 2 else cv2.COLOR_RGB2RGBA)
        height, width = pixels.shape[:2]
        if self._size is None:
            self._size = width + width % 2, height + height % 2
            self._send_bytes("{} {} {}\n".format(*self._size, self._fps).encode())
            self._writer.start()
        right, below = self._size[0] - width, self._size[1] - height
        if right in (0, 1) and below in (0, 1):
            pixels = cv2.copyMakeBorder(pixels, 0, below, 0, right, cv2.BORDER_CONSTANT)
        else:  # a source that changes its size on the way
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_AREA)
        return Picture(cast("NDArray[np.uint8]", pixels))

    def send(self, packed: Picture, number: int, stamp: float) -> None:
        if self._process.poll() is not None:
            raise SourceError(f"{self.address}: GStreamer's RTSP server ended with code {self._process.returncode}")
        if self._clients:
            self.feed.publish(packed.pixels)

    def _write(self) -> None:
        with self.feed.receive() as pictures:
            for pixels in pictures:
                self._send_bytes(pixels.tobytes())

    def _send_bytes(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # the process has ended, which `send` reports
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"clients "):
                self._clients = int(line.split()[1])

    def close(self) -> None:
        self.feed.end(FAREWELL_S)
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start(host: str, port: int, path: str) -> tuple[subprocess.Popen[bytes], int]:
    """The server's process and the port on which it listens."""
    for python in _pythons():
        process = subprocess.Popen(
            [python, rtsp_server.__file__, host, str(port), path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        words = _first_line(process).split(maxsplit=1)
        if words[:1] == ["listening"]:
            return process, int(words[1])
        with process:
            process.kill()
        if process.returncode == rtsp_server.MISSING:
            continue
        why = words[1] if words[:1] == ["error"] else "it does not start"
        raise SourceError(f"rtsp://{host}:{port}: GStreamer's RTSP server: {why}; choose another port or address")
    raise MissingDependency(NOT_INSTALLED)


def python_with_server() -> str | None:
    """The interpreter that has GStreamer's RTSP server; None if there is none."""
    for python in _pythons():
        with suppress(subprocess.TimeoutExpired):
            asked = subprocess.run([python, rtsp_server.__file__], capture_output=True, timeout=START_S)
            if asked.returncode == 0:
                return python
    return None


def _pythons() -> list[str]:
    found = (sys.executable, shutil.which("python3", path="/usr/bin"), shutil.which("python3"))
    return list(dict.fromkeys(filter(None, found)))


def _first_line(process: subprocess.Popen[bytes]) -> str:
    """What a process says first; nothing if it ends or takes longer than START_S."""
    assert process.stdout is not None
    lines: Queue[bytes] = Queue()
    reader = process.stdout
    threading.Thread(target=lambda: lines.put(reader.readline()), daemon=True).start()
    try:
        return lines.get(timeout=START_S).decode().strip()
    except Empty:
        return ""
