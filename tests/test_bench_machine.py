"""The machine under a measurement: energy from counters alone, clocks, throttling, others' load, settings."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.machine import nvml as nvml_module
from benchmarks.machine import power as power_module
from benchmarks.machine import power_mode as power_mode_module
from benchmarks.machine import watch as watch_module
from benchmarks.machine.nvml import Gpu, NvmlUnavailable
from benchmarks.machine.power import Energy, Meter, find_meters
from benchmarks.machine.power_mode import power_mode
from benchmarks.machine.sensors import Sensors
from benchmarks.machine.watch import Watch, cautions, speed

CPU = "sys/devices/system/cpu"
RAPL = "sys/class/powercap"


def tree(root: Path, files: dict[str, object]) -> Path:
    """Writes a fake `/sys` and `/proc`: text or a number by path."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n", encoding="utf-8")
    return root


def domain(folder: str, name: str, microjoules: int, wraps_at: int = 1_000_000_000) -> dict[str, object]:
    values = {"name": name, "energy_uj": microjoules, "max_energy_range_uj": wraps_at}
    return {f"{RAPL}/{folder}/{key}": value for key, value in values.items()}


def rails(sensor: str, *channels: tuple[str, int, int]) -> dict[str, object]:
    """An INA3221 with labels, millivolts and milliamperes of its channels."""
    found: dict[str, object] = {f"sys/class/hwmon/{sensor}/name": "ina3221"}
    for i, (label, millivolts, milliamperes) in enumerate(channels, start=1):
        values = {f"in{i}_label": label, f"in{i}_input": millivolts, f"curr{i}_input": milliamperes}
        found |= {f"sys/class/hwmon/{sensor}/{key}": value for key, value in values.items()}
    return found


class FakeDriver:
    """NVIDIA's library: functions that fill in a number by reference, or answer 3 (not supported)."""

    def __init__(self, count: int = 1, mig: int = 0, **values: int) -> None:
        self.values = values
        self.handles: list[object] = []
        self._count, self._mig = count, mig

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = self._count
        return 0

    def nvmlDeviceGetMigMode(self, device: Any, now: Any, pending: Any) -> int:
        now._obj.value = self._mig
        return 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("nvmlDeviceGetHandle"):
            return lambda which, found: self.handles.append(which) or 0

        def answer(*arguments: Any) -> int:
            if name not in self.values:
                return 3
            arguments[-1]._obj.value = self.values[name]
            return 0

        return answer


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power_module, "LEAST_SECONDS", 0.0)


def no_gpu() -> Gpu:
    raise NvmlUnavailable("no NVIDIA driver")


# energy


def test_packages_and_their_memory_are_counted_once_across_a_wrap(tmp_path: Path) -> None:
    wrapping = domain("intel-rapl:0", "package-0", 900_000_000)
    root = tree(
        tmp_path,
        wrapping
        | domain("intel-rapl:0:0", "core", 0)
        | domain("intel-rapl:0:1", "dram", 5_000_000)
        | domain("intel-rapl:1", "package-1", 0)
        | domain("intel-rapl:1:0", "core", 0)
        | domain("intel-rapl:2", "psys", 0)
        | domain("intel-rapl-mmio:0", "package-0", 0),
    )
    with Energy(idle_seconds=0.05, root=root, open_gpu=no_gpu) as energy:
        tree(root, domain("intel-rapl:0", "package-0", 400_000_000))  # + 500 J, past 1000 J
        tree(root, domain("intel-rapl:0:1", "dram", 25_000_000))  # + 20 J
        tree(root, domain("intel-rapl:1", "package-1", 80_000_000))  # + 80 J
        for counted_elsewhere in ("intel-rapl:0:0", "intel-rapl:1:0", "intel-rapl:2", "intel-rapl-mmio:0"):
            tree(root, {f"{RAPL}/{counted_elsewhere}/energy_uj": 999_000_000})
    found = energy.report(frames=10)
    assert found["joule_per_frame"] == pytest.approx(60)
    assert found["joule_per_frame_above_idle"] == pytest.approx(60)  # at rest the counters stood still
    assert found["idle_watt"] == 0
    assert found["counter"] == "RAPL package-0 + RAPL package-0 dram + RAPL package-1"
    assert [part["joule"] for part in found["parts"]] == pytest.approx([500, 20, 80])
    json.dumps(found)


def test_a_counter_that_wraps_every_second_reading_is_followed() -> None:
    readings = iter(value % 100 for value in range(0, 1000, 60))
    meter = Meter("counter", lambda: next(readings), wraps_at=100)
    meter.start()
    for _ in range(10):
        meter.update()
    assert meter.joule == 600


