"""What stands in for TensorRT with --dry-run: the same functions, the graph emitted for TensorRT 10.3, and ONNX Runtime
on the CPU to run it. It shows that the script works; its times say nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines import onnxruntime_cpu
from engines.onnxruntime_cpu import MODEL_FILE, OnnxRuntimeEngine
from engines.options import TensorRtOptions
from ssmt_edge.spec import Device, EngineManifest, Precision


def version() -> str:
    return "10.3.0"


def device() -> Device:
    return onnxruntime_cpu.device()


def mismatch(manifest: EngineManifest) -> str | None:
    return None if manifest.backend_version == version() else f"was built with {manifest.backend_version}"


def build_file(
    model: Path,
    *,
    nodes: list[str],
    precision: Precision,
    size: int,
    batch: tuple[int, int, int],
    options: TensorRtOptions,
    folder: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    shutil.copyfile(model, folder / MODEL_FILE)
    (folder / "layers.json").write_text(json.dumps({"Layers": nodes}), encoding="utf-8")
    say(f"rehearsal: no plan is built, ONNX Runtime runs the graph of {len(nodes)} nodes")
    return {"tensorrt": "rehearsal", "batch": list(batch), "layers": len(nodes)}


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> OnnxRuntimeEngine:
    return onnxruntime_cpu.open_model(folder / MODEL_FILE, manifest.spec, manifest.max_batch, threads)
