"""Images of an OpenIGTLink server (a scanner, PLUS, 3D Slicer, `ssmt-edge simulate`): `igtl://HOST:PORT?device=NAME`.

`pyigtl` takes messages apart. The receiving loop is our own, because its client keeps one message a device and
overwrites it.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import DataError, SourceError, SourceLost
from ssmt_edge.network.addresses import host_and_port, reason
from ssmt_edge.network.crc64 import crc64
from ssmt_edge.network.openigtlink import HEADER, NUMBER, PORT
from ssmt_edge.packages import extra_of
from ssmt_edge.sources import Frame, known_spacing, without_credentials
from ssmt_edge.sources.base import BaseSource
from ssmt_edge.sources.live import Live

LARGEST = 256 << 20
"""bytes of a message; more cannot be meant"""
PATIENCE_S = 5.0
"""for a connection to be made"""
LONGEST_GAP = 100_000
"""frames; a number that goes back, or ahead by more, starts a new count"""
NAMED = 4
"""devices that send something else are named, at most so many"""
NOTHING = "it is connected, but the server sends nothing"
LONGEST_PAUSE_S = 3600.0
"""between two frames; time stamps further apart mean that the sender's clock was set"""


def open_uri(uri: str) -> Live:
    """`igtl://[HOST][:18944][?device=NAME]`; without a name, the device that sends the first image.

    Raises:
        SourceError: no such address, or nobody there.
        MissingDependency: `pyigtl` is not installed.
    """
    _pyigtl()
    host, port = host_and_port(uri, PORT, SourceError)
    name = without_credentials(uri)
    options = parse_qs(urlsplit(uri).query)
    device = options.pop("device", [None])[0]
    if options:
        raise SourceError(f"{name}: unknown option {next(iter(options))!r}, expected device=NAME")
    sender = Sender(name, host, port, device, chosen=device is not None)
    return Live(name, lambda: IgtlConnection(sender))


class Numbering:
    """Indices of frames from 0, with gaps where the sender's own numbers have some; they outlast a lost connection."""

    def __init__(self) -> None:
        self._index = -1
        self._number: int | None = None

    @property
    def begun(self) -> bool:
        return self._index >= 0

    def index(self, number: int | None, missed: int) -> int:
        """The next frame's index.

        Args:
            number: the sender's; None if it does not number its frames.
            missed: frames since the last one that could not be used; they count where there are no numbers.
        """
        ahead = 1 + missed
        if number is not None:
            step = 0 if self._number is None else number - self._number
            ahead = step if 1 <= step <= LONGEST_GAP else 1
        self._number = number
        self._index += ahead
        return self._index


@dataclass
class Sender:
    """Whom to ask, and what is remembered of it over connections."""

    uri: str
    host: str
    port: int
    device: str | None
    """whose images are wanted; None until the first image decides it"""
    chosen: bool
    """the user named the device"""
    numbering: Numbering = field(default_factory=Numbering)


class Clock:
    """Milliseconds since the first frame by the sender's time stamps; by their arrival where a stamp makes no sense."""

    def __init__(self) -> None:
        self._t_ms = 0.0
        self._last: tuple[float, float] | None = None

    def t_ms(self, stamp: float) -> float:
        """Args: stamp: seconds by the sender's clock, which may have been set in between or stand still."""
        arrival = time.perf_counter()
        if self._last is not None:
            step = stamp - self._last[0]
            self._t_ms += 1e3 * (step if 0 < step <= LONGEST_PAUSE_S else arrival - self._last[1])
        self._last = stamp, arrival
        return self._t_ms


