"""What a number was measured on: processor, memory, load, versions. No host or user names."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.machine.power_mode import power_mode
from benchmarks.machine.sysfs import number, read, to_number
from engines.device import available_cores, gpus, physical_cores

# instruction sets that decide how fast an INT8 or FP32 graph can run, under the names of /proc/cpuinfo
_FLAGS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
          "asimd", "asimddp", "i8mm", "sve")  # fmt: skip
_PACKAGES = ("ssmt-edge", "numpy", "onnxruntime", "opencv-python-headless", "opencv-python", "openvino", "torch",
             "tensorrt")  # fmt: skip
_CPUS = Path("/sys/devices/system/cpu")


def environment() -> dict[str, Any]:
    """The machine as JSON values; None or an absent key stands for what this system does not tell.

    Keys: `time` (UTC, ISO 8601), `os`, `python`, `packages` {name: version}, `cpu`, `cpu_flags`, `cores` (physical
    ones this process may use), `logical_cores`, `cpu_quota` (cores a container may use at once), `governor`,
    `power_mode` (as words), `clock_mhz`, `max_clock_mhz`, `virtual_machine` (None on processors that do not tell),
    `board` (its model, where firmware names one by device tree: Jetsons and other Arm boards), `memory_gib`,
    `load_average` (1, 5, 15 minutes), `gpu` (list of {name, driver, memory, power_limit}).
    """
    info = _cpuinfo()
    flags = set(info.get("flags", info.get("Features", "")).split())
    mode = power_mode()
    highest = number(_CPUS / "cpu0/cpufreq/cpuinfo_max_freq")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "os": f"{_os_name()}, {platform.system()} {platform.release()}, {platform.machine()}",
        "python": platform.python_version(),
        "packages": dict(_versions()),
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "cores": physical_cores(),
        "logical_cores": available_cores(),
        "cpu_quota": _cpu_quota(),
        "governor": mode.governor,
        "power_mode": str(mode) or None,
        "clock_mhz": to_number(info.get("cpu MHz")),
        "max_clock_mhz": highest / 1e3 if highest else None,
        "virtual_machine": "hypervisor" in flags if "flags" in info else None,
        "board": (read(Path("/proc/device-tree/model")) or "").rstrip("\0") or None,
        "memory_gib": _memory_gib(),
        "load_average": load_average(),
        "gpu": _gpus(),
    }


def load_average() -> list[float] | None:
    """Processes running or waiting, averaged over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _cpuinfo() -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    first = (read(Path("/proc/cpuinfo")) or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_quota() -> float | None:
    """Cores' worth of time that the control group grants; None when unlimited or not told."""
    quota, _, period = (read(Path("/sys/fs/cgroup/cpu.max")) or "").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory_gib() -> float | None:
    for line in (read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def _gpus() -> list[dict[str, str]]:
    """GPUs as nvidia-smi tells them, or the driver's library where there is none (Jetsons); empty without a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [{"name": gpu.name, "driver": gpu.driver} for gpu in gpus()]
    fields = ("name", "driver_version", "memory.total", "power.limit")
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    names = ("name", "driver", "memory", "power_limit")
    return [dict(zip(names, line.split(", "), strict=False)) for line in answer.stdout.splitlines() if line.strip()]
