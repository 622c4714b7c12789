"""What the machine does at this moment: clocks, temperatures, throttling, and who uses the processor."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from benchmarks.machine.nvml import Gpu
from benchmarks.machine.sysfs import ROOT, hwmons, number, read, to_number

# hardware monitors of processors; others tell of drives, network cards and batteries
_PROCESSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal")
# cooling devices that cool by slowing down, unlike fans
_SLOWING = re.compile(r"thermal-cpufreq|cpufreq-|thermal-devfreq|devfreq-|Processor")
_JETSON_GPU = re.compile(r"\.(gpu|ga10b|gv11b)$|^gpu-gpc-0$")
_HOT_MARGIN_C = 5.0


class Sensors:
    """Reads the machine again and again; shares and counts are those since the reading before.

    Args:
        root: the folder in which `sys` and `proc` lie.
        gpu: an open GPU, if one computes.
    """

    def __init__(self, root: Path = ROOT, gpu: Gpu | None = None) -> None:
        self._root = root
        self._gpu = gpu
        cpus = root / "sys/devices/system/cpu"
        self._clocks = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._temperatures = _temperatures(root)
        self._throttles = [
            *cpus.glob("cpu[0-9]*/thermal_throttle/*_throttle_count"),
            *(file for _, folder in hwmons(root) for file in folder.glob("oc*_event_cnt")),  # Jetson: over-current
        ]
        self._coolers = [
            (name, folder / "cur_state")
            for folder in sorted((root / "sys/class/thermal").glob("cooling_device*"))
            if _SLOWING.match(name := read(folder / "type") or "")
        ]
        devfreqs = (root / "sys/class/devfreq").glob("*")
        self._gpu_clock = next((f / "cur_freq" for f in devfreqs if _JETSON_GPU.search(f.name)), None)
        self._throttled_before = self._throttle_counts()
        self._stopped_before = _quota_stops(root)
        self._own = _own_ticks(root)
        self._ticks = self._ticks_at_others = _ticks(root)
        self.cores = self._ticks.get("cores", 0)
        """logical processors of the machine; 0 where it does not tell"""

    def sample(self, full: bool = True) -> dict[str, Any]:
        """One reading as JSON values; None is what this machine does not tell.

        `clock_mhz`: of the fastest core. `temperature_c`: of the `hottest` sensor. `steal_share`: taken by the
        hypervisor of all processors' time, 0..1. `load`: processes running or waiting, averaged over a minute.
        `gpu_clock_mhz` and `gpu_temperature_c`, if there is a GPU to watch. Two lists of names: `slowdowns`, what holds
        a clock down now; `hot`, sensors within 5 degrees of the limit at which they slow the machine down.

        Only if `full`, since these take a look at every processor and every process: `throttled`, how often the
        processor (on a Jetson the module, for its supply) was throttled since these sensors were made, by the counter
        that rose most; `quota_stops`, how often since then the container had used up its share of processor time;
        `others_share`, gone to other processes than this one and its descendants, 0..1 of all processors' time.
        """
        temperatures = self._measured_temperatures()
        hottest = max(temperatures, key=lambda item: item[1], default=(None, None, None))
        ticks, before = _ticks(self._root), self._ticks
        self._ticks, passed = ticks, _since(ticks, before, "total")
        found: dict[str, Any] = {
            "clock_mhz": self._clock_mhz(),
            "temperature_c": hottest[1],
            "hottest": hottest[0],
            "hot": [name for name, value, limit in temperatures if limit and value >= limit - _HOT_MARGIN_C],
            "slowdowns": self._slowdowns(),
            "steal_share": _since(ticks, before, "steal") / passed if passed > 0 else None,
            "load": to_number((read(self._root / "proc/loadavg") or "").partition(" ")[0]),
        }
        if self._gpu or self._gpu_clock:
            found["gpu_clock_mhz"] = self._gpu_clock_mhz()
            found["gpu_temperature_c"] = self._gpu.temperature_c() if self._gpu else None
        if not full:
            return found
        return found | {
            "throttled": self._throttled(),
            "quota_stops": _risen(_quota_stops(self._root), self._stopped_before),
            "others_share": self._others_share(),
        }

    def _clock_mhz(self) -> float | None:
        khz = [value for file in self._clocks if (value := number(file))]
        if khz:
            return max(khz) / 1e3
        info = read(self._root / "proc/cpuinfo") or ""
        if "hypervisor" in info:  # which then shows the nominal clock for ever
            return None
        return max((float(mhz) for mhz in re.findall(r"cpu MHz\s*:\s*([\d.]+)", info)), default=None)

    def _measured_temperatures(self) -> list[tuple[str, float, float | None]]:
        readings = ((name, number(file), limit) for name, file, limit in self._temperatures)
        # a part that is switched off tells nonsense, such as -256 or 255
        return [(name, value / 1e3, limit) for name, value, limit in readings if value and 0 < value < 150e3]

    def _throttle_counts(self) -> dict[Path, float]:
        return {file: value for file in self._throttles if (value := number(file)) is not None}

    def _throttled(self) -> int | None:
        counts = self._throttle_counts().items()
        risen = [count - self._throttled_before[file] for file, count in counts if file in self._throttled_before]
        return int(max(risen)) if risen else None

    def _slowdowns(self) -> list[str] | None:
        coolers = [name for name, file in self._coolers if (number(file) or 0) > 0] if self._coolers else None
        gpu = self._gpu.slowdowns() if self._gpu else None
        if gpu is None:
            return coolers
        return [f"GPU: {reason}" for reason in gpu] + (coolers or [])

    def _gpu_clock_mhz(self) -> float | None:
        if self._gpu and (mhz := self._gpu.clock_mhz()) is not None:
            return mhz
        hertz = number(self._gpu_clock) if self._gpu_clock else None
        return hertz / 1e6 if hertz else None

    def _others_share(self) -> float | None:
        own, ticks = _own_ticks(self._root), _ticks(self._root)
        passed = _since(ticks, self._ticks_at_others, "total")
        busy = _since(ticks, self._ticks_at_others, "busy") - (own - self._own)
        self._own, self._ticks_at_others = own, ticks
        return max(0.0, busy / passed) if passed > 0 else None


def _temperatures(root: Path) -> list[tuple[str, Path, float | None]]:
    """(name, file in 1/1000 degrees, degrees at which the machine slows itself down or None)."""
    found: list[tuple[str, Path, float | None]] = []
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = read(zone / "type") or zone.name
        if "PMIC" in name:  # shows a constant 100 degrees on Jetsons
            continue
        trips = [
            value / 1e3
            for kind in zone.glob("trip_point_*_type")
            if read(kind) == "passive" and (value := number(kind.with_name(kind.name.replace("_type", "_temp"))))
        ]
        # some firmware leaves trip points at 0 or below
        found.append((name, zone / "temp", min((trip for trip in trips if trip > 40), default=None)))
    for driver, folder in hwmons(root):
        for file in sorted(folder.glob("temp*_input")) if driver in _PROCESSORS else []:
            stem = file.name.removesuffix("_input")
            limit = number(folder / f"{stem}_crit")
            label = read(folder / f"{stem}_label")
            found.append((f"{driver} {label}" if label else driver, file, limit / 1e3 if limit else None))
    return found


def _quota_stops(root: Path) -> int | None:
    found = re.search(r"^nr_throttled (\d+)", read(root / "sys/fs/cgroup/cpu.stat") or "", re.MULTILINE)
    return int(found[1]) if found else None


def _risen(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _ticks(root: Path) -> dict[str, int]:
    """Processor time since the start in the kernel's ticks, and the number of processors; empty where untold."""
    lines = (read(root / "proc/stat") or "").splitlines()
    fields = [int(field) for field in lines[0].split()[1:9]] if lines and lines[0].startswith("cpu ") else []
    if len(fields) < 8:
        return {}
    idle, steal = fields[3] + fields[4], fields[7]
    return {
        "total": sum(fields),
        "busy": sum(fields) - idle - steal,
        "steal": steal,
        "cores": sum(bool(re.match(r"cpu\d", line)) for line in lines),
    }


def _since(now: dict[str, int], before: dict[str, int], name: str) -> int:
    return now.get(name, 0) - before.get(name, 0)


def _own_ticks(root: Path) -> int:
    """Ticks of this process and its descendants, with those that have ended and been waited for."""
    try:
        pids = [int(name) for name in os.listdir(root / "proc") if name.isdigit()]  # noqa: PTH208 - half the time
    except OSError:
        return 0
    parents = {pid: int(fields[1]) for pid in pids if (fields := _fields(root, pid))}
    own, generation = [], [os.getpid()]
    while generation:
        own += generation
        generation = [pid for pid, parent in parents.items() if parent in generation]
    # read anew and at once: the look at all processes may have taken long
    return sum(int(ticks) for pid in own for ticks in _fields(root, pid)[11:15])


def _fields(root: Path, pid: int) -> list[str]:
    """A process's fields from its state on; empty where it has ended."""
    return (read(root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()  # the name before may hold anything
