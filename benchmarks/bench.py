"""The bench from engine folders to one report as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ssmt_edge
from benchmarks.aims import aims
from benchmarks.machine.environment import environment, load_average
from benchmarks.machine.power import Energy
from benchmarks.machine.watch import Watch
from benchmarks.roof.ceilings import ceilings, gpu_ceilings
from benchmarks.roof.roofline import roofline
from benchmarks.timing.cold import cold_start
from benchmarks.timing.measure import WARMUP_RULE, Latencies, in_memory, measure, summary
from benchmarks.timing.memory import engine_memory
from benchmarks.timing.paced import paced, streams
from benchmarks.timing.throughput import BATCH_RULE, batches
from benchmarks.versus.accuracy import Labelled, accuracy, load_labelled
from benchmarks.versus.comparisons import check_versus, compare_engines, network_inputs
from benchmarks.versus.contenders import NAMES
from engines import open_engine, read_manifest
from engines.device import physical_cores
from ssmt_edge.errors import UsageError
from ssmt_edge.segment import Segmenter
from ssmt_edge.sources import public_name
from ssmt_edge.spec import COUNT_RULE, EngineManifest

SCHEMA = 2
PACED_SECONDS = 30.0
"""a given frame rate is kept up for so long at most, and for 10 frames at least"""
STREAMS_FPS = 30.0
"""frames a second of each of several streams where no rate was asked for"""
KEPT = 0.99
"""share of the frames that have to become a mask at a rate asked for"""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Asked:
    """How much is measured, and what the verdict is about: see `run_bench`."""

    frames: int
    rounds: int
    threads: int
    fps: float | None
    budget_ms: float | None
    streams: tuple[int, ...]
    brief: bool

    def __post_init__(self) -> None:
        for option, count, least in (
            ("--frames", self.frames, 10),
            ("--rounds", self.rounds, 3),
            ("--threads", self.threads, 1),
        ):
            if count < least:
                raise UsageError(f"{option} {count} is too few; expected {least} or more")
        for option, value in (("--fps", self.fps), ("--budget-ms", self.budget_ms)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} {value:g} makes no sense; expected a number above 0")
        if any(number < 1 for number in self.streams):
            raise UsageError(f"--streams {min(self.streams)} makes no sense; expected 1 or more")


def run_bench(
    engines: Sequence[Path],
    *,
    source: str | None = None,
    versus: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    data: Path | None = None,
    split: str = "val",
    frames: int = 300,
    rounds: int = 10,
    threads: int | None = None,
    fps: float | None = None,
    budget_ms: float | None = None,
    number_of_streams: Sequence[int] = (),
    brief: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, Any]:
    """Measures engines on frames, compares them with each other and with peers, and answers whether they keep up.

    Args:
        engines: engine folders.
        source: what to decode frames from, over and over; None for phantoms held in memory.
        versus: peers, see `benchmarks.versus.contenders`.
        checkpoints: of the engines' weights, for peers that need them; found by their SHA-256.
        data: labelled data set; then every engine and contender gets its Dice.
        split: part of `data`.
        frames: timed frames an engine, at least 10; a contender is timed on as many, spread over the rounds.
        rounds: turns of each contender in the comparison, at least 3.
        threads: threads of computation on the CPU; None for the physical cores this process may use.
        fps: frames come at this rate, and at most 1 % of them may be dropped.
        budget_ms: latency asked for: 99 % of the frames within it.
        number_of_streams: so many streams at once, at `fps` or 30 frames a second each, one case after the other.
        brief: latencies, energy and memory alone: no batches, cold starts, ceilings and layers.
        progress: called with (what is going on, steps done, steps).

    Returns:
        The report, see `report.schema.json`.

    Raises:
        UsageError: options out of range, unknown peers.
        MissingDependency: a peer is not installed.
        SsmtError: an engine or the source cannot be opened, the data set cannot be read.
    """
    if not engines:
        raise UsageError("no engine given; expected at least one engine folder")
    threads = physical_cores() if threads is None else threads
    asked = _Asked(frames, rounds, threads, fps, budget_ms, tuple(number_of_streams), brief)
    names = _names(engines)
    manifests = [_manifest(path, threads) for path in engines]
    check_versus(versus, names, manifests, checkpoints)
    labelled = load_labelled(data, split) if data else None
    in_memory(source)  # what is wrong with the source shows before minutes of measuring
    where = environment()
    on_gpu = any(_on_gpu(manifest) for manifest in manifests)
    with Watch(on_gpu) as watch:
        roofs = None if brief else _ceilings(manifests, threads, progress)
        results = []
        for i, (name, path, manifest) in enumerate(zip(names, engines, manifests, strict=True)):
            progress(f"measuring {name}", i, len(names))
            found = _measured(path, manifest, source, labelled, asked, roofs)
            results.append({"name": name} | _described(path, manifest) | found)
        comparisons = compare_engines(
            names, engines, manifests, versus=versus, checkpoints=checkpoints, source=source, labelled=labelled,
            accuracies=[result["accuracy"] for result in results], frames=frames, rounds=rounds,
            threads=threads, progress=progress,
        )  # fmt: skip
    where["load_average_after"] = load_average()
    answers = {result["verdict"] for result in results}
    report = {
        "schema": SCHEMA,
        "version": ssmt_edge.__version__,
        "verdict": "no" if "no" in answers else answers.pop(),
        "asked": {"fps": fps, "budget_ms": budget_ms},
        "settings": {
            "source": public_name(source) if source else "phantoms (synthetic frames held in memory, no decoding)",
            "frames": frames,
            "threads": threads,
            "batch": 1,
            "warmup_rule": WARMUP_RULE,
            "batch_rule": None if brief else BATCH_RULE,
            "count_rule": COUNT_RULE,
        },
        "environment": where,
        "watch": watch.report(),
        "ceilings": roofs,
        "engines": results,
        "comparisons": comparisons,
    }
    return report | {"aims": aims(report)}


def _measured(
    path: Path,
    manifest: EngineManifest,
    source: str | None,
    labelled: Labelled | None,
    asked: _Asked,
    roofs: dict[str, Any] | None,
) -> dict[str, Any]:
    """All that is measured of one engine alone."""
    threads = asked.threads
    with open_engine(path, threads) as engine:
        segmenter = Segmenter(engine)
        with Energy(_on_gpu(manifest)) as energy:
            times = measure(segmenter, source, asked.frames)
        by_batch = [] if asked.brief else batches(engine, network_inputs(segmenter, source))
        dice = accuracy(engine, labelled) if labelled else None
    kept, several = _at_a_rate(path, source, asked)
    return {
        "verdict": _verdict(times, kept, asked),
        "throughput_fps": times.throughput,
        "end_to_end_ms": summary(times.end_to_end_ms),
        "stages_ms": {stage: summary(values) for stage, values in times.stages_ms.items()},
        "warmup": {"frames": times.warmup_frames, "steady": times.steady},
        "latencies_ms": [round(float(value), 4) for value in times.end_to_end_ms],
        "paced": kept,
        "batches": by_batch,
        "streams": several,
        "cold_start_ms": None if asked.brief else cold_start(path, threads),
        "memory_mib": engine_memory(path, threads),
        "energy": energy.report(asked.frames + times.warmup_frames),
        "roofline": roofline(path, threads, roofs) if roofs else None,
        "accuracy": dice,
    }


def _at_a_rate(path: Path, source: str | None, asked: _Asked) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """One stream at the rate asked for, and several at once, each as `ssmt-edge run` would."""
    if asked.fps is None and not asked.streams:
        return None, []
    frames = in_memory(source)
    # `run` leaves a core to the steps around the engine
    threads = min(asked.threads, max(1, physical_cores() - 1))
    fps = asked.fps or STREAMS_FPS
    count = max(10, min(asked.frames, round(PACED_SECONDS * fps)))
    with open_engine(path, threads) as engine:
        segmenter = Segmenter(engine)
        kept = paced(segmenter, frames, fps, count, threads) if asked.fps else None
        return kept, streams(segmenter, frames, fps, count, asked.streams) if asked.streams else []


def _verdict(times: Latencies, kept: dict[str, Any] | None, asked: _Asked) -> str:
    """With a rate: at most 1 - KEPT of the frames are dropped, and the 99th percentile from when a frame was due is
    within the budget, if there is one. With a budget alone: that of frames measured one after the other is."""
    if kept is None and asked.budget_ms is None:
        return "none"
    enough = kept is None or kept["recorded"] >= KEPT * kept["sent"]
    p99 = (kept["latency_ms"] if kept else summary(times.end_to_end_ms))["p99"]
    return "yes" if enough and (asked.budget_ms is None or p99 <= asked.budget_ms) else "no"


def _ceilings(manifests: Sequence[EngineManifest], threads: int, progress: Progress) -> dict[str, Any] | None:
    progress("measuring what this machine allows", 0, 1)
    precisions = ("fp32", "int8") if any(manifest.precision == "int8" for manifest in manifests) else ("fp32",)
    found = ceilings(threads, precisions)
    if found and any(_on_gpu(manifest) for manifest in manifests):
        found["gpu"] = gpu_ceilings()
    return found


def _names(engines: Sequence[Path]) -> list[str]:
    """Folder names, with a number where two are alike or one is called like a peer: a path may tell who the user is."""
    folders = [path.resolve() for path in engines]
    if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
        raise UsageError(f"{twice} is given twice; name each engine once")
    names = [folder.name for folder in folders]
    return [f"{name} {i}" if names.count(name) > 1 or name in NAMES else name for i, name in enumerate(names, 1)]


def _manifest(path: Path, threads: int) -> EngineManifest:
    """What an engine is; opening it shows before any measurement that it can be opened."""
    with open_engine(path, threads):
        return read_manifest(path)


def _on_gpu(manifest: EngineManifest) -> bool:
    return bool(manifest.device.compute_capability)


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
        # what runs; an INT8 folder holds its FP32 reference as well
        "size_mib": sum((path / file).stat().st_size for file in manifest.files if file.startswith("model.")) / 2**20,
    }