class IgtlConnection(BaseSource):
    """Image messages of one TCP connection. A damaged one (checksum, content) is left out and counted.

    Raises SourceError if nobody listens there. The iteration raises SourceLost when the connection is gone or what
    comes is no longer OpenIGTLink, and DataError if the first image is of a kind that is not supported.
    """

    live = True
    numbered = True
    """`Frame.index` has the gaps of the sender's numbers"""

    def __init__(self, sender: Sender) -> None:
        super().__init__(sender.uri)
        self.counts: Counter[str] = Counter()
        """what was left out -> how often"""
        self.waiting = NOTHING
        self._others: dict[str, None] = {}  # what the server sent since the last frame and is no frame, each once
        self._sender = sender
        self._missed = 0
        self._closed = False
        try:
            self._socket = socket.create_connection((sender.host, sender.port), PATIENCE_S)
        except (OSError, OverflowError) as error:
            place = f"{sender.host}:{sender.port}"
            raise SourceError(
                f"{sender.uri}: no OpenIGTLink server at {place} ({reason(error)}); start it first"
            ) from None
        self._socket.settimeout(None)
        # a scanner that is frozen sends nothing for a long time; one whose cable is pulled must be told from it
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 3), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                self._socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def __iter__(self) -> Iterator[Frame]:
        clock = Clock()
        try:
            while True:
                if (received := self._image()) is None:
                    continue
                message, pixels = received
                self._sender.device = message.device_name
                index = self._sender.numbering.index(_number(message.metadata), self._missed)
                self._missed = 0
                self._others.clear()
                self.waiting = NOTHING
                yield Frame(index, clock.t_ms(message.timestamp), pixels, _spacing(message.ijk_to_world_matrix))
        except (OSError, EOFError) as error:
            if not self._closed:
                raise SourceLost(f"{self.name} is gone ({reason(error)})") from None

    def _image(self) -> tuple[Any, NDArray[np.uint8]] | None:
        """The next message and its pixels; None unless it is a whole image that is wanted.

        Raises EOFError at the end of the connection.
        """
        header = bytes(self._bytes(HEADER.size))
        _, kind, device, _, _, size, crc = HEADER.unpack(header)
        name = kind.rstrip(b"\0 ")
        if size > LARGEST or not name.replace(b"_", b"").isalnum():
            raise SourceLost(f"{self.name}: what comes is no OpenIGTLink message (type {kind!r}, {size} bytes)")
        body = self._bytes(size)
        if name != b"IMAGE":
            self._came(f"{_text(device)} ({_text(kind)})")
            return None
        message = _pyigtl().ImageMessage()
        try:
            fields = _pyigtl().MessageBase.parse_header(header)
            if not self._wanted(fields["device_name"]):
                return None
            # zero: a sender that makes none
            if fields["header_version"] not in (1, 2) or (crc and crc64(body) != crc):
                raise ValueError
            with np.errstate(invalid="ignore"):  # a matrix without sense is only a spacing that is not known
                message.unpack(fields, body)
            return message, _pixels(message.image, self.name)
        except NotImplementedError:
            self._refuse(
                DataError(f"{self.name} sends parts of images, expected whole ones; change that at the sender")
            )
        except DataError as error:
            self._refuse(error)
        except Exception:  # whatever pyigtl makes of nonsense
            self._came("damaged images")
            self._miss("damaged images left out")
        return None

    def _refuse(self, error: DataError) -> None:
        """Raises the error if every image is like that, so that somebody hears of it; else only leaves this one out."""
        if not self._sender.numbering.begun:
            raise error from None
        self._came(str(error).removeprefix(f"{self.name} sends "))
        self._miss("images of another kind left out")

    def _came(self, what: str) -> None:
        """Something that is no frame; told when nothing else comes."""
        if what not in self._others and len(self._others) <= NAMED:
            self._others[what] = None
            names = list(self._others)
            self.waiting = f"this server sends {', '.join(names[:NAMED])}{' ...' if len(names) > NAMED else ''}"

    def _miss(self, what: str) -> None:
        self.counts[what] += 1
        self._missed += 1

    def _wanted(self, device: str) -> bool:
        wanted = self._sender.device in (None, device)
        if not wanted:
            self._came(device)
        if not wanted and not self._sender.chosen:
            self.counts[f"images of devices other than {self._sender.device!r} left out; ?device=NAME chooses"] += 1
        return wanted

    def _bytes(self, size: int) -> bytearray:
        """EOFError where the connection ends before."""
        got = bytearray(size)
        view, there = memoryview(got), 0
        while there < size:
            count = self._socket.recv_into(view[there:], 0, getattr(socket, "MSG_WAITALL", 0))
            if not count:
                raise EOFError("closed by the server")
            there += count
        return got

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):  # not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes up who waits for bytes
        self._socket.close()


def _pixels(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Gray [H, W] or RGB [H, W, 3] of an image [k, j, i] or [k, j, i, components]. Raises DataError for other kinds."""
    slices, components = image.shape[0], image.shape[3] if image.ndim == 4 else 1
    if image.dtype != np.uint8 or slices != 1 or components not in (1, 3) or image.size == 0:
        raise DataError(
            f"{name} sends images of {' x '.join(map(str, image.shape[2::-1]))} {image.dtype} with {components} "
            "components, expected uint8, one slice, 1 (gray) or 3 (RGB) components; change that at the sender"
        )
    return cast("NDArray[np.uint8]", image[0])


def _spacing(matrix: NDArray[Any]) -> tuple[float, float] | None:
    """mm a pixel in x and y: the lengths of the matrix' columns.

    None unless both are finite and above 0, and for lengths of exactly 1: that is what senders without a calibration
    put there, and no ultrasound has pixels of a millimetre.
    """
    x, y = (float(np.linalg.norm(matrix[:3, column].astype(np.float64))) for column in (0, 1))
    return None if abs(x - 1) < 1e-6 and abs(y - 1) < 1e-6 else known_spacing((x, y))


def _text(field: bytes) -> str:
    """What a field of the header says, in characters that can be printed."""
    text = field.rstrip(b"\0 ").decode("ascii", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _number(metadata: dict[str, str]) -> int | None:
    text = metadata.get(NUMBER, "").strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


def _pyigtl() -> Any:
    try:
        import pyigtl
    except ModuleNotFoundError as error:
        raise extra_of(error) from None
    return pyigtl
