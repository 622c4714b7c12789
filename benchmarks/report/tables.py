"""Every table of the report, once, for Markdown and HTML alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report.words import ABSENT, STAGES, conditions


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text: tuple[int, ...] = ()
    """columns of words beside the first; the others are numbers"""
    total: bool = False
    """whether the last row sums up"""


def number(value: float | None, form: str = ".2f") -> str:
    """A number as text, or that there is none."""
    return ABSENT if value is None else format(value, form)


def span(interval: Sequence[float] | None, form: str = ".2f") -> str:
    """A 95 % interval."""
    return "" if interval is None else f"{interval[0]:{form}} to {interval[1]:{form}}"


def overview(report: dict[str, Any]) -> Table:
    """All engines side by side: speed, accuracy and memory."""
    accuracy = any(engine.get("accuracy") for engine in report["engines"])
    roof = any(engine.get("roofline") for engine in report["engines"])
    head = ["engine", "network", "precision", "backend", "p50 ms", "p99 ms", "frames/s"]
    head += ["Dice"] * accuracy + ["peak MiB"] + ["of the roof"] * roof
    rows = []
    for engine in report["engines"]:
        total, found, layers = engine["end_to_end_ms"], engine.get("accuracy"), engine.get("roofline")
        row = [engine["name"], engine["model"], engine["precision"].upper(), engine["backend"]]
        row += [number(total["p50"]), number(total["p99"]), number(engine["throughput_fps"], ".1f")]
        row += [number(found["dice"] if found else None, ".4f")] * accuracy
        row += [number(engine["memory_mib"]["peak"], ".0f")]
        row += [percent(layers["of_ceiling"] if layers else None)] * roof
        rows.append(row)
    return Table("Side by side", head, rows, text=(1, 2, 3))


def size(report: dict[str, Any]) -> Table:
    """What every engine computes and holds."""
    rows = [
        [engine["name"], f"{engine['input_size']} x {engine['input_size']}", ", ".join(engine["outputs"]),
         number(engine["gmac"], ".3f"), number(engine["gflops"], ".3f"), f"{engine['parameters']:,}",
         number(engine["size_mib"], ".1f")]
        for engine in report["engines"]
    ]  # fmt: skip
    head = ["engine", "input", "outputs", "GMAC", "GFLOPs", "parameters", "MiB on disk"]
    return Table("What they compute", head, rows, f"Counted: {report['settings']['count_rule']}.", text=(1, 2))


def latency(engine: dict[str, Any]) -> Table:
    """Percentiles of every stage and of the whole."""
    figures = list(engine["end_to_end_ms"])
    rows = [[STAGES[stage], *_figures(values, figures)] for stage, values in stages(engine).items()]
    rows.append(["end to end", *_figures(engine["end_to_end_ms"], figures)])
    return Table("Percentiles", ["ms a frame", *figures], rows, total=True)


def stages(engine: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The engine's stages in the order in which a frame passes them."""
    return {stage: engine["stages_ms"][stage] for stage in STAGES if stage in engine["stages_ms"]}


def paced(report: dict[str, Any]) -> Table | None:
    """At a given frame rate, as the product runs."""
    rows = []
    for engine in report["engines"]:
        found = engine.get("paced")
        if found:
            counts = (f"{found[name]:,}" for name in ("sent", "recorded", "dropped"))
            times = _figures(found["latency_ms"], ("p50", "p95", "p99", "p99.9", "max"))
            rows.append([engine["name"], f"{found['fps']:g}", *counts, *times])
    head = ["engine", "frames/s asked", "sent", "recorded", "dropped", "p50 ms", "p95", "p99", "p99.9", "max"]
    note = (
        "Latency from the moment a frame was due to its mask; a live source's newest frame wins, and drops are counted."
    )
    return Table("At a frame rate", head, rows, note) if rows else None


def streams(report: dict[str, Any]) -> Table | None:
    """Several streams through one engine."""
    rows = [
        [engine["name"], str(row["streams"]), number(row["fps_each"], ".1f"), number(row["fps_total"], ".1f"),
         *_figures(row["latency_ms"], ("p50", "p99", "max"))]
        for engine in report["engines"]
        for row in engine.get("streams") or ()
    ]  # fmt: skip
    head = ["engine", "streams", "fps each", "fps in all", "p50 ms", "p99", "max"]
    return Table("Several streams, one engine", head, rows) if rows else None


def batches(report: dict[str, Any]) -> Table | None:
    """Throughput of bare inference by batch."""
    rows = [
        [engine["name"], str(row["batch"]), number(row["ms"]), span(row["interval_ms"]), number(row["fps"], ".1f")]
        for engine in report["engines"]
        for row in engine.get("batches") or ()
    ]
    head = ["engine", "batch", "ms a call", "95 % interval", "frames/s"]
    rule = report["settings"].get("batch_rule")
    return Table("Throughput of bare inference", head, rows, f"Method: {rule}." if rule else "") if rows else None


def cold_start(report: dict[str, Any]) -> Table | None:
    """From a fresh process to the first mask."""
    rows = []
    runs: list[int] = []
    for engine in report["engines"]:
        found = engine.get("cold_start_ms")
        if found:
            rows.append([engine["name"], *_figures(found, ("process", "open", "first_mask", "total"), ".0f")])
            runs.append(found["runs"])
    if not rows:
        return None
    note = (
        f"Medians of {runs[0]} fresh processes, the start of Python in the first; the files lie in the system's cache."
    )
    return Table("Cold start", ["engine", "imports, ms", "opened", "first mask", "in all"], rows, note)


