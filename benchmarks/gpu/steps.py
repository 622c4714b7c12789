"""The steps export and build. They keep what an earlier run left in --out; what fails is noted, the rest goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gpu import remote
from engines import MANIFEST_FILE, read_manifest
from engines.build import CALIBRATION_FILE, PARITY_FILE, build_engine
from engines.gate import judge
from engines.graph import Graph, load_graph
from engines.options import BuildOptions, Job, TensorRtOptions
from engines.ranges import load_calibration
from ssmt_edge.dataset import load_samples
from ssmt_edge.errors import EngineError, ExportError, SsmtError, VerdictNo
from ssmt_edge.files import replacing_folder, sha256, write_json
from ssmt_edge.layouts import Sample
from ssmt_edge.spec import Precision

GRAPH_FILE, BUILDS_FILE = "model.onnx", "builds.json"
FP32_FRAMES = 32  # for its gate, which needs no more; there is nothing to calibrate
PEERS = ("eager", "reduce-overhead", "max-autotune")
ONNXRUNTIME = "onnxruntime-cuda"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What was asked for."""

    checkpoints: tuple[Path, ...]
    data: Path
    """labelled data set: its training split calibrates, its validation split judges"""
    out: Path
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batches: tuple[int, ...] = (1, 8, 32)
    peers: tuple[str, ...] = PEERS
    rounds: int = 10
    calib_frames: int = 256
    max_dice_drop: float = 0.005
    rehearse: bool = False

    def networks(self) -> list[Network]:
        return [Network(path, self.out / f"{path.stem}-{sha256(path)[:8]}") for path in self.checkpoints]


@dataclass(frozen=True)
class Network:
    """A checkpoint and the folder of everything made from it."""

    checkpoint: Path
    folder: Path

    def graph(self) -> Graph:
        path = self.folder / GRAPH_FILE
        if not path.is_file():
            raise ExportError(f"{path} does not exist; run the step export first")
        return load_graph(path)

    def builds(self) -> dict[str, Any]:
        """By engine, `fp16` or `fp16-batch32`: `folder` or None, `refused` and `failed` (a line or None)."""
        path = self.folder / BUILDS_FILE
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def export_all(settings: Settings, say: Say) -> None:
    """Writes an ONNX file for the largest batch, unless there is one."""
    for network in settings.networks():
        path = network.folder / GRAPH_FILE
        if path.is_file() and load_graph(path).max_batch >= max(settings.batches):
            say(f"{path}: kept")
            continue
        from engines.export import export

        say(f"{network.checkpoint} becomes {path}")
        export(network.checkpoint, max_batch=max(settings.batches), out=path, say=say)


def build_all(settings: Settings, say: Say) -> None:
    """Builds what is not there or does not fit this machine; what fails is noted, and the rest is built."""
    labelled = load_samples(settings.data, "val")
    for network in settings.networks():
        graph = network.graph()
        for precision in settings.precisions:
            _build(precision, network, say, partial(_gated, network, precision, settings, labelled, say))
            for batch in settings.batches:
                if batch > 1:
                    name = f"{precision}-batch{batch}"
                    _build(name, network, say, partial(_tuned, network, graph, precision, batch, say))
        if not settings.rehearse:
            _build(ONNXRUNTIME, network, say, partial(_onnxruntime, network, settings, labelled, say))


def _build(name: str, network: Network, say: Say, make: Callable[[], dict[str, Any]]) -> None:
    """Keeps the engine of an earlier run if it fits, else makes it; notes how it went in `builds.json`."""
    before = network.builds().get(name, {})
    if before.get("folder") and _fits(network.folder / before["folder"]):
        say(f"{network.folder / before['folder']}: kept")
        return
    try:
        found = make()
    except SsmtError as error:
        say(f"{network.folder / name}: {error}")
        found = {"folder": None, "refused": None, "failed": str(error)}
    write_json(network.folder / BUILDS_FILE, network.builds() | {name: found})


def _fits(folder: Path) -> bool:
    try:
        manifest = read_manifest(folder)
        return manifest.backend != "tensorrt" or remote.mismatch(manifest) is None
    except SsmtError:
        return False


def _gated(
    network: Network, precision: Precision, settings: Settings, labelled: list[Sample], say: Say
) -> dict[str, Any]:
    """An engine for batch 1, and the gate's verdict. The gate stays open while building: what it refuses is measured,
    too, and its row says so."""
    # TensorRT 8 takes kernels of cuBLAS and cuDNN of its day, 1.5 GB that are hardly installed beside today's PyTorch
    old = int(remote.version().split(".")[0]) < 10
    options = BuildOptions(
        precision,
        backend="tensorrt",
        calib=settings.data,
        calib_frames=settings.calib_frames if precision != "fp32" else min(settings.calib_frames, FP32_FRAMES),
        max_dice_drop=1.0,
        tensorrt=TensorRtOptions(
            batch=(1, 1, 1),
            timing_cache=settings.out / "caches" / "timing",
            tactic_sources=() if old else None,
        ),
    )
    folder = network.folder / precision
    build_engine(network.folder / GRAPH_FILE, folder, options, labelled, say)
    refused = None
    try:
        judge(json.loads((folder / PARITY_FILE).read_text(encoding="utf-8")), precision, 1 - settings.max_dice_drop)
    except VerdictNo as verdict:
        say(f"{folder}: {verdict}")
        refused = str(verdict)
    return {"folder": precision, "refused": refused, "failed": None}


def _tuned(network: Network, graph: Graph, precision: Precision, batch: int, say: Say) -> dict[str, Any]:
    """The same graph and ranges as the gated engine's, in a plan for one batch size; compared when it is measured."""
    gated = network.builds()[precision]
    if gated["folder"] is None:
        raise EngineError(f"the engine for batch 1 was not built: {gated['failed']}")
    origin = network.folder / gated["folder"]
    manifest = read_manifest(origin)
    ranges = origin / CALIBRATION_FILE
    calibration = load_calibration(ranges, graph.checkpoint_sha256) if ranges.is_file() else None
    given = manifest.options
    options = BuildOptions(
        precision,
        backend="tensorrt",
        tensorrt=TensorRtOptions(
            batch=(batch, batch, batch),
            timing_cache=Path(given["timing_cache"]),
            tactic_sources=() if given["tactic_sources"] == "none" else given["tactic_sources"],
        ),
    )
    name = f"{precision}-batch{batch}"
    with replacing_folder(network.folder / name) as part:
        remarks = remote.build(Job(graph, calibration, options, say), part)
        files = {path.name: sha256(path) for path in sorted(part.iterdir())}
        tuned = replace(
            manifest, files=files, max_batch=batch, backend_version=remote.version(), remarks=manifest.remarks | remarks
        )
        write_json(part / MANIFEST_FILE, tuned.to_dict())
    return {"folder": name, "refused": gated["refused"], "failed": None}


def _onnxruntime(network: Network, settings: Settings, labelled: list[Sample], say: Say) -> dict[str, Any]:
    options = BuildOptions("fp16", ONNXRUNTIME, settings.data, settings.calib_frames, max_dice_drop=1.0)
    build_engine(network.folder / GRAPH_FILE, network.folder / ONNXRUNTIME, options, labelled, say)
    return {"folder": ONNXRUNTIME, "refused": None, "failed": None}
