"""The checksum of OpenIGTLink messages: CRC-64 of ECMA-182, highest bit first, start 0, nothing inverted.

A checksum that starts with 0 is linear in the data: crc(A B) = shift(crc(A), length of B) ^ crc(B), where `shift`
appends zero bytes. So pieces of equal length are summed up side by side by numpy, and the sums are then joined. That
takes as long as the compiled loop of `crcmod`, which is a far slower one in Python where no compiler was at hand.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x42F0E1EBA9EA3693
_LANE = 64
"""bytes that are summed up one after the other; a power of 2"""

_Words = NDArray[np.uint64]


def crc64(data: bytes | bytearray | memoryview | NDArray[np.uint8]) -> int:
    """Checksum of bytes, 0 .. 2^64 - 1."""
    values = np.frombuffer(data, np.uint8)
    count = -(-values.size // _LANE)
    # zeros in front do not change it
    lanes = np.zeros(count * _LANE, np.uint8)
    lanes[lanes.size - values.size :] = values
    rows = lanes.view(">u2").reshape(count, _LANE // 2).T.astype(np.uint16, "C")
    sums = np.zeros(count, np.uint64)
    pairs = _two_bytes()
    for row in rows:
        # as signed numbers, which numpy takes for places without a copy
        sums = (sums << np.uint64(16)) ^ pairs[((sums >> np.uint64(48)) ^ row).view(np.int64)]
    return _joined_lanes(sums)


def joined(first: int, second: int, length: int) -> int:
    """Checksum of A followed by B from the checksum of each and the length of B in bytes."""
    bit = 0
    while length >> bit:
        if length >> bit & 1:
            first = int(_shifted(np.array([first], np.uint64), bit)[0])
        bit += 1
    return first ^ second


def _joined_lanes(sums: _Words) -> int:
    """Joins the sums of lanes, pair by pair, then pairs of pairs."""
    bit = _LANE.bit_length() - 1
    while sums.size > 1:
        if sums.size % 2:
            sums = np.concatenate([np.zeros(1, np.uint64), sums])
        sums = _shifted(sums[::2], bit) ^ sums[1::2]
        bit += 1
    return int(sums[0]) if sums.size else 0


def _shifted(sums: _Words, bit: int) -> _Words:
    """What 2^bit zero bytes make of checksums."""
    table = _zeros(bit)
    parts = np.ascontiguousarray(sums, "<u8").view(np.uint8).reshape(-1, 8)
    made: _Words = table[0].take(parts[:, 0])
    for byte in range(1, 8):
        made ^= table[byte].take(parts[:, byte])
    return made


@cache
def _zeros(bit: int) -> _Words:
    """[8, 256]: what 2^bit zero bytes make of each value of each byte of a checksum, lowest byte first."""
    ones = np.uint64(1) << np.arange(64, dtype=np.uint64)
    if bit == 0:
        columns = ones
        for _ in range(8):
            columns = (columns << np.uint64(1)) ^ np.where(
                columns >> np.uint64(63), np.uint64(_POLYNOMIAL), np.uint64(0)
            )
    else:
        columns = _shifted(_shifted(ones, bit - 1), bit - 1)
    table: _Words = np.zeros((8, 256), np.uint64)
    values = np.arange(256)
    for position, column in enumerate(columns):
        table[position // 8][(values >> position % 8 & 1) == 1] ^= column
    return table


@cache
def _two_bytes() -> _Words:
    """[65536]: the checksum of two bytes."""
    return _shifted(np.arange(65536, dtype=np.uint64) << np.uint64(48), 1)
