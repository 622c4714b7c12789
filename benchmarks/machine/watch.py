"""Watches the machine before, during and after a measurement, and says what makes the numbers less than sound."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from threading import Event, Thread
from typing import Any

import numpy as np

from benchmarks.machine.nvml import Gpu, NvmlUnavailable
from benchmarks.machine.power_mode import power_mode
from benchmarks.machine.sensors import Sensors
from benchmarks.machine.sysfs import ROOT

INTERVAL_S = 0.5
_FELL = 0.05
_STOLEN = 0.01
_OTHERS = 0.05

Sample = dict[str, Any]


class Watch:
    """`with Watch() as watch: ...`; then `watch.report()`.

    Entering and leaving take about a quarter of a second each, for `speed`. In between a thread reads the sensors
    twice a second; who else used the processor is asked once, at the end.

    Args:
        gpu: an NVIDIA GPU computes.
        root: the folder in which `sys` and `proc` lie.
        open_gpu: opens the GPU, or raises `NvmlUnavailable`.
    """

    def __init__(self, gpu: bool = False, root: Path = ROOT, open_gpu: Callable[[], Gpu] = Gpu) -> None:
        self._root = root
        self._sensors = Sensors(root, _open(open_gpu) if gpu else None)
        self._samples: list[Sample] = []
        self._stop = Event()
        self._thread = Thread(target=self._sample, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._mode = power_mode(self._root)
        self._before = self._rest()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        # of the whole run: a look at every process in the middle of it would delay frames
        self._samples.append(self._sensors.sample())
        self._after = self._rest()

    def report(self) -> dict[str, Any]:
        """JSON values of the whole watch.

        Returns:
            `before` and `after`: readings of `Sensors.sample`, without the lists and with `speed`. `during`: `min`,
            `median` and `max` of every number in the readings between. `slowdowns` and `hot`: all that were named in
            these. `samples`: how many there were. `cautions`: sentences.
        """
        said = cautions(self._before, self._samples, self._after, self._sensors.cores)
        return {
            "before": _plain(self._before),
            "during": _spread(self._samples),
            "after": _plain(self._after),
            "slowdowns": _named(self._samples, "slowdowns"),
            "hot": _named(self._samples, "hot"),
            "samples": len(self._samples),
            "cautions": self._mode.cautions() + said,
        }

    def _sample(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            self._samples.append(self._sensors.sample(full=False))

    def _rest(self) -> Sample:
        self._sensors.sample()
        rate = speed()
        return self._sensors.sample() | {"speed": rate}


def speed(pieces: int = 40) -> float:
    """Square roots a second of one core in millions: float64 in the cache, the best of `pieces` of about 5 ms.

    The best, because other processes can only slow a piece down; what lasts longer than all of them, such as a clock
    brought down by heat, slows the best one, too.
    """
    values = np.ones(8192)  # a square root of 1 stays 1 and takes as long as any other
    turns = 600
    seconds = []
    for _ in range(pieces):
        start = time.perf_counter()
        for _ in range(turns):
            np.sqrt(values, out=values)
        seconds.append(time.perf_counter() - start)
    return len(values) * turns / min(seconds) / 1e6


def cautions(before: Sample, samples: Sequence[Sample], after: Sample, cores: int) -> list[str]:
    """What the readings say against the numbers measured meanwhile, a sentence each; `cores` logical ones."""
    found = []
    for count, what in (("throttled", "the machine throttled itself"), ("quota_stops", "the container was held up")):
        risen = (after[count] or 0) - (before[count] or 0)
        if risen:
            found.append(f"{what} (its counter rose by {risen})")
    slowdowns = _named(samples, "slowdowns")
    if slowdowns:
        found.append(f"clocks were held down by {', '.join(slowdowns)}")
    for name, what in (("clock_mhz", "processor's"), ("gpu_clock_mhz", "GPU's")):
        clocks = _numbers(samples, name)
        if len(clocks) >= 6:
            third = len(clocks) // 3
            first, last = median(clocks[:third]), median(clocks[-third:])
            if last < (1 - _FELL) * first:
                found.append(
                    f"the {what} clock fell by {100 * (1 - last / first):.0f} % from the first third of the run to the "
                    f"last ({first:.0f} to {last:.0f} MHz)"
                )
    if after["speed"] < (1 - _FELL) * before["speed"]:
        meanwhile = ", while other processes were busy" if (after["others_share"] or 0) > _OTHERS else ""
        found.append(
            f"the processor was {100 * (1 - after['speed'] / before['speed']):.0f} % slower after the run than before "
            f"(a fixed piece of arithmetic on one core{meanwhile})"
        )
    hot = _named([*samples, after], "hot")
    if hot:
        found.append(f"near the temperature at which the machine slows down: {', '.join(hot)}")
    stolen = _numbers(samples, "steal_share")
    if stolen and fmean(stolen) > _STOLEN:
        found.append(f"the hypervisor took {100 * fmean(stolen):.1f} % of the processors' time")
    others = _numbers(samples, "others_share")
    if others and fmean(others) > _OTHERS:
        found.append(f"other processes used {fmean(others) * cores:.1f} of {cores} logical cores")
    return found


def _open(open_gpu: Callable[[], Gpu]) -> Gpu | None:
    try:
        return open_gpu()
    except NvmlUnavailable:
        return None


def _numbers(samples: Sequence[Sample], name: str) -> list[float]:
    return [value for sample in samples if isinstance(value := sample.get(name), (int, float))]


def _named(samples: Sequence[Sample], name: str) -> list[str]:
    return list(dict.fromkeys(word for sample in samples for word in sample.get(name) or ()))


def _plain(sample: Sample) -> Sample:
    return {name: value for name, value in sample.items() if name not in ("slowdowns", "hot")}


def _spread(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    names = dict.fromkeys(name for sample in samples for name in sample)
    columns = {name: _numbers(samples, name) for name in names}
    return {
        name: {"min": min(values), "median": median(values), "max": max(values)}
        for name, values in columns.items()
        if values
    }
