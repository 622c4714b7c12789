"""What changed between two reports of the bench beyond noise, apart from what the machine itself changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.aims import DICE_DROP
from benchmarks.change.differences import differences
from benchmarks.change.noise import Estimate, of_latencies, of_rounds
from benchmarks.versus.contenders import PACKAGES, given_to, library_of
from ssmt_edge.errors import DataError

LEAST_ROUNDS = 5
LEAST_FRAMES = 100
"""of two runs of the same with 30 frames a simulation found a change of p99 in 24 % of cases, with 100 in 5 %"""
NO_CHANGE = Estimate(0.0, 0.0, 1e9)
METHOD = (
    "changes are of new to old. Latencies: bootstrap over blocks of neighbouring frames, at least "
    f"{LEAST_FRAMES} frames; ratios to peers: bootstrap over rounds, at least {LEAST_ROUNDS}. Intervals are so wide "
    "that the noise within a run shows any change at all in 5 % of comparisons of the same (Bonferroni over everything "
    "judged). What differs only from one run to the next, such as where memory lies, no single run tells: that is left "
    "to the tolerance. The machine's own change is the median over the times of peers that did the same work; it is "
    "taken out of the changes of latency and throughput. Memory is one value a run: the tolerance alone decides. "
    "A cold start counts where the runs of the two reports lie further apart than they scatter. "
    f"Dice may fall by {DICE_DROP:g} on the same images"
)

Pair = tuple[dict[str, Any], dict[str, Any]]
"""the same thing in the old and the new report"""


@dataclass(frozen=True)
class Figure:
    """A figure of an engine in both reports."""

    name: str
    unit: str
    old: float
    new: float
    less_is_better: bool
    estimate: Estimate | None = None
    """of new over old without the machine's own change; None for a single value a run"""
    with_machine: Estimate | None = None
    limit: float | None = None
    """of a single value: by how much it may get worse; None where it cannot be judged"""


def compare_reports(old: dict[str, Any], new: dict[str, Any], tolerance: float = 0.05) -> dict[str, Any]:
    """Compares two reports of schema 2, as `benchmarks.report.schema.read_report` gives them.

    Args:
        tolerance: share by which a figure may get worse, 0 or more; what is worse beyond it and beyond noise counts.

    Returns:
        `verdict` (`worse` or `not worse`), `tolerance`, `cautions` (sentences), `machine` (None without peers; else
        `change`: share by which peers take longer, `interval`, `changed`, `peers`), `method`, `only_old`, `only_new`
        (names of engines without a partner), `engines`: each `name`, `old_name`, `verdict`, `figures`. A figure holds
        `figure`, `unit`, `old`, `new`, `change` (a share; of latencies and throughput without the machine's part),
        `interval` (of the change, None for single values), and `verdict`: `worse`, `better`, `noise` (no change beyond
        noise), `tolerated` (worse beyond noise, within the tolerance), `machine` (a change that is gone once the
        machine's own is taken out), `not judged`.

    Raises:
        DataError: the reports have no engine in common.
    """
    pairs, only_old, only_new = _pairs(old["engines"], new["engines"])
    if not pairs:
        raise DataError(
            f"the reports have no engine in common: the old one has {', '.join(only_old)}, the new one "
            f"{', '.join(only_new)}; give reports of the same engines"
        )
    comparisons = [(_comparison(old, a), _comparison(new, b)) for a, b in pairs]
    drift, peers = _drift(comparisons, old, new)
    figures = [
        [*_latencies(*pair, drift), *_ratios(pair, turns, old, new), *_single_values(*pair, tolerance)]
        for pair, turns in zip(pairs, comparisons, strict=True)
    ]
    miss = 0.05 / max(1, sum(figure.estimate is not None for found in figures for figure in found))
    engines = []
    for (a, b), found in zip(pairs, figures, strict=True):
        rows = [_judged(figure, miss, tolerance) for figure in found]
        engines.append({"name": b["name"], "old_name": a["name"], "verdict": _worst(rows), "figures": rows})
    return {
        "verdict": _worst(engines),
        "tolerance": tolerance,
        "cautions": differences(old, new, pairs),
        "machine": _machine(drift, peers) if peers else None,
        "method": METHOD,
        "only_old": only_old,
        "only_new": only_new,
        "engines": engines,
    }


