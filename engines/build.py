"""From a graph to a verified engine folder, read top to bottom: load, calibrate, emit, compare, seal."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engines import (
    MANIFEST_FILE,
    REFERENCE_FILE,
    auto,
    backend,
    onnxruntime_cpu,
    open_engine,
    read_manifest,
    reference_graph,
)
from engines.calibrate import (
    HELD_BACK,
    METHODS,
    Calibration,
    Samples,
    Split,
    add_clipped,
    collect,
    load_calibration,
    measure_ranges,
    split,
)
from engines.count import count
from engines.graph import Graph, load_graph, save_graph
from engines.options import BuildOptions, Job, Progress, Say
from engines.parity import agreement, infer_all, phantom_frames
from engines.precision.half import islands
from engines.precision.integer import quantised_tensors
from engines.sensitivity import Trial, choose_method, keep_fewest, rank
from ssmt_edge import __version__
from ssmt_edge.dataset import Sample
from ssmt_edge.errors import UsageError, VerdictNo
from ssmt_edge.evaluate import evaluate
from ssmt_edge.files import replacing_folder, sha256, write_json
from ssmt_edge.spec import Engine, EngineManifest, Precision

CALIBRATION_FILE = "calibration.json"
PARITY_FILE = "parity.json"
PHANTOMS = 32  # to measure on, where no real frames are at hand


def build_engine(
    source: Path,
    out: Path,
    options: BuildOptions,
    labelled: list[Sample] | None = None,
    say: Say = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> EngineManifest:
    """Builds, checks and writes an engine folder; nothing is left behind if any of it fails.

    Args:
        source: exported ONNX file, or a checkpoint (then PyTorch is needed).
        out: engine folder; an older engine there is replaced, anything else is refused.
        labelled: frames with truth for the Dice gate, None for agreement only.
        say: receives progress lines.
        progress: what is being done, how much of it is done, and how much there is.

    Raises:
        UsageError: options that cannot go together.
        CalibrationError, ExportError, CheckpointError, BackendUnavailable: what came cannot be used.
        VerdictNo: the engine's masks are too far from the FP32 reference's.
    """
    started = time.perf_counter()
    _check_options(options, out)
    names = auto.candidates(options.backend, options.precision)
    for name in names:
        backend(name).version()  # what is missing here is told before any work

    graph = _load(source, options, say)
    ready = _prepare(graph, options, say, progress)
    with replacing_folder(out) as folder:
        frames = ready.held.frames if ready.held else None
        job = Job(graph, ready.calibration, options, say, progress)
        name, built = auto.build(names, job, folder, frames)
        module = backend(name)
        if options.precision != "fp32":
            # kept, so that the engine can be verified and compared wherever it goes
            save_graph(graph, folder / REFERENCE_FILE, half_weights=False)
        if ready.calibration is not None:
            ready.calibration.save(folder / CALIBRATION_FILE)
        # a gate needs an engine that opens like any other: from its folder, with a manifest
        cost = count(graph.model)
        manifest = EngineManifest(
            spec=graph.spec,
            precision=options.precision,
            backend=name,
            backend_version=module.version(),
            device=module.device(),
            product_version=__version__,
            outputs=graph.outputs,
            max_batch=built.get("batch", [graph.max_batch])[-1],
            files={},
            checkpoint_sha256=graph.checkpoint_sha256,
            parameters=cost.parameters,
            gmac=round(cost.gmac, 4),
            gflops=round(cost.gflops, 4),
            options=options.recorded(source),
            remarks=ready.remarks | built,
        )
        with module.open(folder, manifest, None) as engine:
            origin = "frames kept back from calibration" if ready.calibration else "frames given"
            parity = _compare(engine, graph, ready.held, origin, labelled, options.max_dice_drop, say)
        write_json(folder / PARITY_FILE, parity)
        judge(parity, options.precision, options.max_dice_drop)
        files = {p.name: sha256(p) for p in sorted(folder.iterdir())}
        seconds = round(time.perf_counter() - started, 2)
        sealed = replace(manifest, files=files, build_seconds=seconds)
        write_json(folder / MANIFEST_FILE, sealed.to_dict())
    runs_on = f"{name} {sealed.backend_version} on {sealed.device.name}"
    say(f"{out}: {options.precision} for {runs_on}, built in {seconds:.1f} s")
    return sealed


def verify_engine(
    folder: Path, calib: Path | None, labelled: list[Sample] | None, say: Say = lambda line: None
) -> dict[str, Any]:
    """Opens an engine (digests, versions, device) and compares it with its FP32 reference once more.

    Args:
        calib: frames to compare on, None for phantoms.
        labelled: frames with truth, None for agreement only.

    Returns:
        What `parity.json` holds.

    Raises:
        EngineError: the engine cannot be opened or was changed.
        VerdictNo: it no longer agrees as the build required.
    """
    manifest = read_manifest(folder)
    with open_engine(folder) as engine:
        graph = load_graph(reference_graph(folder))
        held = collect(calib, graph.spec, say=say) if calib else None
        allowed = float(manifest.options.get("max_dice_drop", 0.005))
        parity = _compare(engine, graph, held, "frames given", labelled, allowed, say)
    judge(parity, manifest.precision, allowed)
    return parity


def _check_options(options: BuildOptions, out: Path) -> None:
    if options.precision == "int8" and options.calib is None:
        raise UsageError("int8 needs --calib: a folder, video or DICOM file of ultrasound, or a calibration.json")
    if options.calib_method not in ("auto", *METHODS):
        raise UsageError(f"calibration method {options.calib_method!r}, expected auto, {', '.join(METHODS)}")
    if options.sensitivity and options.precision != "int8":
        raise UsageError(f"--sensitivity is about int8, not {options.precision}; leave it out")
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an engine folder; give another --out")


def _load(source: Path, options: BuildOptions, say: Say) -> Graph:
    if source.suffix != ".safetensors":
        graph = load_graph(source)
        if options.with_gland and "gland" not in graph.outputs:
            raise UsageError(f"{source} has no output gland; export it with --with-gland, or leave --with-gland out")
        return graph
    from engines.export import export  # PyTorch, only where a checkpoint comes in

    return export(source, with_gland=options.with_gland, say=say)


@dataclass(frozen=True)
class _Ready:
    """What is known of a graph's values before an engine is built."""

    calibration: Calibration | None
    held: Samples | None
    """frames for the gate that nothing else has seen; None for phantoms"""
    remarks: dict[str, Any]


