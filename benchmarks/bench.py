"""The bench from engine folders to one report as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import ssmt_edge
from benchmarks.compare import METHOD, compare, ratio
from benchmarks.contenders import HOW, check_peers, open_contender
from benchmarks.environment import environment, load_average
from benchmarks.measure import (
    WARMUP_RULE,
    Latencies,
    jobs,
    measure,
    peak_resident_mib,
    reset_peak_memory,
    resident_mib,
    summary,
)
from engines import open_engine, read_manifest, reference_graph
from engines.device import physical_cores
from ssmt_edge.errors import UsageError
from ssmt_edge.segment import Segmenter
from ssmt_edge.spec import COUNT_RULE, Engine, EngineManifest

SCHEMA = 1
COMPARED_FRAMES = 16

Progress = Callable[[str, int, int], None]


def run_bench(
    engines: Sequence[Path],
    *,
    source: str | None = None,
    versus: Sequence[str] = (),
    torch: Callable[[int], Engine] | None = None,
    frames: int = 300,
    rounds: int = 10,
    threads: int | None = None,
    fps: float | None = None,
    budget_ms: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measures engines on frames, compares them with each other and with peers, and answers whether they keep up.

    Args:
        engines: engine folders.
        source: what to decode frames from, over and over; None for phantoms held in memory.
        versus: peers, of `onnxruntime`, `openvino`, `torch`.
        torch: opens the PyTorch network of the same weights with so many threads, for the peer `torch`.
        frames: timed frames an engine, at least 10; a contender is timed on as many, spread over the rounds.
        rounds: turns of each contender in the comparison, at least 3.
        threads: threads of computation on the CPU; None for the physical cores this process may use.
        fps: frames a second asked for, end to end, one frame after the other.
        budget_ms: latency asked for: 99 % of the frames end to end within it.
        progress: called with (what is going on, steps done, steps).

    Returns:
        The report: `schema`, `version`, `verdict` (`yes`, `no`, or `none` when nothing was asked), `asked`,
        `settings`, `environment`, `engines` (one object each), `comparison` (None without contenders).

    Raises:
        UsageError: options out of range, unknown peers, engines of different weights compared with peers.
        MissingDependency: a peer is not installed.
        SsmtError: an engine, a peer or the source cannot be opened.
    """
    check_peers(versus, torch is not None)
    _check(engines, frames, rounds, threads, fps, budget_ms)
    report_progress = progress or (lambda what, done, total: None)
    threads = threads or physical_cores()
    names = _names(engines)
    manifests = [_manifest(path, threads) for path in engines]
    if versus:
        _check_same_weights(names, manifests)
    where = environment()
    results = []
    for i, (name, path, manifest) in enumerate(zip(names, engines, manifests, strict=True)):
        report_progress(f"measuring {name}", i, len(names))
        times, costs = _measure_engine(path, source, frames, threads)
        results.append(
            {"name": name, "verdict": _verdict(times, fps, budget_ms)}
            | _described(path, manifest)
            | _timed(times)
            | costs
        )
    report_progress("measured", len(names), len(names))
    comparison = None
    if versus or (len(names) > 1 and len({manifest.checkpoint_sha256 for manifest in manifests}) == 1):
        comparison = _compare(names, engines, source, versus, torch, frames, rounds, threads, report_progress)
    where["load_average_after"] = load_average()
    answers = {result["verdict"] for result in results}
    return {
        "schema": SCHEMA,
        "version": ssmt_edge.__version__,
        "verdict": "no" if "no" in answers else answers.pop(),
        "asked": {"fps": fps, "budget_ms": budget_ms},
        "settings": {
            # the name only: a path may tell who the user is
            "source": Path(source).name if source else "phantoms (synthetic frames held in memory, no decoding)",
            "frames": frames,
            "threads": threads,
            "batch": 1,
            "warmup_rule": WARMUP_RULE,
            "count_rule": COUNT_RULE,
        },
        "environment": where,
        "engines": results,
        "comparison": comparison,
    }


