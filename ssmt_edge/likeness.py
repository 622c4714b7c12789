"""Which images are the same, or nearly.

Images are the same if their pixels are, and near-identical if both hold:

- their difference hashes (64 bit: which of two neighbours of a 9 x 8 thumbnail is brighter; N. Krawetz, "Kind of like
  that", 2013) differ in at most `HASH_BITS` bits;
- the correlation of their 32 x 32 thumbnails is at least `CORRELATION`. The hash alone confuses frames of one scanner,
  whose margins and captions are alike.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray

# Chosen on DDTI and BUSI, docs/data.md: all pairs that they find there look alike
HASH_BITS = 8
CORRELATION = 0.95


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image to compare it with others."""

    digest: bytes
    """SHA-256 of shape and gray values"""
    bits: NDArray[np.float32]
    """[64], -1 or 1"""
    thumbnail: NDArray[np.float32]
    """[1024], mean 0 and length 1; zeros for an even image, which is like no other"""


def fingerprint(image: Gray) -> Fingerprint:
    """Of a uint8 image [H, W]."""
    small = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.where(small[:, 1:] > small[:, :-1], 1.0, -1.0).astype(np.float32).ravel()
    thumbnail = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    thumbnail -= thumbnail.mean()
    length = float(np.linalg.norm(thumbnail))
    digest = hashlib.sha256(f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()).digest()
    return Fingerprint(digest, bits, thumbnail / length if length > 1.0 else np.zeros_like(thumbnail))


def alike(prints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of positions: each member is the same as, or near-identical to, another one of its group."""
    same: dict[bytes, list[int]] = defaultdict(list)
    for i, one in enumerate(prints):
        same[one.digest].append(i)
    links = [(group[0], other) for group in same.values() for other in group[1:]]
    return _groups(len(prints), [*links, *near_pairs(prints)])


def near_pairs(prints: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Pairs of positions, first < second, that are near-identical."""
    if not prints:
        return []
    bits, thumbnails = np.stack([p.bits for p in prints]), np.stack([p.thumbnail for p in prints])
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(bits), 1024):  # in blocks, or 50 000 images would ask for 10 GB
        distance = (64 - bits[start : start + 1024] @ bits.T) / 2
        first, second = np.nonzero(distance < HASH_BITS + 0.5)
        first += start
        ahead = first < second
        first, second = first[ahead], second[ahead]
        near = np.einsum("ij,ij->i", thumbnails[first], thumbnails[second]) >= CORRELATION
        pairs += zip(first[near].tolist(), second[near].tolist(), strict=True)
    return pairs


def _groups(count: int, links: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Connected components with more than one member, in order."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(count):
        groups[root(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]
