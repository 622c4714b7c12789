"""From a graph to a verified engine folder, read top to bottom: load, calibrate, emit, compare, seal."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines import (
    MANIFEST_FILE,
    REFERENCE_FILE,
    auto,
    backend,
    open_engine,
    read_manifest,
    reference_graph,
)
from engines.calibrate import collect
from engines.count import count
from engines.gate import compare, judge
from engines.graph import Graph, load_graph, save_graph
from engines.options import BuildOptions, Job, Progress, Say, TensorRtOptions
from engines.prepare import prepare
from engines.ranges import METHODS
from ssmt_edge import __version__
from ssmt_edge.dataset import Sample
from ssmt_edge.errors import EngineError, UsageError
from ssmt_edge.files import replacing_folder, sha256, write_json
from ssmt_edge.spec import EngineManifest

CALIBRATION_FILE = "calibration.json"
PARITY_FILE = "parity.json"


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
    allowed = options.max_dice_drop
    names = auto.candidates(options.backend, options.precision)
    if options.tensorrt != TensorRtOptions() and names != ["tensorrt"]:
        raise UsageError(f"TensorRT's options mean nothing to {' or '.join(names)}; leave them out")
    for name in names:
        backend(name).version()  # what is missing here is told before any work

    graph = _load(source, options, say)
    ready = prepare(graph, options, names, say, progress)
    with replacing_folder(out) as folder:
        frames = ready.held.frames if ready.held else None
        job = Job(graph, ready.calibration, options, say, progress)
        name, built = auto.build(names, job, folder, frames)
        module = backend(name)
        if options.precision != "fp32":
            # kept, so that the engine can be verified and compared wherever it goes
            save_graph(graph, folder / REFERENCE_FILE, half_weights=False)
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
            parity = compare(engine, graph, ready.held, labelled, allowed, say)
        write_json(folder / PARITY_FILE, parity)
        calibration = ready.calibration
        judge(parity, options.precision, (1.0 if ready.held or not calibration else calibration.phantoms) - allowed)
        if calibration is not None:
            if ready.held is not None:  # accepted on real frames: where there are none, phantoms may stand in for them
                calibration = replace(calibration, phantoms=parity["phantoms"])
            calibration.save(folder / CALIBRATION_FILE)
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

    Without frames it compares on the phantoms that the build compared on as well: it has to agree as it did then.

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
        try:
            allowed = float(manifest.options.get("max_dice_drop", 0.005))
            built = json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))
            phantoms = float(built.get("phantoms", built["agreement"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise EngineError(f"{folder} does not say how it was judged ({error}); build the engine again") from None
        graph = load_graph(reference_graph(folder))
        held = collect(calib, graph.spec, say=say) if calib else None
        parity = compare(engine, graph, held, labelled, allowed, say)
    judge(parity, manifest.precision, (1.0 if held else phantoms) - allowed)
    return parity


def _check_options(options: BuildOptions, out: Path) -> None:
    if options.precision == "int8" and options.calib is None:
        raise UsageError("int8 needs --calib: a folder, video or DICOM file of ultrasound, or a calibration.json")
    if options.calib_method not in ("auto", *METHODS):
        raise UsageError(f"calibration method {options.calib_method!r}, expected auto, {', '.join(METHODS)}")
    if options.sensitivity and options.precision != "int8":
        raise UsageError(f"--sensitivity is about int8, not {options.precision}; leave it out")
    ranges_only = options.calib is not None and options.calib.suffix == ".json"
    if ranges_only and options.sensitivity:
        raise UsageError(f"--sensitivity measures on frames, {options.calib} holds ranges only; give frames as --calib")
    if ranges_only and options.precision == "fp32":
        raise UsageError(f"fp32 needs no ranges, and {options.calib} holds no frames to compare on; leave it out")
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