def test_power_at_rest_is_taken_off_a_jetsons_rails(tmp_path: Path) -> None:
    inside = ("VDD_CPU_GPU_CV", 5000, 300)
    root = tree(tmp_path, rails("hwmon1", ("VDD_IN", 5000, 800), inside))  # 4 W
    with Energy(gpu=True, idle_seconds=0.15, root=root, open_gpu=no_gpu) as energy:
        tree(root, rails("hwmon1", ("VDD_IN", 5000, 2000), inside))  # 10 W
        time.sleep(0.6)
    found = energy.report(frames=5)
    assert found["counter"] == "INA3221 VDD_IN"
    assert found["idle_watt"] == pytest.approx(4)
    assert 6.9 < found["watt"] <= 10  # the step lies between two readings, at worst the only two
    share = found["joule_per_frame_above_idle"] / found["joule_per_frame"]
    assert share == pytest.approx((found["watt"] - 4) / found["watt"])
    assert found["joule_per_frame"] * 5 > 0.6 * 6.9


def test_the_rails_of_a_module_without_a_common_one_are_named(tmp_path: Path) -> None:
    first = rails("hwmon3", ("VDD_GPU_SOC", 1000, 3000), ("VDD_CPU_CV", 1000, 2000), ("VIN_SYS_5V0", 5000, 1000))
    root = tree(tmp_path, first | rails("hwmon4", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 1800, 500)))
    meters, missing = find_meters(gpu=True, root=root, open_gpu=no_gpu)
    assert ([meter.name for meter in meters], missing) == (["INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"], "")
    time.sleep(0.01)
    meters[0].update()
    assert meters[0].joule / meters[0].seconds == pytest.approx(10)


def test_amds_energy_driver_counts_by_socket(tmp_path: Path) -> None:
    labels = {"energy1": "Ecore000", "energy17": "Esocket0", "energy18": "Esocket1"}
    folder = "sys/class/hwmon/hwmon2"
    root = tree(tmp_path, {f"{folder}/name": "amd_energy"} | {f"{folder}/{k}_label": v for k, v in labels.items()})
    tree(root, {f"{folder}/{key}_input": 0 for key in labels})
    with Energy(idle_seconds=0, root=root) as energy:
        tree(root, {f"{folder}/{key}_input": 3_000_000 for key in labels})
    found = energy.report(frames=3)
    assert (found["joule_per_frame"], found["counter"]) == (2, "amd_energy Esocket0 + amd_energy Esocket1")
    assert found["joule_per_frame_above_idle"] is None


