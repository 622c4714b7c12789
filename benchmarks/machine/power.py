"""Energy while a block runs, from the counters that the machine has.

Processors count in RAPL, the package and the memory apart; NVIDIA GPUs in NVML; Jetsons measure voltage and current
of their supply rails (INA3221), from which power is integrated. Every counter is the machine's, not the process's:
whatever else runs is in it, which is why power at rest is measured beside it. Where no counter can be read there is
no number.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

from benchmarks.machine.nvml import Gpu, NvmlUnavailable
from benchmarks.machine.sysfs import ROOT, hwmons, read

REST_SECONDS = 3.0
LEAST_SECONDS = 1.0
"""of a block whose energy is told: the slowest counters move ten times a second"""
# INA3221: the rails that together carry the module, none of which feeds another, by Jetson; rails of which that is not
# certain, such as AGX Orin's VDDQ_VDD2_1V8AO, are left out, and the report names those that were counted
_MODULE_RAILS = (
    ("VDD_IN",),  # Orin Nano, Orin NX, Xavier NX, TX2
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)


class Meter:
    """Adds up a counter's energy.

    Args:
        name: of the counter, for the report.
        joule: the counter's reading; may start anywhere.
        wraps_at: joules at which the counter starts again from 0; it must be read at least once a round.
    """

    interval_s = 1.0
    """longest time between two readings; a counter of 65 kJ, the smallest in use, lasts 3 minutes at 300 W"""

    def __init__(self, name: str, joule: Callable[[], float], wraps_at: float | None = None) -> None:
        self.name = name
        self._reading = joule
        self._wraps_at = wraps_at

    def start(self) -> None:
        """Sets `joule` and `seconds` to 0; OSError where the counter cannot be read."""
        self._last, self._since = self._reading(), time.perf_counter()
        self.joule, self.seconds = 0.0, 0.0

    def update(self) -> None:
        """Adds what came since the last reading; OSError where the counter cannot be read."""
        value, now = self._reading(), time.perf_counter()
        self.joule += self._added(self._last, value, now - self._since)
        self.seconds += now - self._since
        self._last, self._since = value, now

    def _added(self, before: float, after: float, seconds: float) -> float:
        if after >= before:
            return after - before
        if self._wraps_at is None:
            raise OSError(f"{self.name} went backwards, from {before:g} to {after:g} J")
        return after - before + self._wraps_at


class PowerMeter(Meter):
    """The same from readings in watts, integrated by the trapezoidal rule."""

    interval_s = 0.1

    def _added(self, before: float, after: float, seconds: float) -> float:
        return (before + after) / 2 * seconds


class Energy:
    """Measures the energy of a block, `with Energy() as energy: ...`; then `energy.report(frames)`.

    Entering takes `idle_seconds`, during which the machine rests and its power without the block is measured. A
    block of less than LEAST_SECONDS gives no number.

    Args:
        gpu: the block computes on an NVIDIA GPU, so that the GPU's energy belongs to it.
        idle_seconds: 0 leaves the power at rest unknown.
        root: the folder in which `sys` lies.
        open_gpu: opens the GPU, or raises `NvmlUnavailable`.
    """

    def __init__(
        self,
        gpu: bool = False,
        idle_seconds: float = REST_SECONDS,
        root: Path = ROOT,
        open_gpu: Callable[[], Gpu] = Gpu,
    ) -> None:
        self._idle_seconds = idle_seconds
        self._meters, self._missing = find_meters(gpu, root, open_gpu)
        self._idle_watts: list[float] = []
        self._stop = Event()
        self._thread: Thread | None = None

    def __enter__(self) -> Energy:
        if self._meters and self._idle_seconds:
            self._begin()
            time.sleep(self._idle_seconds)
            self._end()
            self._idle_watts = [meter.joule / meter.seconds for meter in self._meters]
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def report(self, frames: int) -> dict[str, Any]:
        """The block's energy as JSON values, for so many frames computed in it.

        Returns:
            `joule_per_frame` and `watt` hold all that the counters saw, `joule_per_frame_above_idle` only what exceeds
            the power at rest, `idle_watt` (both None when that was not measured). `seconds` that the block took.
            `counter` names the counters, or says `not available: ` and why; then the numbers are None. `parts`:
            `counter`, `joule`, `watt` and `idle_watt` of each counter.
        """
        joule = sum(meter.joule for meter in self._meters)
        seconds = max((meter.seconds for meter in self._meters), default=0.0)
        if why := self._lack(joule, seconds):
            nothing = ("joule_per_frame", "joule_per_frame_above_idle", "watt", "idle_watt", "seconds")
            return {**dict.fromkeys(nothing), "counter": f"not available: {why}", "parts": []}
        watts = [meter.joule / meter.seconds for meter in self._meters]
        idles: list[Any] = [*self._idle_watts] or [None] * len(watts)
        above = sum(
            meter.joule - idle * meter.seconds for meter, idle in zip(self._meters, self._idle_watts, strict=False)
        )
        return {
            "joule_per_frame": joule / frames,
            "joule_per_frame_above_idle": above / frames if self._idle_watts else None,
            "watt": sum(watts),
            "idle_watt": sum(self._idle_watts) if self._idle_watts else None,
            "seconds": seconds,
            "counter": _names(self._meters) + (f" (without the processor: {self._missing})" if self._missing else ""),
            "parts": [
                {"counter": meter.name, "joule": meter.joule, "watt": watt, "idle_watt": idle}
                for meter, watt, idle in zip(self._meters, watts, idles, strict=True)
            ],
        }

    def _lack(self, joule: float, seconds: float) -> str:
        """Why there is no number; "" where there is one."""
        if not self._meters:
            return self._missing
        if not joule:  # a virtual machine may show a counter that never moves
            return f"{_names(self._meters)} did not move"
        if seconds < LEAST_SECONDS:
            return f"{seconds:.2f} s are too short for {_names(self._meters)}; measure more frames"
        return ""

    def _begin(self) -> None:
        self._read(Meter.start)
        if self._meters:
            self._stop.clear()
            self._thread = Thread(target=self._sample, name="energy", daemon=True)
            self._thread.start()

    def _sample(self) -> None:
        interval = min(meter.interval_s for meter in self._meters)
        while not self._stop.wait(interval):
            self._read(Meter.update)

    def _end(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._read(Meter.update)

    def _read(self, reading: Callable[[Meter], None]) -> None:
        try:
            for meter in self._meters:
                reading(meter)
        except OSError as error:
            self._meters, self._missing = [], _told(error)


def find_meters(gpu: bool, root: Path = ROOT, open_gpu: Callable[[], Gpu] = Gpu) -> tuple[list[Meter], str]:
    """The counters for a computation on the CPU, or with a GPU, none of which counts what another counts.

    Returns:
        the counters, and what is missing (the processor's counter beside the GPU's, or all of them), "" if nothing.
    """
    rails = [folder for name, folder in hwmons(root) if name == "ina3221"]
    if rails:  # they feed the GPU as well
        return _module(rails)
    processor, missing = _processor(root)
    if not gpu:
        return processor, missing
    try:
        return [_gpu_meter(open_gpu()), *processor], missing
    except NvmlUnavailable as error:
        return [], f"no counter for the GPU ({error})"


def _processor(root: Path) -> tuple[list[Meter], str]:
    """RAPL's packages and their memory, else the sockets of AMD's energy driver."""
    powercap = root / "sys/class/powercap"
    meters: dict[str, Meter] = {}
    try:
        # `psys` holds the packages, `core` and `uncore` lie in them, and `intel-rapl-mmio` counts the same once more
        for package in sorted(powercap.glob("*-rapl:*")):
            name = read(package / "name") or ""
            if name.startswith("package"):
                meters[name] = _rapl(name, package)
                for part in sorted(powercap.glob(f"{package.name}:*")):
                    if read(part / "name") == "dram":
                        meters[f"{name} dram"] = _rapl(f"{name} dram", part)
        for driver, folder in hwmons(root) if not meters else []:
            for label in sorted(folder.glob("energy*_label")):
                name = read(label) or ""
                if name.startswith("Esocket"):  # the driver's other counters are of single cores, within these
                    file = folder / label.name.replace("_label", "_input")
                    meters[name] = Meter(f"{driver} {name}", partial(_joule, file))
        for meter in meters.values():
            meter.start()
    except OSError as error:
        return [], _told(error)
    return list(meters.values()), "" if meters else "this machine shows no energy counter of the processor"


def _rapl(name: str, folder: Path) -> Meter:
    wraps_at = _joule(folder / "max_energy_range_uj")
    return Meter(f"RAPL {name}", partial(_joule, folder / "energy_uj"), wraps_at)


def _gpu_meter(gpu: Gpu) -> Meter:
    if gpu.shared():
        raise NvmlUnavailable("it is partitioned, and its counter holds the other parts' work")

    def known(reading: Callable[[], float | None]) -> Callable[[], float]:
        def value() -> float:
            found = reading()
            if found is None:
                raise OSError("the GPU's driver no longer tells its energy")
            return found

        return value

    if gpu.joule() is not None:
        return Meter("NVML", known(gpu.joule))
    if gpu.watt() is not None:
        return PowerMeter("NVML power, integrated", known(gpu.watt))
    raise NvmlUnavailable("its driver tells neither energy nor power")


def _module(folders: list[Path]) -> tuple[list[Meter], str]:
    rails: dict[str, tuple[Path, Path]] = {}
    for folder in folders:
        for channel in ("1", "2", "3"):  # beyond these lie shunt voltages and sums
            label = read(folder / f"in{channel}_label")
            if label:
                rails[label] = (folder / f"in{channel}_input", folder / f"curr{channel}_input")
    names = next((names for names in _MODULE_RAILS if rails.keys() >= set(names)), None)
    if names is None:
        return [], f"which of the rails {', '.join(rails) or '(none is named)'} carry the whole module is not known"
    pairs = [rails[name] for name in names]
    meter = PowerMeter(
        f"INA3221 {' + '.join(names)}", lambda: sum(_integer(mv) * _integer(ma) for mv, ma in pairs) / 1e6
    )
    try:
        meter.start()
    except OSError as error:
        return [], _told(error)
    return [meter], ""


def _joule(microjoules: Path) -> float:
    return _integer(microjoules) / 1e6


def _integer(file: Path) -> int:
    text = file.read_text(encoding="ascii").strip()
    if not re.fullmatch(r"-?\d+", text):
        raise OSError(f"{file} holds {text[:20]!r}, expected a whole number")
    return int(text)


def _told(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"needs read access to {error.filename} (root may grant it: chmod a+r)"
    return str(error)


def _names(meters: list[Meter]) -> str:
    return " + ".join(meter.name for meter in meters)
