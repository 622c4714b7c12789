"""What is not alike in two reports, so that their difference may not be the engines'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MACHINE = {
    "cpu": "processor",
    "cpu_flags": "instruction sets",
    "cores": "physical cores",
    "logical_cores": "logical cores",
    "cpu_quota": "cores granted",
    "memory_gib": "memory in GiB",
    "governor": "governor",
    "power_mode": "power mode",
    "os": "system",
    "python": "Python",
}
_SETTINGS = {"threads": "threads", "source": "source", "frames": "frames", "batch": "batch"}
_ENGINE = {
    "model": "network",
    "input_size": "input size",
    "precision": "precision",
    "backend": "backend",
    "built_for": "what it is built for",
    "checkpoint_sha256": "weights",
    "outputs": "outputs",
}


def differences(
    old: dict[str, Any], new: dict[str, Any], pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> list[str]:
    """Sentences, the gravest first: machine, settings, versions, the engines themselves, what each report warns of."""
    from benchmarks.report.words import warnings

    before, after = old["environment"], new["environment"]
    found = [f"another machine or state: {name} {_was(before, after, key)}" for key, name in _MACHINE.items()
             if before.get(key) != after.get(key)]  # fmt: skip
    if before["gpu"] != after["gpu"]:
        gpus = [", ".join(gpu["name"] for gpu in where["gpu"]) or "none" for where in (before, after)]
        found.append(f"another machine or state: GPU {gpus[0]}, now {gpus[1]}, or its driver")
    found += [
        f"other settings: {name} {_was(old['settings'], new['settings'], key)}"
        for key, name in _SETTINGS.items()
        if old["settings"].get(key) != new["settings"].get(key)
    ]
    packages = sorted({*before["packages"], *after["packages"]} - {"ssmt-edge"})
    found += [
        f"other versions: {name} {_was(before['packages'], after['packages'], name)}"
        for name in packages
        if before["packages"].get(name) != after["packages"].get(name)
    ]
    found += [
        f"{b['name']}: another {name}: {_was(a, b, key)}"
        for a, b in pairs
        for key, name in _ENGINE.items()
        if a[key] != b[key]
    ]
    return found + [f"{which} report: {text}" for which, r in (("old", old), ("new", new)) for text in warnings(r)]


def _was(before: dict[str, Any], after: dict[str, Any], key: str) -> str:
    return f"{_short(before.get(key))}, now {_short(after.get(key))}"


def _short(value: Any) -> str:
    if value is None:
        return "not told"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a digest