def _prepare(graph: Graph, options: BuildOptions, say: Say, progress: Progress) -> _Ready:
    """Ranges (for fp16 and int8), the layers that int8 leaves alone, and frames for the gate."""
    if options.precision == "fp32":
        held = collect(options.calib, graph.spec, options.calib_frames, say) if options.calib else None
        return _Ready(None, held, {})
    if options.calib is not None and options.calib.suffix == ".json":
        calibration = load_calibration(options.calib, graph.checkpoint_sha256)
        say(f"ranges of {calibration.frames} frames from {options.calib}")
        parts = None
    else:
        parts = split(_frames(graph, options, say))
        kept_back = len(parts.held) if parts.held else 0
        if not kept_back:
            say(f"{len(parts.used)} frames are too few to keep {HELD_BACK} of them back for the gate")
        say(f"calibrating on {len(parts.used)} frames, {kept_back} held back for the gate")
        calibration = measure_ranges(graph, parts.used, str(options.calib or "phantoms"))
    if options.precision == "fp16":
        return _Ready(
            calibration, parts.held if parts and options.calib else None, _half_remarks(graph, calibration, say)
        )

    if parts and options.calib_method != "minmax":
        names = quantised_tensors(graph.model)
        calibration = add_clipped(
            calibration, graph, parts.used, names, lambda done, total: progress("histograms", done, total)
        )
    calibration, remarks = _refine(graph, calibration, parts, options, say, progress)
    return _Ready(calibration, parts.held if parts else None, remarks)


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