def no_counter(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return "shows no energy counter of the processor"


def forbidden(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tree(root, domain("intel-rapl:0", "package-0", 7))
    read_text = Path.read_text

    def refuse(path: Path, *args: Any, **options: Any) -> str:
        if path.name == "energy_uj":  # a real permission would not stop the root user, who may run this test
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    return f"needs read access to {root / RAPL / 'intel-rapl:0/energy_uj'}"


def standing(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tree(root, domain("intel-rapl:0", "package-0", 7))
    return "RAPL package-0 did not move"


def nonsense(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tree(root, domain("intel-rapl:0", "package-0", 7) | {f"{RAPL}/intel-rapl:0/energy_uj": "none"})
    return "holds 'none', expected a whole number"


def too_short(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(power_module, "LEAST_SECONDS", 5.0)
    tree(root, rails("hwmon1", ("VDD_IN", 5000, 800)))
    return "s are too short for INA3221 VDD_IN; measure more frames"


def unknown_rails(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    tree(root, rails("hwmon0", ("VDD_A", 5000, 100), ("VDD_B", 5000, 100)))
    return "which of the rails VDD_A, VDD_B carry the whole module is not known"


@pytest.mark.parametrize("case", [no_counter, forbidden, standing, nonsense, too_short, unknown_rails])
def test_without_a_counter_there_is_no_number(
    case: Callable[[Path, pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = case(tmp_path, monkeypatch)
    with Energy(idle_seconds=0.02, root=tmp_path) as energy:
        pass
    found = energy.report(frames=3)
    assert found["counter"].startswith("not available: ")
    assert why in found["counter"]
    assert {found[key] for key in ("joule_per_frame", "joule_per_frame_above_idle", "watt", "idle_watt")} == {None}


def test_a_counter_lost_on_the_way_gives_no_number(tmp_path: Path) -> None:
    root = tree(tmp_path, domain("intel-rapl:0", "package-0", 7))
    with Energy(idle_seconds=0, root=root) as energy:
        tree(root, {f"{RAPL}/intel-rapl:0/energy_uj": 9_000_000})
        (root / RAPL / "intel-rapl:0/energy_uj").unlink()
    found = energy.report(frames=1)
    assert (found["joule_per_frame"], found["parts"]) == (None, [])
    assert "No such file" in found["counter"]


def test_a_gpus_counter_joins_the_processors(tmp_path: Path) -> None:
    root = tree(tmp_path, domain("intel-rapl:0", "package-0", 0))
    driver = FakeDriver(nvmlDeviceGetTotalEnergyConsumption=5_000)
    with Energy(gpu=True, idle_seconds=0, root=root, open_gpu=lambda: Gpu(driver)) as energy:
        driver.values["nvmlDeviceGetTotalEnergyConsumption"] = 35_000
        tree(root, {f"{RAPL}/intel-rapl:0/energy_uj": 10_000_000})
    found = energy.report(frames=4)
    assert (found["joule_per_frame"], found["counter"]) == (10, "NVML + RAPL package-0")

    driver = FakeDriver(nvmlDeviceGetPowerUsage=150_000)
    with Energy(gpu=True, idle_seconds=0, root=tmp_path / "empty", open_gpu=lambda: Gpu(driver)) as energy:
        time.sleep(0.01)
    found = energy.report(frames=4)
    assert found["watt"] == pytest.approx(150)
    assert "NVML power, integrated (without the processor: " in found["counter"]


@pytest.mark.parametrize(
    ("open_gpu", "why"),
    [
        (no_gpu, "no NVIDIA driver"),
        (lambda: Gpu(FakeDriver(count=0)), "finds no GPU"),
        (lambda: Gpu(FakeDriver(mig=1, nvmlDeviceGetTotalEnergyConsumption=1)), "partitioned"),
        (lambda: Gpu(FakeDriver()), "neither energy nor power"),
    ],
)
def test_a_gpus_work_is_never_told_without_the_gpu(open_gpu: Callable[[], Gpu], why: str, tmp_path: Path) -> None:
    root = tree(tmp_path, domain("intel-rapl:0", "package-0", 0))
    with Energy(gpu=True, idle_seconds=0, root=root, open_gpu=open_gpu) as energy:
        tree(root, {f"{RAPL}/intel-rapl:0/energy_uj": 10_000_000})
    found = energy.report(frames=1)
    assert found["joule_per_frame"] is None
    assert why in found["counter"]


def test_of_several_gpus_the_one_that_computes_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_module, "_first_bus_id", lambda: b"0000:65:00.0")
    driver = FakeDriver(count=2, nvmlDeviceGetCurrentClocksThrottleReasons=0x04 | 0x40 | 0x01)
    assert Gpu(driver).slowdowns() == ["power limit", "heat (hardware)"]  # idleness, 1, is no slowdown
    assert driver.handles == [b"0000:65:00.0"]


# the watch


def stat(user: int, idle: int, steal: int = 0, cpus: int = 4) -> str:
    return "\n".join([f"cpu  {user} 0 0 {idle} 0 0 0 {steal} 0 0", *(f"cpu{i} 0" for i in range(cpus))])


def process(pid: int, parent: int, ticks: int, ended_children: int = 0) -> dict[str, object]:
    fields = ["S", parent, *[0] * 9, ticks, 0, ended_children, 0, 20]
    return {f"proc/{pid}/stat": f"{pid} (a) name) {' '.join(map(str, fields))}"}


def test_sensors_read_clocks_heat_throttling_and_who_computes(tmp_path: Path) -> None:
    me = os.getpid()
    zone, chip = "sys/class/thermal/thermal_zone", "sys/class/hwmon/hwmon0"
    root = tree(
        tmp_path,
        {f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": khz for i, khz in enumerate((800_000, 3_400_000))}
        | {f"{CPU}/cpu{i}/thermal_throttle/core_throttle_count": count for i, count in enumerate((7, 100))}
        | {f"{zone}0/type": "cpu-thermal", f"{zone}0/temp": 95_500}
        | {f"{zone}0/trip_point_0_type": "passive", f"{zone}0/trip_point_0_temp": 99_000}
        | {f"{zone}1/type": "PMIC-Die", f"{zone}1/temp": 100_000}
        | {f"{zone}2/type": "cv-thermal", f"{zone}2/temp": 255_000}
        | {f"{chip}/name": "coretemp", f"{chip}/temp1_input": 61_000, f"{chip}/temp1_label": "Core 0"}
        | {f"{chip}/temp1_crit": 100_000}
        | {"sys/class/hwmon/hwmon1/name": "nvme", "sys/class/hwmon/hwmon1/temp1_input": 99_000}
        | {"sys/class/hwmon/hwmon3/name": "soctherm_oc", "sys/class/hwmon/hwmon3/oc1_event_cnt": 4}
        | {"sys/class/thermal/cooling_device0/type": "pwm-fan", "sys/class/thermal/cooling_device0/cur_state": 3}
        | {"sys/class/thermal/cooling_device1/type": "cpufreq-cpu0", "sys/class/thermal/cooling_device1/cur_state": 2}
        | {"sys/class/devfreq/17000000.gpu/cur_freq": 1_020_000_000}
        | {"sys/fs/cgroup/cpu.stat": "usage_usec 9\nnr_periods 50\nnr_throttled 20"}
        | {"proc/stat": stat(1000, 1000), "proc/loadavg": "1.25 0.5 0.1 1/200 99"}
        | (process(me, 1, 100) | process(me + 1, me, 10) | process(me + 2, me + 1, 5) | process(1, 0, 5000)),
    )
    sensors = Sensors(root)
    tree(
        root,
        {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": 9, "proc/stat": stat(1300, 1060, steal=40)}
        | {"sys/fs/cgroup/cpu.stat": "usage_usec 90\nnr_periods 80\nnr_throttled 33"}
        # 60 + 20 + 15 ticks are this process's and its descendants', of whom one has ended and been waited for
        | process(me, 1, 160, ended_children=20)
        | process(me + 1, me, 25)
        | process(1, 0, 9000),
    )
    (root / f"proc/{me + 2}/stat").unlink()
    found = sensors.sample()
    assert (found["clock_mhz"], found["gpu_clock_mhz"], found["load"]) == (3400, 1020, 1.25)
    assert (found["temperature_c"], found["hottest"], found["hot"]) == (95.5, "cpu-thermal", ["cpu-thermal"])
    assert (found["throttled"], found["slowdowns"], found["quota_stops"]) == (2, ["cpufreq-cpu0"], 13)
    assert found["steal_share"] == pytest.approx(40 / 400)
    assert found["others_share"] == pytest.approx((300 - (60 + 20 + 15 - 5)) / 400)
    assert sensors.cores == 4
    json.dumps(found)


def test_a_virtual_machines_nominal_clock_is_not_told_as_measured(tmp_path: Path) -> None:
    root = tree(tmp_path, {"proc/cpuinfo": "flags : avx2\ncpu MHz : 2596.1"})
    assert Sensors(root).sample()["clock_mhz"] == 2596.1
    tree(root, {"proc/cpuinfo": "flags : avx2 hypervisor\ncpu MHz : 2596.1"})
    found = Sensors(root).sample()
    assert {value for name, value in found.items() if name != "hot"} == {None}


QUIET = {
    "clock_mhz": 3000.0,
    "throttled": 0,
    "quota_stops": None,
    "steal_share": 0.0,
    "others_share": 0.01,
    "slowdowns": [],
    "hot": [],
}


def said(before: dict[str, Any] | None = None, after: dict[str, Any] | None = None, **during: Any) -> list[str]:
    start, end = QUIET | {"speed": 800.0} | (before or {}), QUIET | {"speed": 790.0} | (after or {})
    series = {name: value for name, value in during.items() if isinstance(value, tuple)}
    samples = [QUIET | during | {name: values[i] for name, values in series.items()} for i in range(9)]
    return cautions(start, samples, end, cores=4)


def test_cautions_say_what_speaks_against_the_numbers() -> None:
    assert said() == []
    assert said({"throttled": 3}, {"throttled": 3}) == []
    assert said(clock_mhz=None, throttled=None, steal_share=None, others_share=None, slowdowns=None, hot=None) == []
    assert "throttled itself (its counter rose by 2)" in said({"throttled": 3}, {"throttled": 5})[0]
    falling = (3000.0, 3000.0, 2990.0, 2900.0, 2800.0, 2750.0, 2700.0, 2700.0, 2690.0)
    assert (
        "clock fell by 10 % from the first third of the run to the last (3000 to 2700 MHz)"
        in said(clock_mhz=falling)[0]
    )
    assert said(clock_mhz=falling[::-1]) == []
    assert "GPU's clock fell" in said(gpu_clock_mhz=falling)[0]
    assert "container was held up" in said({"quota_stops": 1}, {"quota_stops": 9})[0]
    assert "12 % slower after the run" in said(after={"speed": 704.0})[0]
    assert "while other processes were busy" in said(after={"speed": 704.0, "others_share": 0.5})[0]
    assert said(after={"speed": 780.0}) == []
    assert "hypervisor took 4.0 %" in said(steal_share=0.04)[0]
    assert "other processes used 1.2 of 4 logical cores" in said(others_share=0.3)[0]
    assert "held down by GPU: power limit" in said(slowdowns=["GPU: power limit"])[0]
    assert "slows down: cpu-thermal" in said(after={"hot": ["cpu-thermal"]})[0]


def test_a_watch_follows_a_machine_that_slows_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "INTERVAL_S", 0.02)
    clock, throttle = f"{CPU}/cpu0/cpufreq/scaling_cur_freq", f"{CPU}/cpu0/thermal_throttle/package_throttle_count"
    root = tree(tmp_path, {clock: 4_000_000, throttle: 0, "proc/stat": stat(100, 100)})
    driver = FakeDriver(nvmlDeviceGetTemperature=70, nvmlDeviceGetClockInfo=1500)
    with Watch(gpu=True, root=root, open_gpu=lambda: Gpu(driver)) as watch:
        time.sleep(0.3)
        tree(root, {clock: 2_000_000, throttle: 6})
        driver.values["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x20
        time.sleep(0.6)
    found = watch.report()
    assert found["before"]["clock_mhz"] == 4000
    assert found["after"]["clock_mhz"] == 2000
    assert found["during"]["clock_mhz"]["min"] == 2000
    assert found["during"]["gpu_temperature_c"] == {"min": 70, "median": 70, "max": 70}
    assert found["slowdowns"] == ["GPU: heat (driver)"]
    sentences = "\n".join(found["cautions"])
    for part in ("throttled itself (its counter rose by 6)", "held down by GPU: heat", "clock fell by 50 %"):
        assert part in sentences
    json.dumps(found)


def test_the_watch_reads_this_machine() -> None:
    with Watch() as watch:
        end = time.perf_counter() + 0.7
        while time.perf_counter() < end:
            pass
    found = watch.report()
    assert found["samples"] >= 1
    assert found["before"]["speed"] > 0
    assert {"load", "others_share"} <= found["during"].keys() <= found["before"].keys()
    for share in ("steal_share", "others_share"):
        assert 0 <= found["after"][share] <= 1
    json.dumps(found)


def test_speed_halves_when_the_same_arithmetic_takes_twice_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    full, root = speed(), np.sqrt

    def twice(values: Any, out: Any) -> None:
        root(values, out=out)
        root(values, out=out)

    monkeypatch.setattr(np, "sqrt", twice)
    assert 0.35 < speed() / full < 0.7


# settings


def test_power_mode_of_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin/nvpmodel"
    tree(tmp_path, {"bin/nvpmodel": '#!/bin/sh\n[ "$1" = -q ] && printf "NV Power Mode: 15W\\n0\\n"'})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    freq = f"{CPU}/cpu0/cpufreq/scaling"
    conf = "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >"
    root = tree(tmp_path, {"etc/nvpmodel.conf": conf, f"{freq}_min_freq": 1510400, f"{freq}_max_freq": 1510400})
    found = power_mode(root)
    assert str(found) == "nvpmodel 15W, clock fixed"
    assert found.cautions() == ["the power mode is 15W, not MAXN (the board has 15W, MAXN_SUPER)"]

    program.write_text("#!/bin/sh\nexec sleep 30\n", encoding="utf-8")
    monkeypatch.setattr(power_mode_module, "_NVPMODEL_SECONDS", 0.2)
    start = time.perf_counter()
    assert power_mode(root).nvpmodel is None
    assert time.perf_counter() - start < 15


def test_power_mode_of_a_laptop(tmp_path: Path) -> None:
    supply, acpi = "sys/class/power_supply", "sys/firmware/acpi/platform_profile"
    root = tree(
        tmp_path,
        {f"{supply}/BAT0/type": "Battery", f"{supply}/BAT0/status": "Discharging", f"{supply}/AC/type": "Mains"}
        | {
            f"{supply}/mouse/type": "Battery",
            f"{supply}/mouse/scope": "Device",
            f"{supply}/mouse/status": "Discharging",
        }
        | {acpi: "balanced", f"{acpi}_choices": "low-power balanced performance"}
        | {f"{CPU}/intel_pstate/no_turbo": 1, f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"},
    )
    found = power_mode(root)
    assert str(found) == "platform profile balanced, governor powersave, on battery, turbo off"
    assert len(found.cautions()) == 3
    tree(root, {f"{supply}/BAT0/status": "Charging", acpi: "performance"})
    tree(root, {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance"})
    assert power_mode(root).cautions() == []
    assert power_mode(root).on_battery is False


def test_a_machine_that_tells_nothing_has_no_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(power_mode(tmp_path)) == ""
    assert power_mode(tmp_path).cautions() == []