def _check(
    engines: Sequence[Path],
    frames: int,
    rounds: int,
    threads: int | None,
    fps: float | None,
    budget_ms: float | None,
) -> None:
    if not engines:
        raise UsageError("no engine given; expected at least one engine folder")
    limits = (("--frames", frames, 10), ("--rounds", rounds, 3), ("--threads", threads, 1))
    for option, count, least in limits:
        if count is not None and count < least:
            raise UsageError(f"{option} {count} is too few; expected {least} or more")
    for option, value in (("--fps", fps), ("--budget-ms", budget_ms)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{option} {value:g} makes no sense; expected a number above 0")


def _names(engines: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where two are alike or one is called like a peer."""
    short = [path.resolve().name for path in engines]
    names = short if len(set(short)) == len(short) and not set(short) & set(HOW) else [str(path) for path in engines]
    if len(set(names)) < len(names):
        raise UsageError(f"{max(names, key=names.count)} is given twice; name each engine once")
    return names


def _check_same_weights(names: Sequence[str], manifests: Sequence[EngineManifest]) -> None:
    for name, manifest in zip(names[1:], manifests[1:], strict=True):
        if manifest.checkpoint_sha256 != manifests[0].checkpoint_sha256:
            raise UsageError(
                f"--vs compares the same weights, but {names[0]} and {name} were built from different checkpoints; "
                f"bench them separately"
            )


def _manifest(path: Path, threads: int) -> EngineManifest:
    """What an engine is; opening it shows before any measurement that it can be opened."""
    with open_engine(path, threads):
        return read_manifest(path)


def _measure_engine(path: Path, source: str | None, frames: int, threads: int) -> tuple[Latencies, dict[str, Any]]:
    """Latencies of one engine, and what it takes to open and hold it."""
    reset_peak_memory()
    before_mib = resident_mib()
    start = perf_counter()
    with open_engine(path, threads) as engine:
        open_ms = 1e3 * (perf_counter() - start)
        times = measure(Segmenter(engine), source, frames)
        peak_mib = peak_resident_mib()
    return times, {
        "start_ms": {"open": open_ms, "first_frame": times.first_ms, "first_mask": open_ms + times.first_ms},
        "memory_mib": {"before": before_mib, "peak": peak_mib},
    }


def _described(path: Path, manifest: EngineManifest) -> dict[str, Any]:
    return {
        "model": manifest.spec.model,
        "input_size": manifest.spec.input_size,
        "precision": manifest.precision,
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "built_for": " ".join(filter(None, (manifest.device.name, manifest.device.instruction_set))),
        "checkpoint_sha256": manifest.checkpoint_sha256,
        "outputs": list(manifest.outputs),
        "gmac": manifest.gmac,
        "gflops": manifest.gflops,
        "parameters": manifest.parameters,
        "size_mib": sum((path / file).stat().st_size for file in manifest.files) / 2**20,
    }


def _timed(times: Latencies) -> dict[str, Any]:
    return {
        "throughput_fps": times.throughput,
        "end_to_end_ms": summary(times.end_to_end_ms),
        "stages_ms": {stage: summary(values) for stage, values in times.stages_ms.items()},
        "warmup": {"frames": times.warmup_frames, "steady": times.steady},
        "latencies_ms": [round(float(value), 4) for value in times.end_to_end_ms],
    }


def _verdict(times: Latencies, fps: float | None, budget_ms: float | None) -> str:
    if fps is None and budget_ms is None:
        return "none"
    fast = fps is None or times.throughput >= fps
    prompt = budget_ms is None or summary(times.end_to_end_ms)["p99"] <= budget_ms
    return "yes" if fast and prompt else "no"


def _compare(
    names: Sequence[str],
    engines: Sequence[Path],
    source: str | None,
    versus: Sequence[str],
    torch: Callable[[int], Engine] | None,
    frames: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    """The comparison's part of the report."""
    graph = reference_graph(engines[0])
    with open_engine(engines[0], threads) as engine:
        inputs, spec = _inputs(Segmenter(engine), source), engine.spec
    openers: dict[str, Callable[[], Engine]] = {}
    for name, path in zip(names, engines, strict=True):
        openers[name] = partial(open_engine, path, threads)
    for peer in versus:
        openers[peer] = partial(open_contender, peer, graph, spec, threads, torch)
    progress("opening contenders", 0, rounds * len(openers))
    standings = compare(
        openers,
        partial(open_contender, "onnxruntime", graph, spec, threads),
        inputs,
        rounds=rounds,
        frames_per_turn=-(-frames // rounds),
        progress=lambda done, total: progress("comparing", done, total),
    )
    ours = [standing for standing in standings if standing.name in names]
    ratios = []
    for engine_ in ours:
        for other in standings:
            if other is not engine_:
                value, interval = ratio(other.round_medians_ms, engine_.round_medians_ms)
                ratios.append({"engine": engine_.name, "against": other.name, "ratio": value, "interval": interval})
    return {
        "method": METHOD,
        "reference": f"{graph.name} of {names[0]} in a plain ONNX Runtime session",
        "distinct_frames": len(inputs),
        "rounds": rounds,
        "frames_per_turn": -(-frames // rounds),
        "contenders": [
            {
                "name": standing.name,
                "ours": standing.name in names,
                "how": HOW.get(standing.name, "this engine"),
                "median_ms": standing.median_ms,
                "interval_ms": standing.interval_ms,
                "round_medians_ms": [round(float(value), 4) for value in standing.round_medians_ms],
                "max_probability_difference": standing.max_probability_difference,
                "mask_agreement": standing.mask_agreement,
            }
            for standing in standings
        ],
        "ratios": ratios,
    }


def _inputs(segmenter: Segmenter, source: str | None) -> NDArray[np.uint8]:
    """The first frames of the source (or phantoms) as network inputs, uint8 [M, 1, S, S], without repetition."""
    with closing(jobs(source)) as supply:
        located = islice(segmenter.locate(supply), COMPARED_FRAMES)
        return np.unique(np.concatenate([segmenter.preprocess(job).inputs for job in located]), axis=0)
