"""Comparisons for the report: one for every checkpoint whose engines have contenders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.measure import jobs
from benchmarks.timing.turns import LEAST_CALLS, one_by_one
from benchmarks.versus import cross_check
from benchmarks.versus.accuracy import Labelled, accuracy
from benchmarks.versus.compare import METHOD, Likeness, likeness, nodules, ratio, round_medians, take_rounds
from benchmarks.versus.compare import bootstrap_interval as interval
from benchmarks.versus.contenders import check_peers, how, needs_checkpoint, open_contender
from benchmarks.versus.opening import Ours, open_peer, openers
from benchmarks.versus.processes import RemoteEngine
from engines import open_engine, reference_graph
from ssmt_edge.errors import SsmtError, UsageError
from ssmt_edge.files import sha256
from ssmt_edge.segment import Segmenter
from ssmt_edge.spec import EngineManifest
from ssmt_edge.weights import CHECKPOINT

COMPARED_FRAMES = 16
TURN_LIMIT_SECONDS = 300.0
"""a contender that takes longer for a turn hangs, and is left out"""
Progress = Callable[[str, int, int], None]


def check_versus(
    versus: Sequence[str], names: Sequence[str], manifests: Sequence[EngineManifest], checkpoints: Sequence[Path]
) -> None:
    """Finds out before any measurement whether peers exist, and the weights that they need.

    Args:
        versus: of `benchmarks.versus.contenders.NAMES`.
        names: of the engines.
        checkpoints: found by their SHA-256; the shipped one need not be among them.

    Raises:
        UsageError: an unknown peer or one named twice, a checkpoint that is missing or of no engine here, or none for a
            peer that needs one.
        MissingDependency: a peer's package is not installed.
    """
    check_peers(versus)
    known = {manifest.checkpoint_sha256 for manifest in manifests}
    found = _digests(checkpoints)
    for path, digest in found.items():
        if digest not in known and path != CHECKPOINT:
            raise UsageError(
                f"--checkpoint {path} holds other weights than {', '.join(names)}; give the file that they were built "
                f"from, with SHA-256 {', '.join(f'{digest[:12]}...' for digest in sorted(known))}"
            )
    needing = [peer for peer in versus if needs_checkpoint(peer)]
    for name, manifest in zip(names, manifests, strict=True):
        if needing and manifest.checkpoint_sha256 not in found.values():
            raise UsageError(
                f"--vs {needing[0]} needs the weights of {name}, and the shipped weights are others: give --checkpoint "
                f"with the file whose SHA-256 is {manifest.checkpoint_sha256[:12]}..."
            )


def _digests(checkpoints: Sequence[Path]) -> dict[Path, str]:
    """Of these files and the shipped one."""
    for path in checkpoints:
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise UsageError(f"--checkpoint {path} {what}; give the file that an engine was built from")
    shipped = [CHECKPOINT] if CHECKPOINT.is_file() else []
    return {path: sha256(path) for path in (*shipped, *checkpoints)}


def compare_engines(
    names: Sequence[str],
    engines: Sequence[Path],
    manifests: Sequence[EngineManifest],
    *,
    versus: Sequence[str] = (),
    checkpoints: Sequence[Path] = (),
    source: str | None = None,
    labelled: Labelled | None = None,
    accuracies: Sequence[dict[str, Any] | None] = (),
    frames: int = 300,
    rounds: int = 10,
    threads: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """Times the engines of each checkpoint with the same outputs, and their peers, in turns.

    Args:
        names: of the engines, all different and none of `benchmarks.versus.contenders.NAMES`.
        engines: their folders.
        manifests: theirs.
        versus: peers; call `check_versus` first.
        checkpoints: as for `check_versus`.
        source: what frames are taken from; None for phantoms.
        labelled: gives every peer its Dice.
        accuracies: what `benchmarks.versus.accuracy.accuracy` found of each engine; () without `labelled`.
        frames: timed frames a contender, spread over the rounds.
        rounds: turns of each contender, at least 3.
        threads: threads of computation of each contender.
        progress: called with (what is going on, steps done, steps).

    Returns:
        An object for each checkpoint and outputs with several engines, or peers; see `report.schema.json`.

    Raises:
        EngineError: the FP32 reference graph is missing or cannot be run.
        SsmtError: the source cannot be read. What fails with a contender is in `skipped`.
    """
    known = {digest: path for path, digest in _digests(checkpoints).items()}
    # peers compute what the engines do: those with the gland are compared apart
    kinds = [(manifest.checkpoint_sha256, manifest.outputs) for manifest in manifests]
    found = []
    for kind in dict.fromkeys(kinds):
        at = [i for i, other in enumerate(kinds) if other == kind]
        if versus or len(at) > 1:
            ours = Ours(
                [names[i] for i in at],
                [engines[i] for i in at],
                [manifests[i] for i in at],
                [accuracies[i] if accuracies else None for i in at],
                reference_graph(engines[at[0]]),
                known.get(kind[0]),
            )
            found.append(_comparison(ours, versus, source, labelled, frames, rounds, threads, progress))
    return found


def network_inputs(segmenter: Segmenter, source: str | None) -> NDArray[np.uint8]:
    """The first frames of the source (or phantoms) as network inputs, uint8 [M, 1, S, S], without repetition."""
    with closing(jobs(source)) as supply:
        located = islice(segmenter.locate(supply), COMPARED_FRAMES)
        return np.unique(np.concatenate([segmenter.preprocess(job).inputs for job in located]), axis=0)


def _comparison(
    ours: Ours,
    versus: Sequence[str],
    source: str | None,
    labelled: Labelled | None,
    frames: int,
    rounds: int,
    threads: int,
    progress: Progress,
) -> dict[str, Any]:
    spec = ours.spec
    with open_engine(ours.folders[0], threads) as engine:
        inputs = network_inputs(Segmenter(engine), source)
    with open_contender("onnxruntime", spec.to_json(), threads, str(ours.graph)) as reference:
        truth = nodules("the reference", reference, inputs)
    per_turn = -(-frames // rounds)
    scores = dict(zip(ours.names, ours.accuracies, strict=True))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress("preparing contenders", 0, 1)
        contenders, skipped = openers(ours, versus, threads, folder)
        opened: dict[str, RemoteEngine] = {}
        likenesses: dict[str, Likeness] = {}
        for i, (name, opener) in enumerate(contenders.items()):
            progress(f"opening {name}", i, len(contenders))
            try:
                with ExitStack() as opening:  # closes what cannot do what it should
                    contender = opening.enter_context(opener())
                    likenesses[name] = likeness(nodules(name, contender, inputs), truth, spec.threshold)
                    contender.limit_seconds = TURN_LIMIT_SECONDS  # whatever compiles has compiled
                    if labelled and name not in scores:
                        scores[name] = accuracy(contender, labelled)
                    stack.push(opening.pop_all())
                opened[name] = contender
            except SsmtError as error:
                skipped[name] = str(error)
        given = folder / "frames.npy"
        np.save(given, inputs)
        pace = one_by_one(per_turn)
        taken = take_rounds(opened, given, pace, rounds, skipped, lambda *steps: progress("comparing", *steps))
        checked = None
        if cross_check.CONTENDER in taken:
            progress(cross_check.TOOL, 0, 1)
            try:
                checked = _cross_check(ours, opened[cross_check.CONTENDER], given, threads)
            except SsmtError as error:
                skipped[cross_check.TOOL] = str(error)
    medians = {name: round_medians(turns) for name, turns in taken.items()}
    return {
        "model": spec.model,
        "checkpoint_sha256": ours.manifests[0].checkpoint_sha256,
        "engines": list(ours.names),
        "method": METHOD,
        "reference": f"{ours.graph.name} of {ours.names[0]} in a plain ONNX Runtime session",
        "reference_sha256": sha256(ours.graph),
        "distinct_frames": len(inputs),
        "rounds": rounds,
        "frames_per_turn": per_turn,
        "contenders": [
            {
                "name": name,
                "ours": name in ours.names,
                "how": "this engine" if name in ours.names else how(name, ours.on_gpu),
                "median_ms": float(np.median(values)),
                "interval_ms": list(interval(values)),
                "round_medians_ms": [round(float(value), 4) for value in values],
                "max_probability_difference": likenesses[name].max_probability_difference,
                "mask_agreement": likenesses[name].mask_agreement,
                "dice": (scores.get(name) or {}).get("dice"),
                "dice_interval": (scores.get(name) or {}).get("interval"),
                "idle_cpu": _idle_cpu(taken[name]),
            }
            for name, values in medians.items()
        ],
        "skipped": [{"name": name, "why": _without_paths(why, ours)} for name, why in skipped.items()],
        "ratios": list(_ratios(ours.names, medians)),
        "cross_check": checked,
    }


def _cross_check(ours: Ours, contender: RemoteEngine, frames: Path, threads: int) -> dict[str, Any]:
    """See `benchmarks.versus.cross_check.cross_check`."""
    pace = replace(one_by_one(LEAST_CALLS), seconds=cross_check.SECONDS)

    def bare() -> float:
        how = {"library": "openvino-bare", "spec": ours.spec.to_json(), "threads": threads, "graph": str(ours.graph)}
        with open_peer("openvino-bare", ours.spec, how) as engine:
            return median(engine.turn(frames, 1, pace)["compute_ms"])

    return cross_check.cross_check(
        ours.graph, ours.spec.input_size, threads, lambda: median(contender.turn(frames, 1, pace)["host_ms"]), bare
    )


def _without_paths(reason: str, ours: Ours) -> str:
    """A reason for the report: paths may tell who the user is."""
    for path in (*ours.folders, *([ours.checkpoint] if ours.checkpoint else [])):
        for at in (path.resolve(), path):  # the longer one first: the other may be its end
            if len(at.parts) > 1:
                reason = reason.replace(str(at), at.name)
    home = Path.home()  # of caches and packages
    return reason.replace(str(home), "~") if len(home.parts) > 1 else reason


def _idle_cpu(taken: list[dict[str, Any]]) -> float | None:
    """Whether a contender rested while others had their turn: the most of a core that it used meanwhile."""
    return max((turn["idle_cpu"] for turn in taken if turn["idle_cpu"] is not None), default=None)


def _ratios(ours: Sequence[str], medians: Mapping[str, NDArray[np.float64]]) -> Iterator[dict[str, Any]]:
    for engine in ours:
        for other in medians:
            if other != engine and engine in medians:
                value, ends = ratio(medians[other], medians[engine])
                yield {"engine": engine, "against": other, "ratio": value, "interval": list(ends)}
