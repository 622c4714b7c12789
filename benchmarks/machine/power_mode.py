"""How fast the machine has been told to be: power mode, platform profile, mains or battery, turbo."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine.sysfs import ROOT, read

_NVPMODEL_SECONDS = 10


@dataclass(frozen=True)
class PowerMode:
    """What this machine tells of it; None otherwise."""

    nvpmodel: str | None
    """a Jetson's power mode, such as `MAXN` or `15W`"""
    nvpmodels: tuple[str, ...]
    """the modes that the Jetson has"""
    profile: str | None
    """platform profile of the firmware, such as `balanced`"""
    profiles: tuple[str, ...]
    governor: str | None
    """who chooses the processor's clock"""
    on_battery: bool | None
    turbo: bool | None
    fixed_clock: bool | None
    """whether the processor's lowest and highest allowed clock are the same, as `jetson_clocks` sets them"""

    def __str__(self) -> str:
        facts = (
            self.nvpmodel and f"nvpmodel {self.nvpmodel}",
            self.profile and f"platform profile {self.profile}",
            self.governor and f"governor {self.governor}",
            {True: "on battery", False: "on mains", None: None}[self.on_battery],
            {True: "turbo on", False: "turbo off", None: None}[self.turbo],
            "clock fixed" if self.fixed_clock else None,
        )
        return ", ".join(fact for fact in facts if fact)

    def cautions(self) -> list[str]:
        """What is set for less than the full speed, a sentence each."""
        found = []
        if self.nvpmodel and not self.nvpmodel.startswith("MAXN"):
            others = f" (the board has {', '.join(self.nvpmodels)})" if self.nvpmodels else ""
            found.append(f"the power mode is {self.nvpmodel}, not MAXN{others}")
        if self.profile and self.profile != "performance" and "performance" in self.profiles:
            found.append(f"the platform profile is {self.profile}, not performance")
        if self.governor and self.governor != "performance":
            found.append(f"the clock may vary (governor {self.governor})")
        if self.on_battery:
            found.append("the machine runs on battery")
        return found


def power_mode(root: Path = ROOT) -> PowerMode:
    """Asks the files under `root` and, on a Jetson, the program `nvpmodel`."""
    cpu = root / "sys/devices/system/cpu"
    acpi = root / "sys/firmware/acpi"
    lowest, highest = read(cpu / "cpu0/cpufreq/scaling_min_freq"), read(cpu / "cpu0/cpufreq/scaling_max_freq")
    return PowerMode(
        nvpmodel=_nvpmodel(),
        nvpmodels=tuple(re.findall(r"POWER_MODEL\s+ID=\d+\s+NAME=(\w+)", read(root / "etc/nvpmodel.conf") or "")),
        profile=read(acpi / "platform_profile"),
        profiles=tuple((read(acpi / "platform_profile_choices") or "").split()),
        governor=read(cpu / "cpu0/cpufreq/scaling_governor"),
        on_battery=_on_battery(root / "sys/class/power_supply"),
        turbo=_turbo(cpu),
        fixed_clock=lowest == highest if lowest and highest else None,
    )


def _nvpmodel() -> str | None:
    program = shutil.which("nvpmodel")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "-q"], capture_output=True, text=True, timeout=_NVPMODEL_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None
    name = re.search(r"NV Power Mode:\s*(\w+)", answer.stdout)
    return name[1] if name else None


def _on_battery(supplies: Path) -> bool | None:
    """Whether a battery of the machine itself gives it power; None where it has no battery."""
    found = None
    for battery in supplies.glob("*"):
        # a mouse or a pen has its battery here, too
        if read(battery / "type") == "Battery" and read(battery / "scope") != "Device":
            found = bool(found) or read(battery / "status") == "Discharging"
    return found


def _turbo(cpu: Path) -> bool | None:
    for file, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        value = read(cpu / file)
        if value is not None:
            return value == on
    return None
