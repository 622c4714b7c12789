"""An NVIDIA GPU's energy, power, clock, temperature and reasons to slow down, from the driver's own library.

Called through ctypes, since the few functions used here are in every driver and need no package. They are described
in NVIDIA's NVML API Reference, "Device Queries".
"""

from __future__ import annotations

import ctypes
from typing import Any

_LIBRARY = "libnvidia-ml.so.1"
_TEMPERATURE_GPU = 0
_CLOCK_SM = 1
# nvmlClocksEventReasons: those that take speed away; idleness and clocks that somebody set are none
_SLOWDOWNS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat (driver)",
    0x40: "heat (hardware)",
    0x80: "power supply",
}


class NvmlUnavailable(Exception):
    """Why the GPU cannot be asked; `str()` is part of a sentence."""


class Gpu:
    """The GPU that CUDA calls device 0.

    Args:
        library: stands in for the driver's library in tests.

    Raises:
        NvmlUnavailable: no driver, no GPU, or the driver refuses.
    """

    def __init__(self, library: Any = None) -> None:
        self._nvml = library or _load(_LIBRARY)
        self._check("nvmlInit_v2", self._nvml.nvmlInit_v2())
        count = ctypes.c_uint()
        self._check("nvmlDeviceGetCount_v2", self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        if not count.value:
            raise NvmlUnavailable("the driver finds no GPU")
        self._device = ctypes.c_void_p()
        found = ctypes.byref(self._device)
        if count.value == 1:
            done = self._nvml.nvmlDeviceGetHandleByIndex_v2(0, found)
        else:  # the driver counts by bus, CUDA by speed and as CUDA_VISIBLE_DEVICES says
            done = self._nvml.nvmlDeviceGetHandleByPciBusId_v2(_first_bus_id(), found)
        self._check("nvmlDeviceGetHandle", done)

    def joule(self) -> float | None:
        """Energy since the driver was loaded; None where the GPU does not count (before Volta, most Jetsons)."""
        value = self._ask("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return None if value is None else value / 1e3

    def watt(self) -> float | None:
        """Power now (on Ampere and later the mean of the last second); None where the GPU does not tell."""
        value = self._ask("nvmlDeviceGetPowerUsage", ctypes.c_uint)
        return None if value is None else value / 1e3

    def temperature_c(self) -> float | None:
        value = self._ask("nvmlDeviceGetTemperature", ctypes.c_uint, _TEMPERATURE_GPU)
        return None if value is None else float(value)

    def clock_mhz(self) -> float | None:
        """Clock of the multiprocessors."""
        value = self._ask("nvmlDeviceGetClockInfo", ctypes.c_uint, _CLOCK_SM)
        return None if value is None else float(value)

    def used_mib(self) -> float | None:
        """Memory in use, by whomsoever; None where the GPU does not tell (Jetsons, which share the system's)."""
        amounts = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
        try:
            done = self._nvml.nvmlDeviceGetMemoryInfo(self._device, ctypes.byref(amounts))
        except AttributeError:
            return None
        return amounts[2] / 2**20 if done == 0 else None

    def slowdowns(self) -> list[str] | None:
        """What takes clock away at this moment; None where the GPU does not tell."""
        # the older of the function's two names, which newer drivers keep
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong)
        return None if bits is None else [reason for bit, reason in _SLOWDOWNS.items() if bits & bit]

    def shared(self) -> bool:
        """Whether the GPU is partitioned (MIG), so that its counters hold the work of others, too."""
        now, pending = ctypes.c_uint(), ctypes.c_uint()
        try:
            done = self._nvml.nvmlDeviceGetMigMode(self._device, ctypes.byref(now), ctypes.byref(pending))
        except AttributeError:  # a driver from before MIG
            return False
        return done == 0 and now.value == 1

    def _ask(self, function: str, kind: Any, *arguments: int) -> int | None:
        value = kind()
        try:
            done = getattr(self._nvml, function)(self._device, *arguments, ctypes.byref(value))
        except AttributeError:
            return None
        return int(value.value) if done == 0 else None

    def _check(self, function: str, code: int) -> None:
        if code:
            raise NvmlUnavailable(f"the NVIDIA driver answers {function} with error {code}")


def _load(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise NvmlUnavailable(f"no NVIDIA driver ({name})") from None


def _first_bus_id() -> bytes:
    """PCI bus id of CUDA's device 0."""
    cuda = _load("libcuda.so.1")
    bus_id, device = ctypes.create_string_buffer(64), ctypes.c_int()
    for code in (
        cuda.cuInit(0),
        cuda.cuDeviceGet(ctypes.byref(device), 0),
        cuda.cuDeviceGetPCIBusId(bus_id, len(bus_id), device),
    ):
        if code:
            raise NvmlUnavailable(f"CUDA answers with error {code}")
    return bus_id.value
