"""A probe that speaks OpenIGTLink: one IMAGE message a frame, with the frame's number."""

from __future__ import annotations

from ssmt_edge.errors import SourceError
from ssmt_edge.network.addresses import host_and_port
from ssmt_edge.network.openigtlink import NUMBER, PORT, Content, pack_image, pack_message
from ssmt_edge.network.server import FeedServer, SendParts
from ssmt_edge.simulate.base import FeedProbe
from ssmt_edge.sources import Frame

DEVICE = "Image"


def open_probe(uri: str, fps: float) -> IgtlProbe:
    """`igtl://[HOST][:18944]`. Raises SourceError where nothing can listen there."""
    return IgtlProbe(uri)


class IgtlProbe(FeedProbe[tuple[bytes, ...]]):
    """The number is the metadata `FrameNumber` and the message id; a client that is too slow sees a gap."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._server = FeedServer(*host_and_port(uri, PORT, SourceError), self.feed, SendParts, SourceError)
        self.address = "igtl://{}:{}".format(*self._server.address)

    def pack(self, frame: Frame) -> Content:
        return pack_image(frame.pixels, frame.spacing_mm)

    def send(self, packed: Content, number: int, stamp: float) -> None:
        self.feed.publish(pack_message(packed, DEVICE, stamp, number, {NUMBER: str(number)}))

    def close(self) -> None:
        self._server.close()