def memory(report: dict[str, Any]) -> Table:
    """Resident and device memory."""
    rows, methods = [], []
    for engine in report["engines"]:
        found = engine["memory_mib"]
        rows.append([engine["name"], *(number(found.get(key), ".0f") for key in ("start", "peak", "device"))])
        methods.append(found.get("method") or "")
    note = "; ".join(dict.fromkeys(filter(None, methods)))
    return Table("Memory", ["engine", "at the start, MiB", "peak, MiB", "device, MiB"], rows, note)


def energy(report: dict[str, Any]) -> Table | None:
    """Energy a frame, by the machine's counters alone."""
    rows = []
    for engine in report["engines"]:
        found = engine.get("energy")
        if found and found["joule_per_frame"] is None:
            rows.append([engine["name"], ABSENT, "", "", "", found["counter"].removeprefix(f"{ABSENT}: ")])
        elif found:
            names = ("joule_per_frame", "joule_per_frame_above_idle", "watt", "idle_watt")
            rows.append([engine["name"], *(number(found.get(name), ".3g") for name in names), found["counter"]])
    head = ["engine", "joule a frame", "above idle", "watt", "idle watt", "counter"]
    return Table("Energy", head, rows, text=(5,)) if rows else None


def contenders(comparison: dict[str, Any]) -> Table:
    """Everything that took turns, fastest first, with what its speed costs in accuracy."""
    dice = any(row.get("dice") is not None for row in comparison["contenders"])
    head = ["contender", "how", "median ms", "95 % interval"] + ["Dice"] * dice
    head += ["mask agreement", "largest difference"]
    rows = []
    for row in sorted(comparison["contenders"], key=lambda row: row["median_ms"]):
        cells = [row["name"], row["how"], number(row["median_ms"]), span(row["interval_ms"])]
        cells += [number(row.get("dice"), ".4f")] * dice
        rows.append([*cells, number(row["mask_agreement"], ".4f"), number(row["max_probability_difference"], ".4f")])
    return Table("Median time of inference", head, rows, compared_with(comparison), text=(1,))


def compared_with(comparison: dict[str, Any]) -> str:
    """What agreement and difference refer to."""
    return (
        f"Mask agreement (Dice of two masks) and largest difference of nodule probability (0 to 1) are against "
        f"{comparison['reference']}, on {comparison['distinct_frames']} frames."
    )


def ratio_table(comparison: dict[str, Any]) -> Table | None:
    """How many times as fast each engine is; None where only one is left."""
    rows = [
        [row["engine"], row["against"], number(row["ratio"]), span(row["interval"])] for row in comparison["ratios"]
    ]
    note = f"Method: {comparison['method']}."
    head = ["engine", "against", "times as fast", "95 % interval"]
    return Table("Ratios", head, rows, note, text=(1,)) if rows else None


def accuracy(report: dict[str, Any]) -> Table | None:
    """Dice against truth."""
    rows = []
    for engine in report["engines"]:
        found = engine.get("accuracy")
        if found:
            where = f"{found['data']}, {found['split']}" if found["split"] else found["data"]
            rows.append(
                [engine["name"], number(found["dice"], ".4f"), span(found["interval"], ".4f"), str(found["n"]), where]
            )
    head = ["engine", "Dice", "95 % interval", "images", "data"]
    note = "Mean over images, in the frames' own pixels."
    return Table("Accuracy", head, rows, note, text=(4,)) if rows else None


WATCHED = {
    "clock_mhz": "clock, MHz",
    "temperature_c": "temperature, °C",
    "hottest": "hottest part",
    "throttled": "times throttled",
    "quota_stops": "times stopped by the quota",
    "steal_share": "taken by the hypervisor",
    "others_share": "other processes' share",
    "load": "load",
    "gpu_clock_mhz": "GPU clock, MHz",
    "gpu_temperature_c": "GPU temperature, °C",
    "speed": "speed of a fixed piece of arithmetic, million a second",
}


def watch(report: dict[str, Any]) -> Table:
    """What the machine did before, during and after; what it does not tell is named below."""
    found = report["watch"]
    rows, silent = [], []
    for name in dict.fromkeys([*found["before"], *found["during"], *found["after"]]):
        said, during = WATCHED.get(name, name.replace("_", " ")), found["during"].get(name)
        values = [found["before"].get(name), found["after"].get(name)]
        if during is None and values == [None, None]:
            silent.append(said)
            continue
        inside = " / ".join(_watched(name, during[key]) for key in ("min", "median", "max")) if during else ""
        rows.append([said, _watched(name, values[0]), inside, _watched(name, values[1])])
    note = f"This machine does not tell: {'; '.join(silent)}." if silent else ""
    return Table("What the machine did", ["", "before", "during: least / median / most", "after"], rows, note)


def environment(report: dict[str, Any]) -> Table:
    """Under what the numbers were taken."""
    return Table("Conditions", ["what", "value"], [list(row) for row in conditions(report)], text=(1,))


def _figures(values: Mapping[str, float | None], names: Iterable[str], form: str = ".2f") -> list[str]:
    return [number(values[name], form) for name in names]


def percent(share: float | None) -> str:
    return ABSENT if share is None else f"{100 * share:.0f} %"


def _watched(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("_share"):
        return f"{100 * value:.1f} %"
    return f"{value:,.4g}" if isinstance(value, float) and value < 1e4 else str(value)
