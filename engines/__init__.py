"""Engines: from an ONNX graph to something that runs, is calibrated on ultrasound and proven to agree.

Adding a backend is one module and one line in `BACKENDS`. The module has REFUSES, a dict from a precision
that it does not take to the reason, and six functions:

    missing() -> list[str]                 what it needs and this machine lacks, with how to get it; empty: ready
    version() -> str                       of the library behind it; BackendUnavailable where something is missing
    device() -> Device                     what engines are built for here
    mismatch(manifest) -> str | None       why an engine of another machine or version cannot run here: both sides
    build(job, folder) -> dict             writes model.*; returns remarks for engine.json
    open(folder, manifest, threads) -> Engine
"""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

from engines.device import available_cores
from ssmt_edge.errors import EngineError, EngineMismatch, UsageError
from ssmt_edge.files import sha256
from ssmt_edge.spec import Engine, EngineManifest

MANIFEST_FILE = "engine.json"
REFERENCE_FILE = "reference.onnx"

# name -> module, imported when a backend is used
BACKENDS = {
    "onnxruntime": "engines.onnxruntime_cpu",
    "openvino": "engines.openvino_cpu",
    "onnxruntime-cuda": "engines.onnxruntime_cuda",
    "tensorrt": "engines.tensorrt_gpu",
}


def backend(name: str) -> ModuleType:
    """The module of a backend; UsageError lists the names for an unknown one."""
    if name not in BACKENDS:
        raise UsageError(f"unknown backend {name!r}; expected one of auto, {', '.join(BACKENDS)}")
    return importlib.import_module(BACKENDS[name])


def read_manifest(folder: Path) -> EngineManifest:
    """`engine.json` of an engine folder.

    Raises:
        EngineError: the folder or the file is missing or damaged.
        EngineMismatch: written by another version of ssmt-edge.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EngineError(f"{folder} {what}; expected an engine folder that `ssmt-edge build-engine` wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder} holds no {MANIFEST_FILE}; expected an engine folder that build-engine wrote"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise EngineError(f"{path} is damaged ({error}); build the engine again") from None
    try:
        return EngineManifest.from_dict(values)
    except ValueError as error:
        raise EngineMismatch(
            f"{path} does not fit this version of ssmt-edge: {error}; {rebuild_command(folder)}"
        ) from None


def open_engine(folder: Path, threads: int | None = None) -> Engine:
    """Opens an engine folder after checking its digests, versions and device.

    Args:
        folder: written by `build-engine`.
        threads: CPU threads, 1 to the cores that this process may use; None for the physical ones among them.

    Raises:
        UsageError: `threads` out of range.
        EngineError: missing or damaged.
        EngineMismatch: built for another machine or version; the message names both sides and the command to rebuild.
        BackendUnavailable: this machine lacks what the backend needs.
    """
    cores = available_cores()
    if threads is not None and not 1 <= threads <= cores:
        raise UsageError(f"threads is {threads}, expected 1 to {cores}, the cores that this process may use")
    manifest = read_manifest(folder)
    again = rebuild_command(folder, manifest)
    if manifest.backend not in BACKENDS:
        raise EngineMismatch(
            f"{folder} is for the backend {manifest.backend!r}, known are {', '.join(BACKENDS)}; {again}"
        )
    check_files(folder, manifest)
    module = backend(manifest.backend)
    if difference := module.mismatch(manifest):
        raise EngineMismatch(f"{folder} {difference}; {again}")
    engine: Engine = module.open(folder, manifest, threads)
    return engine


def check_files(folder: Path, manifest: EngineManifest) -> None:
    """EngineError naming the first file that is missing or whose SHA-256 is not the manifest's."""
    if not any(name.startswith("model.") for name in manifest.files):
        raise EngineError(f"{folder / MANIFEST_FILE} names no model file; {rebuild_command(folder, manifest)}")
    for name, digest in manifest.files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise EngineError(f"{path} is missing; {rebuild_command(folder, manifest)}")
        if sha256(path) != digest:
            raise EngineError(
                f"{path} is not the file that was built (its SHA-256 differs from {MANIFEST_FILE}); "
                f"{rebuild_command(folder, manifest)}"
            )


def rebuild_command(folder: Path, manifest: EngineManifest | None = None) -> str:
    """The command that builds an engine again, for messages."""
    if manifest is None:
        return f"rebuild it: ssmt-edge build-engine CHECKPOINT_OR_ONNX --out {folder} --precision fp32|fp16|int8"
    words = [
        "ssmt-edge",
        "build-engine",
        str(manifest.options.get("source", "CHECKPOINT_OR_ONNX")),
        "--out",
        str(folder),
    ]
    words += ["--precision", manifest.precision, "--backend", manifest.backend]
    for name, value in manifest.options.items():
        if name != "source" and value is not None and value is not False:
            words += ["--" + name.replace("_", "-")] + ([] if value is True else [str(value)])
    return "rebuild it: " + shlex.join(words)


def reference_graph(folder: Path) -> Path:
    """The FP32 graph of an engine folder: `reference.onnx`, or `model.onnx` where the engine itself is FP32.

    Raises:
        EngineError: there is neither.
    """
    for name in (REFERENCE_FILE, "model.onnx"):
        if (folder / name).is_file():
            return folder / name
    raise EngineError(
        f"{folder} holds no FP32 graph to compare with; build the engine again with ssmt-edge build-engine"
    )
