"""From a graph to a verified engine folder, read top to bottom: load, calibrate, emit, compare, seal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines import (
    MANIFEST_FILE,
    REFERENCE_FILE,
    backend,
    onnxruntime_cpu,
    open_engine,
    read_manifest,
    reference_graph,
)
from engines.calibrate import HELD_BACK, Calibration, Samples, collect, hold_back, load_calibration, measure_ranges
from engines.count import count
from engines.graph import Graph, load_graph, save_graph
from engines.parity import agreement, infer_all, phantom_frames
from ssmt_edge import __version__
from ssmt_edge.dataset import Sample
from ssmt_edge.errors import UsageError, VerdictNo
from ssmt_edge.evaluate import evaluate
from ssmt_edge.files import replacing_folder, sha256, write_json
from ssmt_edge.spec import Engine, EngineManifest, Precision

CALIBRATION_FILE = "calibration.json"
PARITY_FILE = "parity.json"
Say = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """What was asked for; kept in the manifest so that a build can be repeated."""

    precision: Precision
    backend: str = "auto"
    calib: Path | None = None
    """folder, video or DICOM file of ultrasound, or a `calibration.json` of the same checkpoint"""
    calib_frames: int = 256
    """at most so many frames, evenly spread"""
    max_dice_drop: float = 0.005
    with_gland: bool = False
    """only when exporting from a checkpoint"""


def build_engine(
    source: Path,
    out: Path,
    options: BuildOptions,
    labelled: list[Sample] | None = None,
    say: Say = lambda line: None,
) -> EngineManifest:
    """Builds, checks and writes an engine folder; nothing is left behind if any of it fails.

    Args:
        source: exported ONNX file, or a checkpoint (then PyTorch is needed).
        out: engine folder; an older engine there is replaced, anything else is refused.
        labelled: frames with truth for the Dice gate, None for agreement only.
        say: receives progress lines.

    Raises:
        UsageError: options that cannot go together.
        CalibrationError, ExportError, CheckpointError, BackendUnavailable: what came cannot be used.
        VerdictNo: the engine's masks are too far from the FP32 reference's.
    """
    started = time.perf_counter()
    if options.precision == "int8" and options.calib is None:
        raise UsageError("int8 needs --calib: a folder, video or DICOM file of ultrasound, or a calibration.json")
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not an engine folder; give another --out")
    name = "onnxruntime" if options.backend == "auto" else options.backend
    module = backend(name)
    backend_version, device = module.version(), module.device()

    graph = _load(source, options, say)
    calibration, held = _calibrate(graph, options, say)
    with replacing_folder(out) as folder:
        module.build(graph, options.precision, calibration, folder)
        if options.precision != "fp32":
            # kept, so that the engine can be verified and compared wherever it goes
            save_graph(graph, folder / REFERENCE_FILE, half_weights=False)
        if calibration is not None:
            calibration.save(folder / CALIBRATION_FILE)
        # a gate needs an engine that opens like any other: from its folder, with a manifest
        cost = count(graph.model)
        manifest = EngineManifest(
            spec=graph.spec,
            precision=options.precision,
            backend=name,
            backend_version=backend_version,
            device=device,
            product_version=__version__,
            outputs=graph.outputs,
            max_batch=graph.max_batch,
            files={},
            checkpoint_sha256=graph.checkpoint_sha256,
            parameters=cost.parameters,
            gmac=round(cost.gmac, 4),
            gflops=round(cost.gflops, 4),
        )
        with module.open(folder, manifest, None) as engine:
            origin = "frames kept back from calibration" if calibration else "frames given"
            parity = _compare(engine, graph, held, origin, labelled, options.max_dice_drop, say)
        write_json(folder / PARITY_FILE, parity)
        _judge(parity, options.precision, options.max_dice_drop)
        files = {p.name: sha256(p) for p in sorted(folder.iterdir())}
        seconds = round(time.perf_counter() - started, 2)
        recorded = {
            "source": str(source),
            "calib": str(options.calib) if options.calib else None,
            "calib_frames": options.calib_frames,
            "max_dice_drop": options.max_dice_drop,
            "with_gland": options.with_gland,
        }
        sealed = EngineManifest(**{**vars(manifest), "files": files, "options": recorded, "build_seconds": seconds})
        write_json(folder / MANIFEST_FILE, sealed.to_dict())
    say(f"{out}: {options.precision} for {name} {backend_version} on {device.name}, built in {seconds:.1f} s")
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
    _judge(parity, manifest.precision, allowed)
    return parity


def _load(source: Path, options: BuildOptions, say: Say) -> Graph:
    if source.suffix != ".safetensors":
        graph = load_graph(source)
        if options.with_gland and "gland" not in graph.outputs:
            raise UsageError(f"{source} has no output gland; export it with --with-gland, or leave --with-gland out")
        return graph
    from engines.export import export  # PyTorch, only where a checkpoint comes in

    return export(source, with_gland=options.with_gland, say=say)


def _calibrate(graph: Graph, options: BuildOptions, say: Say) -> tuple[Calibration | None, Samples | None]:
    """Ranges (for int8) and frames that calibration has not seen (for the gate)."""
    if options.calib is None:
        return None, None
    if options.calib.suffix == ".json":
        calibration = load_calibration(options.calib, graph.checkpoint_sha256)
        say(f"ranges of {calibration.frames} frames from {options.calib}")
        return calibration, None
    samples = collect(options.calib, graph.spec, options.calib_frames, say)
    if options.precision != "int8":
        return None, samples
    used, held = hold_back(samples)
    if held is None:
        say(f"{len(samples)} frames are too few to keep {HELD_BACK} of them back for the gate")
    say(f"calibrating on {len(used)} frames, {len(held) if held else 0} held back for the gate")
    return measure_ranges(graph, used, str(options.calib)), held


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
        parity = agreement(engine, infer_all(reference, frames), frames, names)
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


def _judge(parity: dict[str, Any], precision: Precision, allowed: float) -> None:
    if not parity["agreement"] >= 1 - allowed:
        worst = ", ".join(f"{row['image']} ({row['agreement']:.3f})" for row in parity["per_image"][:3])
        raise VerdictNo(
            f"the {precision} engine's masks agree with FP32 to a Dice of {parity['agreement']:.4f}, required "
            f"{1 - allowed:.4f}; worst: {worst}; calibrate on more frames, or raise --max-dice-drop"
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
