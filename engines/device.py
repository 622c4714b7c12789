"""What this machine's processor can do with bytes."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from ssmt_edge.spec import Device


def cpu_device() -> Device:
    """Name and integer instruction set of this CPU.

    `vnni`: 8-bit dot products without saturation (x86). `avx2`: 8-bit products that saturate in 16 bit unless weights
    keep to 7 bits (any other x86; also assumed where the flags cannot be read). `neon`: Arm.
    """
    machine = platform.machine().lower()
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or machine
    if machine in ("aarch64", "arm64"):
        return Device(name, instruction_set="neon")
    flags = set(fields.get("flags", "").split())
    vnni = bool(flags & {"avx512_vnni", "avx_vnni", "avxvnni"})
    return Device(name, instruction_set="vnni" if vnni else "avx2")


def available_cores() -> int:
    """Logical cores that this process may use (a container or taskset may allow fewer than the machine has)."""
    return len(_allowed())


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1; hyperthreads of one core count once."""
    siblings = set()
    for n in _allowed():
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            siblings.add(str(n))
    return max(1, len(siblings))


def _allowed() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
