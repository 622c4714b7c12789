"""A probe that is a web camera: JPEG over HTTP, `multipart/x-mixed-replace`, as browsers and FFmpeg read it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

import cv2

from ssmt_edge.errors import SourceError
from ssmt_edge.network.addresses import host_and_port
from ssmt_edge.network.server import FeedServer, gone
from ssmt_edge.simulate.base import FeedProbe
from ssmt_edge.sources import Frame

PORT = 8080
QUALITY = 95
BOUNDARY = "frame"


def open_probe(uri: str, fps: float) -> MjpegProbe:
    """`mjpeg://[HOST][:8080]`. Raises SourceError where nothing can listen there."""
    return MjpegProbe(uri)


@dataclass(frozen=True)
class Jpeg:
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


class MjpegProbe(FeedProbe[tuple[bytes, ...]]):
    """Every part has the header `X-Frame-Number`. JPEG of quality 95: the pixels are nearly the source's."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._server = FeedServer(*host_and_port(uri, PORT, SourceError), self.feed, _Client, SourceError)
        self.address = "http://{}:{}/".format(*self._server.address)

    def pack(self, frame: Frame) -> Jpeg:
        pixels = frame.pixels if frame.pixels.ndim == 2 else cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR)
        done, encoded = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
        if not done:
            raise SourceError(f"a frame of {pixels.shape[1]} x {pixels.shape[0]} cannot be a JPEG; use igtl://")
        return Jpeg(encoded.tobytes())

    def send(self, packed: Jpeg, number: int, stamp: float) -> None:
        fields = {
            "Content-Type": "image/jpeg",
            "Content-Length": packed.nbytes,
            "X-Frame-Number": number,
            "X-Timestamp": f"{stamp:.6f}",
        }
        head = f"--{BOUNDARY}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        self.feed.publish((head.encode(), packed.data, b"\r\n"))

    def close(self) -> None:
        self._server.close()


class _Client(BaseHTTPRequestHandler):
    server: FeedServer

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        with suppress(OSError), self.server.feed.receive() as pictures:
            for parts in pictures:
                if gone(self.connection):
                    return
                for part in parts:
                    self.wfile.write(part)
            self.wfile.write(f"--{BOUNDARY}--\r\n".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing about who connects."""