def _worst(rows: Sequence[dict[str, Any]]) -> str:
    return "worse" if any(row["verdict"] == "worse" for row in rows) else "not worse"


def _pairs(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> tuple[list[Pair], list[str], list[str]]:
    """Engines of the same name; of the rest, those alone in being of a network, precision and backend."""
    named = {engine["name"]: engine for engine in old}
    pairs = [(named.pop(engine["name"]), engine) for engine in new if engine["name"] in named]
    rest = [engine for engine in new if all(engine is not b for _, b in pairs)]
    for engine in list(rest):
        alike = [other for other in named.values() if _kind(other) == _kind(engine)]
        if len(alike) == 1 and sum(_kind(other) == _kind(engine) for other in rest) == 1:
            pairs.append((named.pop(alike[0]["name"]), engine))
            rest.remove(engine)
    return pairs, list(named), [engine["name"] for engine in rest]


def _kind(engine: dict[str, Any]) -> tuple[str, ...]:
    return engine["model"], str(engine["input_size"]), engine["precision"], engine["backend"].split()[0]


def _comparison(report: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any] | None:
    """In which the engine took turns with others."""
    return next((c for c in report["comparisons"] if engine["name"] in c["engines"]), None)


def _contenders(comparison: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in comparison["contenders"]} if comparison else {}


def _peers(turns: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> list[Pair]:
    """Contenders of both comparisons that are not ours."""
    before, after = (_contenders(comparison) for comparison in turns)
    return [(before[name], row) for name, row in after.items() if name in before and not row["ours"]]


def _drift(
    comparisons: Sequence[tuple[dict[str, Any] | None, dict[str, Any] | None]],
    old: dict[str, Any],
    new: dict[str, Any],
) -> tuple[Estimate, list[str]]:
    """The machine's own change of time: that of peers that did the same work in both; and which peers."""
    changes: dict[str, Estimate] = {}
    for turns in comparisons:
        for a, b in _peers(turns):
            if _enough(a, b) and _same_work(b["name"], turns, old, new):
                key = f"{b['name']} on {turns[1]['model']}" if turns[1] else b["name"]
                changes[key] = of_rounds(_times(b)) - of_rounds(_times(a))
    if not changes:
        return NO_CHANGE, []
    logs = np.array([change.log for change in changes.values()])
    within = float(np.median([change.error for change in changes.values()]))
    between = float(logs.std(ddof=1)) / len(logs) ** 0.5 if len(logs) > 1 else 0.0
    degrees = min(change.degrees for change in changes.values())
    return Estimate(float(np.median(logs)), max(within, between), degrees), list(changes)


def _machine(drift: Estimate, peers: list[str]) -> dict[str, Any]:
    low, high = drift.interval(0.05)
    change = exp(drift.log) - 1
    changed = not low <= 1 <= high and abs(change) >= 0.01
    return {"change": change, "interval": [low - 1, high - 1], "changed": changed, "peers": peers}


def _same_work(
    name: str,
    turns: tuple[dict[str, Any] | None, dict[str, Any] | None],
    old: dict[str, Any],
    new: dict[str, Any],
) -> bool:
    """Whether a peer of the same version did the same with as many threads, as far as the reports tell."""
    package, given = PACKAGES.get(library_of(name), name), given_to(name)
    if given == "same":  # the engine's own file, which may be what changed
        return False
    own_graph = not given and package != "torch"  # changes with the export
    work = {(turn["model"], turn.get("reference_sha256") if own_graph else None) for turn in turns if turn}
    terms = [(report["environment"]["packages"].get(package), report["settings"]["threads"]) for report in (old, new)]
    return len(work) == 1 and terms[0] == terms[1]


def _enough(*contenders: dict[str, Any]) -> bool:
    return min(len(row["round_medians_ms"]) for row in contenders) >= LEAST_ROUNDS


def _times(contender: dict[str, Any]) -> NDArray[np.float64]:
    return np.array(contender["round_medians_ms"], float)


def _latencies(a: dict[str, Any], b: dict[str, Any], drift: Estimate) -> Iterator[Figure]:
    before, after = (of_latencies(np.array(engine["latencies_ms"], float)) for engine in (a, b))
    enough = min(len(engine["latencies_ms"]) for engine in (a, b)) >= LEAST_FRAMES

    def figure(name: str, unit: str, old: float, new: float, change: Estimate, machine: Estimate) -> Figure:
        judged = (change - machine, change) if enough else (None, None)
        return Figure(name, unit, old, new, unit == "ms", *judged)

    for name, key in (("median", "p50"), ("p99", "p99")):
        change = after[key] - before[key]
        old, new = (exp(found[key].log) for found in (before, after))
        yield figure(name, "ms", old, new, change, drift)
    change = before["mean"] - after["mean"]
    old, new = (1e3 / exp(found["mean"].log) for found in (before, after))
    yield figure("throughput", "frames/s", old, new, change, NO_CHANGE - drift)


def _ratios(
    pair: Pair,
    turns: tuple[dict[str, Any] | None, dict[str, Any] | None],
    old: dict[str, Any],
    new: dict[str, Any],
) -> Iterator[Figure]:
    """How many times as fast as each peer, from the rounds in which both took turns."""
    first, second = (
        _contenders(comparison).get(engine["name"]) for comparison, engine in zip(turns, pair, strict=True)
    )
    if first is None or second is None:
        return
    ours = (first, second)
    for peers in _peers(turns):
        ratios = []
        for peer, engine in zip(peers, ours, strict=True):
            rounds = min(len(peer["round_medians_ms"]), len(engine["round_medians_ms"]))
            ratios.append(_times(peer)[:rounds] / _times(engine)[:rounds])
        name = peers[1]["name"]
        fair = _enough(*peers, *ours) and _same_work(name, turns, old, new)
        before, after = (of_rounds(values) for values in ratios)
        yield Figure(
            f"times as fast as {name}", "x", exp(before.log), exp(after.log), False, after - before if fair else None
        )


def _single_values(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> Iterator[Figure]:
    """Memory, cold start and Dice, each with a rule of its own for what it may get worse by."""
    before, after = a["memory_mib"]["peak"], b["memory_mib"]["peak"]
    if before and after:
        yield Figure("peak memory", "MiB", before, after, True, limit=tolerance * before)
    if a.get("cold_start_ms") and b.get("cold_start_ms"):
        before, after = a["cold_start_ms"]["total"], b["cold_start_ms"]["total"]
        runs = [engine["cold_start_ms"].get("totals") for engine in (a, b)]
        limit = max(tolerance * before, *(max(r) - min(r) for r in runs)) if all(runs) else None
        yield Figure("cold start", "ms", before, after, True, limit=limit)
    if a.get("accuracy") and b.get("accuracy"):
        before, after = a["accuracy"], b["accuracy"]
        same = all(before[key] == after[key] for key in ("n", "data", "split"))
        yield Figure("Dice", "", before["dice"], after["dice"], False, limit=DICE_DROP if same else None)


def _judged(figure: Figure, miss: float, tolerance: float) -> dict[str, Any]:
    """The figure with its verdict as JSON values."""
    change, interval = figure.new / figure.old - 1 if figure.old else 0.0, None
    if figure.estimate is not None:
        change = exp(figure.estimate.log) - 1
        low, high = figure.estimate.interval(miss)
        interval = [low - 1, high - 1]
        loss = change if figure.less_is_better else -change
        if not low <= 1 <= high:
            verdict = "better" if loss < 0 else "worse" if loss > tolerance else "tolerated"
        else:
            verdict = "machine" if figure.with_machine and _beyond(figure.with_machine, miss) else "noise"
    elif figure.limit is None:
        verdict = "not judged"
    else:
        loss = figure.new - figure.old if figure.less_is_better else figure.old - figure.new
        verdict = "worse" if loss > figure.limit else "better" if -loss > figure.limit else "noise"
    return {
        "figure": figure.name,
        "unit": figure.unit,
        "old": figure.old,
        "new": figure.new,
        "change": change,
        "interval": interval,
        "verdict": verdict,
    }


def _beyond(change: Estimate, miss: float) -> bool:
    low, high = change.interval(miss)
    return not low <= 1 <= high
