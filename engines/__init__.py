"""Engines: from an ONNX graph to something that runs, is calibrated on ultrasound and proven to agree.

Adding a backend is one module with `version()`, `device()`, `build(graph, precision, calibration, folder)` and
`open(folder, manifest, threads)`, and one line in `BACKENDS`.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from engines.device import cpu_device
from ssmt_edge.errors import EngineError, EngineMismatch, UsageError
from ssmt_edge.files import sha256
from ssmt_edge.spec import EngineManifest

if TYPE_CHECKING:
    from engines.onnxruntime_cpu import OnnxRuntimeEngine

MANIFEST_FILE = "engine.json"

# name -> module, imported when a backend is used
BACKENDS = {
    "onnxruntime": "engines.onnxruntime_cpu",
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
        raise EngineError(f"{folder} does not exist; expected an engine folder that `ssmt-edge build-engine` wrote")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(
            f"{folder} holds no {MANIFEST_FILE}; expected an engine folder that build-engine wrote"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EngineError(f"{path} is damaged ({error}); build the engine again") from None
    try:
        return EngineManifest.from_dict(values)
    except ValueError as error:
        raise EngineMismatch(
            f"{path} does not fit this version of ssmt-edge: {error}; {rebuild_command(folder)}"
        ) from None


def open_engine(folder: Path, threads: int | None = None) -> OnnxRuntimeEngine:
    """Opens an engine folder after checking its digests, versions and device.

    Args:
        folder: written by `build-engine`.
        threads: CPU threads, None for all cores available.

    Raises:
        EngineError: missing or damaged.
        EngineMismatch: built for another machine or version; the message names both sides and the command to rebuild.
        BackendUnavailable: this machine lacks what the backend needs.
    """
    manifest = read_manifest(folder)
    again = rebuild_command(folder, manifest)
    check_files(folder, manifest)
    module = backend(manifest.backend)
    here = module.version()
    if _minor(manifest.backend_version) != _minor(here):
        raise EngineMismatch(
            f"{folder} was built with {manifest.backend} {manifest.backend_version}, here is {here}; {again}"
        )
    if manifest.backend == "onnxruntime" and manifest.precision == "int8":
        built, now = manifest.device.instruction_set, cpu_device().instruction_set
        if built != now:
            raise EngineMismatch(f"{folder} holds INT8 for a CPU with {built}, this one has {now}; {again}")
    engine: OnnxRuntimeEngine = module.open(folder, manifest, threads)
    return engine


def check_files(folder: Path, manifest: EngineManifest) -> None:
    """EngineError naming the first file that is missing or whose SHA-256 is not the manifest's."""
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
        return f"rebuild it: ssmt-edge build-engine CHECKPOINT_OR_ONNX --out {folder} --precision fp32|int8"
    options = manifest.options
    calib = f" --calib {options['calib']}" if options.get("calib") else ""
    source = options.get("source", "CHECKPOINT_OR_ONNX")
    return f"rebuild it: ssmt-edge build-engine {source} --out {folder} --precision {manifest.precision}{calib}"


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
