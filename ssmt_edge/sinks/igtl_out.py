"""Frames and masks for 3D Slicer and others: an OpenIGTLink server, `igtl-out://[HOST][:18945]`."""

from __future__ import annotations

import time

import numpy as np

from ssmt_edge.errors import SinkError
from ssmt_edge.network.addresses import host_and_port
from ssmt_edge.network.feed import Feed
from ssmt_edge.network.openigtlink import NUMBER, pack_image, pack_message
from ssmt_edge.network.server import FeedServer, SendParts
from ssmt_edge.overlay import cut
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext

PORT = 18945
IMAGE, MASK = "Image", "Mask"


def open_uri(uri: str, context: SinkContext) -> IgtlSink:
    """Only this machine can connect unless a host is given, e.g. 0.0.0.0. Raises SinkError where nothing can listen."""
    return IgtlSink(uri, context)


class IgtlSink:
    """Each result as two IMAGE messages of one size, matrix, time stamp and `FrameNumber`: `Image`, the frame cut to
    the scan area (whole with `context.uncut`), gray or RGB; `Mask`, gray, 255 in the nodule, 0 elsewhere.

    Millimetres, and where the part lies in the frame, are in the matrix; without a spacing it counts in pixels. The
    time is that of capture. A client that is too slow gets the newest results and sees from the numbers what it missed.
    """

    def __init__(self, uri: str, context: SinkContext) -> None:
        self._feed: Feed[tuple[bytes, ...]] = Feed()
        self._server = FeedServer(*host_and_port(uri, PORT, SinkError), self._feed, SendParts, SinkError)
        self._uncut = context.uncut
        self.address = "{}:{}".format(*self._server.address)

    def write(self, result: Result) -> None:
        if not self._feed.receivers:
            return
        corner = (0, 0) if self._uncut else (result.roi.x, result.roi.y)
        shown = result if self._uncut else cut(result)
        stamp = time.time() - max(0.0, time.perf_counter() - result.captured) if result.captured else time.time()
        parts: list[bytes] = []
        for device, pixels in ((IMAGE, shown.pixels), (MASK, shown.mask.astype(np.uint8) * np.uint8(255))):
            content = pack_image(pixels, result.spacing_mm, corner)
            parts += pack_message(content, device, stamp, result.frame, {NUMBER: str(result.frame)})
        self._feed.publish(tuple(parts))

    def close(self) -> None:
        self._server.close()
