"""What this machine's processor can do with bytes."""

from __future__ import annotations

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
