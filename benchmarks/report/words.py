"""The report in words: verdict, cautions, conditions; shared by the terminal, Markdown and HTML."""

from __future__ import annotations

from typing import Any

HEADLINES = {"yes": "Yes, it keeps up", "no": "No, it does not keep up", "none": "Measured"}

STAGES = {
    "decode": "decode",
    "preprocess": "preprocess",
    "host_to_device": "host to device",
    "compute": "compute",
    "device_to_host": "device to host",
    "host": "rest of infer on the host",
    "postprocess": "postprocess",
}
"""stages of a frame in their order, as readers see them"""

ABSENT = "not available"

LEAST_ROUNDS = 6
"""all rounds lie on one side of the true median in a share of 2 / 2^rounds of runs, which is below 5 % from here on"""


def answer(report: dict[str, Any], engine: dict[str, Any]) -> str:
    """One engine's verdict in a sentence."""
    fps, budget = report["asked"]["fps"], report["asked"]["budget_ms"]
    kept = engine["paced"]
    if kept:
        p99 = kept["latency_ms"]["p99"]
        came = f"{kept['recorded']} of {kept['sent']} frames at {kept['fps']:g} frames/s, p99 {p99:.2f} ms"
    else:
        came = f"{engine['throughput_fps']:.1f} frames/s, p99 {engine['end_to_end_ms']['p99']:.2f} ms"
    limits = ((fps, "{:g} frames/s"), (budget, "p99 within {:g} ms"))
    asked = [text.format(limit) for limit, text in limits if limit is not None]
    if not asked:
        return f"{engine['name']}: {came}"
    met = "meets" if engine["verdict"] == "yes" else "misses"
    return f"{engine['name']} {met} {' and '.join(asked)}: {came}"


def warnings(report: dict[str, Any]) -> list[str]:
    """What makes the numbers less than sound, a sentence each."""
    found = [
        f"{engine['name']}: latency had not become steady when the warm-up was given up after "
        f"{engine['warmup']['frames']} frames"
        for engine in report["engines"]
        if not engine["warmup"]["steady"]
    ]
    found += [
        f"{comparison['model']}: intervals from {comparison['rounds']} rounds are too narrow, for not even their whole "
        f"range holds the true median in 95 % of runs; take --rounds {LEAST_ROUNDS} or more"
        for comparison in report["comparisons"]
        if comparison["rounds"] < LEAST_ROUNDS
    ]
    return found + report["watch"]["cautions"]


def ratios(comparison: dict[str, Any]) -> list[str]:
    """How each engine compares with every other contender, a line each, with the 95 % interval."""
    return [
        f"{row['engine']} is {row['ratio']:.2f} x as fast as {row['against']} "
        f"({row['interval'][0]:.2f} to {row['interval'][1]:.2f})"
        for row in comparison["ratios"]
    ]


def aim(row: dict[str, Any]) -> str:
    """Whether an aim of the project is reached, in a sentence."""
    interval = ""
    if row["interval"]:
        low, high = row["interval"]
        holds = f", which holds {row['wanted']:g}" if low <= row["wanted"] <= high else ""
        interval = f" ({low:.2f} to {high:.2f}{holds})"
    against = f" against {row['against']}" if row["against"] else ""
    found = f"{row['found']:.2f}" if row["interval"] else f"{row['found']:.4g}"
    limit = f"; {row['limit']}" if row["limit"] else ""
    verdict = "reached" if row["reached"] else "missed"
    return f"{row['model']}: {row['aim']}: {verdict}, {row['engine']}{against} {found}{interval}{limit}"


def beside(comparison: dict[str, Any]) -> list[str]:
    """What a comparison tells apart from its table: the cross-check, and who did not take part."""
    found = []
    check = comparison["cross_check"]
    if check:
        found.append(
            f"{check['tool']} takes {check['theirs_ms']:.2f} ms where this bench takes {check['ours_ms']:.2f} ms "
            f"({100 * check['difference']:+.1f} %)"
        )
    if check and check["why"]:
        found.append(f"{check['tool']}: {check['why']}")
    idle = [row["idle_cpu"] for row in comparison["contenders"] if row.get("idle_cpu") is not None]
    if idle:
        found.append(f"between its turns no contender used more than {100 * max(idle):.1f} % of a core")
    return found + [f"{row['name']} left out: {row['why']}" for row in comparison["skipped"]]


def conditions(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Under what the numbers were taken: (name, value) for a table; what the machine does not tell is left out."""
    where, settings = report["environment"], report["settings"]
    governor = f", governor {where['governor']}" if where["governor"] else ""
    clock = f"{where['clock_mhz']:.0f} MHz{governor}" if where["clock_mhz"] else where["governor"]
    quota = f", {where['cpu_quota']:g} of them granted" if where["cpu_quota"] else ""
    before, after = where["load_average"], where["load_average_after"]
    rows = [
        ("frames from", str(settings["source"])),
        ("timed", f"{settings['frames']} frames, one after the other, batch {settings['batch']}"),
        ("threads", str(settings["threads"])),
        ("processor", where["cpu"]),
        ("cores", f"{where['cores']} physical, {where['logical_cores']} logical{quota}"),
        ("instruction sets", ", ".join(where["cpu_flags"])),
        ("clock at the start", clock),
        ("power mode", where.get("power_mode")),
        ("memory", f"{where['memory_gib']:g} GiB" if where["memory_gib"] else None),
        *(("GPU", ", ".join(gpu.values())) for gpu in where["gpu"]),
        ("load, 1 minute", f"{before[0]:.2f} before, {after[0]:.2f} after" if before and after else None),
        ("system", where["os"]),
        ("Python", where["python"]),
        ("packages", ", ".join(f"{name} {version}" for name, version in where["packages"].items())),
    ]
    return [(name, str(value)) for name, value in rows if value]


def counting(report: dict[str, Any]) -> list[str]:
    """How the numbers came about, a sentence each."""
    settings = report["settings"]
    return [
        f"Counted: {settings['count_rule']}.",
        f"Warm-up: {settings['warmup_rule']}.",
        *([f"Batches: {settings['batch_rule']}."] if settings.get("batch_rule") else []),
        "A percentile is a measured latency, never interpolated. Throughput is one frame after the other, without "
        "overlap of stages.",
        "Where a machine has no counter the report says so; nothing is estimated. Research use only.",
    ]
