"""What this machine computes with: its processor and its NVIDIA GPUs."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from pathlib import Path

from ssmt_edge.spec import Device, EngineManifest


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


def cpu_mismatch(manifest: EngineManifest) -> str | None:
    """Why an engine of another processor must not run on this one: INT8 belongs to its instruction set."""
    built, here = manifest.device.instruction_set, cpu_device().instruction_set
    if manifest.precision == "int8" and built != here:
        return f"holds INT8 for a CPU with {built}, this one has {here}"
    return None


def gpus() -> list[Device]:
    """NVIDIA GPUs as the driver's own library tells them, on Jetsons as well; empty without driver or GPU."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, offered = ctypes.c_int(0), ctypes.c_int(0)
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    cuda.cuDriverGetVersion(ctypes.byref(offered))  # 12060 for 12.6
    found = []
    for i in range(count.value):
        name = ctypes.create_string_buffer(256)
        major, minor = ctypes.c_int(), ctypes.c_int()
        cuda.cuDeviceGetName(name, len(name), i)
        cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, i)  # COMPUTE_CAPABILITY_MAJOR
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, i)  # COMPUTE_CAPABILITY_MINOR
        found.append(
            Device(
                name.value.decode(errors="replace"),
                compute_capability=f"{major.value}.{minor.value}",
                driver=_nvidia_driver(),
                cuda=f"{offered.value // 1000}.{offered.value % 1000 // 10}",
            )
        )
    return found


def _nvidia_driver() -> str:
    try:
        line = Path("/proc/driver/nvidia/version").read_text().partition("\n")[0]
    except OSError:
        return ""
    number = re.search(r"\d+\.\d+(\.\d+)?", line)
    return number[0] if number else ""


def version_mismatch(manifest: EngineManifest, here: str) -> str | None:
    """Why an engine of another version of its library must not run with the one here: major and minor have to agree."""
    if manifest.backend_version.split(".")[:2] == here.split(".")[:2]:
        return None
    return f"was built with {manifest.backend} {manifest.backend_version}, here is {here}"


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
