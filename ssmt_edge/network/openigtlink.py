"""OpenIGTLink IMAGE messages, as they are sent. Format: openigtlink.org/protocols/v2_header.html and v2_image.html.

A message is packed in two steps, so that an image which is sent again under another number costs next to nothing: its
checksum, the expensive part, is put together from that of the unchanged content.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.network.crc64 import crc64, joined

PORT = 18944
HEADER = struct.Struct(">H12s20sIIQQ")
"""version, type, device, seconds, fraction of a second x 2^32, size of the body, checksum of the body"""
NUMBER = "FrameNumber"
"""metadata key of a frame's number, counted by the sender"""

_EXTENDED = struct.Struct(">HHII")  # own size, sizes of the two parts of the metadata, message id
_IMAGE = struct.Struct(">H4B3H12f6H")
_ASCII = 3
_UINT8, _LITTLE_ENDIAN, _LPS = 3, 2, 2


@dataclass(frozen=True)
class Content:
    """An image without number and time."""

    data: bytes
    crc: int

    @property
    def nbytes(self) -> int:
        return len(self.data)


def pack_image(
    pixels: NDArray[np.uint8], spacing_mm: tuple[float, float] | None = None, corner: tuple[float, float] = (0.0, 0.0)
) -> Content:
    """The content of a 2D image.

    Args:
        pixels: uint8 gray [H, W] or RGB [H, W, 3], at most 65535 a side.
        spacing_mm: mm a pixel in x and in y. Without it the matrix has a scale of exactly 1, which readers of
            ultrasound should take for "unknown".
        corner: pixels in x and y from the origin to the first pixel, e.g. of a region of a frame.
    """
    height, width = pixels.shape[:2]
    components = 1 if pixels.ndim == 2 else pixels.shape[2]
    sx, sy = spacing_mm or (1.0, 1.0)
    # the position is that of the centre
    centre = (sx * (corner[0] + (width - 1) / 2), sy * (corner[1] + (height - 1) / 2), 0.0)
    size = (width, height, 1)
    kind = (components, _UINT8, _LITTLE_ENDIAN, _LPS)
    head = _IMAGE.pack(1, *kind, *size, sx, 0, 0, 0, sy, 0, 0, 0, 1, *centre, 0, 0, 0, *size)
    data = head + pixels.tobytes()
    return Content(data, crc64(data))


def pack_message(
    content: Content, device: str, stamp: float, message_id: int, metadata: Mapping[str, str]
) -> tuple[bytes, bytes, bytes]:
    """A message in three parts, to be sent one after the other; the second is `content.data` itself.

    Args:
        content: the image.
        device: name, ASCII, at most 20 characters.
        stamp: seconds since 1970.
        message_id: any number; its lowest 32 bits are sent.
        metadata: ASCII keys and values.
    """
    pairs = [(key.encode(), value.encode()) for key, value in metadata.items()]
    index = struct.pack(">H", len(pairs)) + b"".join(struct.pack(">HHI", len(k), _ASCII, len(v)) for k, v in pairs)
    texts = b"".join(key + value for key, value in pairs)
    extended = _EXTENDED.pack(_EXTENDED.size, len(index), len(texts), message_id & 0xFFFFFFFF)
    tail = index + texts
    crc = joined(crc64(extended), content.crc, len(content.data))
    crc = joined(crc, crc64(tail), len(tail))
    seconds = int(stamp)
    fraction = int((stamp - seconds) * 2**32)
    size = len(extended) + len(content.data) + len(tail)
    header = HEADER.pack(2, b"IMAGE", device.encode(), seconds, fraction, size, crc)
    return header + extended, content.data, tail
