"""A simulated probe: any source, played as a live one over a network or a camera device.

A new protocol is one module with `open_probe(uri, fps) -> Probe` and one line in `PROTOCOLS`.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from ssmt_edge.errors import UsageError
from ssmt_edge.sources import Frame

# scheme of a URI -> module whose `open_probe(uri, fps)` plays as that
PROTOCOLS = {
    "igtl": "ssmt_edge.simulate.igtl",
    "mjpeg": "ssmt_edge.simulate.mjpeg",
    "rtsp": "ssmt_edge.simulate.rtsp",
    "v4l2": "ssmt_edge.simulate.v4l2",
}


class Probe(Protocol):
    """Sends frames to whoever is connected, and never waits for them."""

    address: str
    """the URI under which clients find it"""

    @property
    def clients(self) -> int: ...

    @property
    def sent(self) -> int:
        """Frames that at least one client took."""
        ...

    @property
    def skipped(self) -> int:
        """How often a client did not get a frame, because it was too slow or left while the frame waited."""
        ...

    def pack(self, frame: Frame) -> Any:
        """What is sent of a frame, apart from its number and time, which change when a source is played in a loop.

        Its `nbytes` tells how much memory it takes.
        """
        ...

    def send(self, packed: Any, number: int, stamp: float) -> None:
        """Args: packed: by `pack`; number: of the frame, from 0; stamp: when it was taken, seconds since 1970."""
        ...

    def close(self) -> None:
        """Gives clients a second to take the last frames; frees the port."""
        ...


def open_probe(uri: str, fps: float) -> Probe:
    """Starts to listen at a URI; only this machine can connect unless it names a host, e.g. 0.0.0.0.

    Args:
        uri: `igtl://[HOST][:18944]`, `rtsp://[HOST][:8554][/probe]`, `mjpeg://[HOST][:8080]` or `v4l2:///dev/videoN`.
        fps: frames a second, for protocols that declare them.

    Raises:
        UsageError: no such protocol or address, or it cannot be listened on.
        MissingDependency: what the protocol needs is not installed.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in PROTOCOLS:
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise UsageError(f"{uri!r} is no kind of probe; expected one of {known}")
    module: Any = importlib.import_module(PROTOCOLS[scheme])
    return cast(Probe, module.open_probe(uri, fps))
