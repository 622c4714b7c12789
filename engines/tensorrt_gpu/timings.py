"""The timing cache: what TensorRT has measured on this device before, so that the next build is quick."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.tensorrt_gpu.bindings import said
from ssmt_edge.files import cache_folder, replacing
from ssmt_edge.spec import Device


def cache_file(folder: Path | None, device: Device, version: str) -> Path:
    """The file of a device and version, in `folder` or in the user's cache folder."""
    folder = folder or cache_folder("timing")
    words = re.sub(r"[^A-Za-z0-9]+", "-", device.name).strip("-").lower()
    return folder / f"{words}-sm{device.compute_capability}-tensorrt-{version}.cache"


def load(config: Any, path: Path, say: Callable[[str], None]) -> bool:
    """Gives the builder the cache at `path`, or an empty one; whether there was one that it takes."""
    try:
        known = path.read_bytes()
    except OSError:
        known = b""
    if known and _give(config, known):
        return True
    if known:
        said()  # TensorRT's complaint about it is not the build's
        say(f"{path} is damaged or of another device: every layer is timed anew")
    _give(config, b"")
    return False


def save(config: Any, path: Path, say: Callable[[str], None]) -> None:
    """Keeps what was timed; a folder that cannot be written costs the next build time, not this one its success."""
    try:
        with replacing(path) as part:
            part.write_bytes(memoryview(config.get_timing_cache().serialize()))
    except OSError as error:
        say(f"{path} cannot be written ({error.strerror}): the next build times every layer again")


def _give(config: Any, content: bytes) -> bool:
    try:
        cache = config.create_timing_cache(content)
        return cache is not None and bool(config.set_timing_cache(cache, ignore_mismatch=False))
    except (RuntimeError, TypeError, ValueError):  # how the bindings refuse bytes that are no cache
        return False
