"""What a build has to know of a graph's values first: ranges, the method behind them, and layers to leave alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from engines.calibrate import HELD_BACK, Samples, Split, add_clipped, collect, measure_ranges, split
from engines.device import cpu_device
from engines.graph import Graph
from engines.options import BuildOptions, Progress, Say
from engines.parity import phantom_frames
from engines.precision.half import islands
from engines.precision.integer import quantise_for_cpu, quantise_for_tensorrt, quantised_tensors
from engines.ranges import METHODS, Calibration, load_calibration
from engines.sensitivity import Trial, choose_method, keep_few, rank
from ssmt_edge.errors import CalibrationError

PHANTOMS = 32  # to measure on, where no real frames are at hand


@dataclass(frozen=True)
class Ready:
    """What is known of a graph's values before an engine is built."""

    calibration: Calibration | None
    held: Samples | None
    """frames for the gate that nothing else has seen; None for phantoms"""
    remarks: dict[str, Any]


def prepare(graph: Graph, options: BuildOptions, names: list[str], say: Say, progress: Progress) -> Ready:
    """Ranges (for fp16 and int8), the layers that int8 leaves alone, and frames for the gate.

    Args:
        names: of the backends that may run it, see `engines.auto.candidates`.
    """
    if options.precision == "fp32":
        held = collect(options.calib, graph.spec, options.calib_frames, say) if options.calib else None
        return Ready(None, held, {})
    if options.calib is None:  # only fp16 gets here: it asks how large values get, not how they are spread
        say("no real frames at hand (--calib with a folder of ultrasound gives some): measuring ranges on phantoms")
        frames = Samples(phantom_frames(graph.spec, PHANTOMS, seed=2), [f"phantom {i}" for i in range(PHANTOMS)])
        calibration = replace(measure_ranges(graph, frames, "phantoms"), synthetic=True)
        return Ready(calibration, None, _half_remarks(graph, calibration, say))
    if options.calib.suffix == ".json":
        parts = None
        calibration = load_calibration(options.calib, graph.checkpoint_sha256)
        say(f"ranges of {calibration.frames} frames from {options.calib}")
        if options.precision == "int8" and calibration.synthetic:
            raise CalibrationError(f"{options.calib} was measured on phantoms; int8 needs ranges of real ultrasound")
    else:
        parts = split(collect(options.calib, graph.spec, options.calib_frames, say))
        held_back = f"{len(parts.held)} held back for the gate" if parts.held else f"too few to hold {HELD_BACK} back"
        say(f"calibrating on {len(parts.used)} frames, {held_back}")
        calibration = measure_ranges(graph, parts.used, str(options.calib))
    held = parts.held if parts else None
    if options.precision == "fp16":
        return Ready(calibration, held, _half_remarks(graph, calibration, say))
    if parts is None:
        if options.calib_method != "auto":
            calibration = calibration.by(options.calib_method)
        elif len(calibration.methods()) < len(METHODS):
            say(f"they are by {calibration.method} alone; with frames as --calib the best method would be chosen")
        remarks: dict[str, Any] = {}
    else:
        calibration, remarks = _choose(graph, calibration, parts, options, names, say, progress)
    chosen = {"calib_method": calibration.method, "kept": list(calibration.kept)}
    return Ready(calibration, held, remarks | chosen)


def _half_remarks(graph: Graph, calibration: Calibration, say: Say) -> dict[str, Any]:
    """For fp16: the largest values seen, and the nodes that keep FP32, with their reasons."""
    size = {name: max(-low, high) for name, (low, high) in calibration.ranges.items()}
    largest = sorted(size, key=lambda name: -size[name])[:10]
    kept = islands(graph.model, calibration.ranges)
    large = sum(why.startswith("values") for why in kept.values())
    say(
        f"largest value {size[largest[0]]:.4g}, in {largest[0]} (half precision holds 65504): {len(kept)} of "
        f"{len(graph.model.graph.node)} nodes keep fp32, {large} of them for large values"
    )
    return {"largest_values": {name: size[name] for name in largest}, "fp32_nodes": kept}


def _choose(
    graph: Graph,
    calibration: Calibration,
    parts: Split,
    options: BuildOptions,
    names: list[str],
    say: Say,
    progress: Progress,
) -> tuple[Calibration, dict[str, Any]]:
    """For int8: the method that agrees best and, if asked for, the layers that must stay in higher precision."""
    if options.calib_method != "minmax":
        tensors = quantised_tensors(graph.model)
        calibration = add_clipped(
            calibration, graph, parts.used, tensors, lambda done, total: progress("histograms", done, total)
        )
    remarks: dict[str, Any] = {}
    if options.calib_method != "auto":
        calibration = calibration.by(options.calib_method)
        if not options.sensitivity:
            return calibration, remarks
    target = "tensorrt" if names == ["tensorrt"] else cpu_device().instruction_set
    emit = quantise_for_tensorrt if target == "tensorrt" else partial(quantise_for_cpu, instruction_set=target)
    trial = Trial(graph, parts.trial, emit, target, say)
    if options.calib_method == "auto":
        calibration, remarks["calib_methods"] = choose_method(trial, calibration, say)
    if options.sensitivity:
        ranking = rank(trial, calibration, say, progress)
        calibration = keep_few(trial, calibration, ranking, 1 - options.max_dice_drop, say, progress)
        remarks["sensitivity"] = [asdict(row) for row in ranking]
    return calibration, remarks