def _refine(
    graph: Graph, calibration: Calibration, parts: Split | None, options: BuildOptions, say: Say, progress: Progress
) -> tuple[Calibration, dict[str, Any]]:
    """For int8: the method that agrees best and, if asked for, the layers that must stay in higher precision."""
    remarks: dict[str, Any] = {}
    if options.calib_method != "auto":
        calibration = calibration.by(options.calib_method)
    choose = options.calib_method == "auto" and parts is not None  # a file has been chosen for when it was made
    if choose or options.sensitivity:
        trial = Trial(graph, parts.trial if parts else _phantoms(graph, say))
        if choose:
            calibration, remarks["calib_methods"] = choose_method(trial, calibration, say)
        if options.sensitivity:
            ranking = rank(trial, calibration, say, progress)
            # half of what is allowed: the gate's frames are others
            goal = 1 - options.max_dice_drop / 2
            calibration = keep_fewest(trial, calibration, ranking, goal, say, progress)
            remarks["sensitivity"] = [asdict(row) for row in ranking]
    remarks["calib_method"], remarks["kept"] = calibration.method, list(calibration.kept)
    return calibration, remarks


def _frames(graph: Graph, options: BuildOptions, say: Say) -> Samples:
    """Frames to measure ranges on: real ones, or phantoms for fp16, which only asks how large values get."""
    if options.calib is not None:
        return collect(options.calib, graph.spec, options.calib_frames, say)
    return _phantoms(graph, say)


def _phantoms(graph: Graph, say: Say) -> Samples:
    say("no real frames at hand (--calib with a folder of ultrasound gives some): measuring on phantoms")
    return Samples(phantom_frames(graph.spec, PHANTOMS, seed=2), [f"phantom {i}" for i in range(PHANTOMS)])


def _compare(
    engine: Engine,
    graph: Graph,
    held: Samples | None,
    origin: str,
    labelled: list[Sample] | None,
    allowed: float,
    say: Say,
) -> dict[str, Any]:
    """Content of `parity.json`: agreement with the FP32 reference, and Dice against truth where labels are given.

    Args:
        held: frames to compare on, None for phantoms.
        origin: what these frames are, for the report.
    """
    if held is None:
        say("no real frames to compare on (--calib with a folder of ultrasound gives some): the gate runs on phantoms")
        frames = phantom_frames(graph.spec, HELD_BACK, seed=1)
        names = [f"phantom {i}" for i in range(HELD_BACK)]
    else:
        frames, names = held.frames, held.names
    with onnxruntime_cpu.open_graph(graph) as reference:
        parity = agreement(infer_all(engine, frames), infer_all(reference, frames), graph.spec, names)
        parity["frames_from"] = "phantoms" if held is None else origin
        parity["max_dice_drop"] = allowed
        say(
            f"agreement with FP32 on {parity['images']} frames: Dice {parity['agreement']:.4f}, largest probability "
            f"difference {parity['max_probability_difference']:.3f}"
        )
        if labelled:
            ours, theirs = evaluate(engine, labelled), evaluate(reference, labelled)
            rows = [
                {"image": a["image"], "dice": a["dice"], "reference_dice": b["dice"]}
                for a, b in zip(ours["per_image"], theirs["per_image"], strict=True)
            ]
            rows.sort(key=lambda row: row["dice"] - row["reference_dice"])
            parity["labelled"] = {
                "dice": ours["dice"], "reference_dice": theirs["dice"], "n": len(rows), "per_image": rows
            }  # fmt: skip
            say(f"Dice on {len(rows)} labelled frames: {ours['dice']:.4f}, FP32 {theirs['dice']:.4f}")
    return parity


def judge(parity: dict[str, Any], precision: Precision, allowed: float) -> None:
    if not parity["agreement"] >= 1 - allowed:
        worst = ", ".join(f"{row['image']} ({row['agreement']:.3f})" for row in parity["per_image"][:3])
        raise VerdictNo(
            f"the {precision} engine's masks agree with FP32 to a Dice of {parity['agreement']:.4f}, required "
            f"{1 - allowed:.4f}; worst: {worst}; calibrate on more frames, search for layers to keep with "
            "--sensitivity, or raise --max-dice-drop"
        )
    labelled = parity.get("labelled")
    if labelled and labelled["reference_dice"] - labelled["dice"] > allowed:
        worst = ", ".join(
            f"{r['image']} ({r['dice']:.3f} from {r['reference_dice']:.3f})" for r in labelled["per_image"][:3]
        )
        raise VerdictNo(
            f"the {precision} engine's Dice against truth is {labelled['dice']:.4f}, FP32 has "
            f"{labelled['reference_dice']:.4f}, allowed drop {allowed}; worst: {worst}"
        )
