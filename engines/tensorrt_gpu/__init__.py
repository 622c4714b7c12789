"""TensorRT 8.5 to 11 on NVIDIA GPUs, desktop and Jetson; see `engines.BACKENDS` for the six functions.

    bindings   everything that differs from version to version, and what TensorRT says
    builder    ONNX file to plan
    typing85   precision for versions without strongly typed networks
    timings    the timing cache
    cuda       memory, streams, events, graphs
    runtime    plan to engine
    layer_times  what each layer of a plan takes

Importing this package imports none of tensorrt, pycuda and cuda: bare machines ask it what is missing.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.device import gpus
from engines.tensorrt_gpu import bindings as b
from ssmt_edge.errors import BackendUnavailable, UsageError
from ssmt_edge.files import replacing
from ssmt_edge.spec import Device, EngineManifest, Precision

if TYPE_CHECKING:
    from engines.options import Job, TensorRtOptions
    from engines.tensorrt_gpu.runtime import TensorRtEngine

REFUSES: dict[str, str] = {}
AMPERE = 8


def missing() -> list[str]:
    lacks = []
    if problem := b.unusable("tensorrt"):
        lacks.append(
            f"the Python package tensorrt ({problem}; on a Jetson it comes with JetPack, elsewhere: "
            "pip install 'ssmt-edge[tensorrt]')"
        )
    here = gpus()
    if not here:
        lacks.append("an NVIDIA GPU with its driver (none is found; a container needs --gpus all or --runtime nvidia)")
    # its import needs the driver's library: without a GPU only its absence can be told
    absent = importlib.util.find_spec("pycuda") is None
    if problem := ("it is not installed" if absent else b.unusable("pycuda.driver") if here else None):
        lacks.append(f"PyCUDA ({problem}; pip install 'ssmt-edge[tensorrt]' builds it with nvcc of the CUDA toolkit)")
    return lacks


def version() -> str:
    _ready()
    return str(b.bindings().__version__)


def device() -> Device:
    _ready()
    return gpus()[0]


def mismatch(manifest: EngineManifest) -> str | None:
    here_version, here, built = version(), device(), manifest.device
    if not _version_fits(manifest, here_version):
        return f"was built with TensorRT {manifest.backend_version}, here is {here_version}"
    portable = manifest.remarks.get("hardware_compatible") and int(here.compute_capability.split(".")[0]) >= AMPERE
    if (built.name, built.compute_capability) != (here.name, here.compute_capability) and not portable:
        return (
            f"was built for {built.name} (compute capability {built.compute_capability}), here is {here.name} "
            f"({here.compute_capability})"
        )
    return None


def _version_fits(manifest: EngineManifest, here: str) -> bool:
    """TensorRT takes its own plans only; version-compatible ones also in later minor versions."""
    if manifest.remarks.get("version_compatible"):
        built = b.numbers(manifest.backend_version)
        return built[0] == b.numbers(here)[0] and built <= b.numbers(here)
    return manifest.backend_version == here


def build(job: Job, folder: Path) -> dict[str, Any]:
    """Writes `model.plan`, raw as trtexec takes it, and `layers.json`, what the inspector tells of every layer.

    Raises:
        BackendUnavailable: this machine lacks TensorRT, a GPU or PyCUDA.
        UsageError: an option that this TensorRT or this device does not have.
        CalibrationError, ExportError: the graph cannot be emitted, see `engines.precision.emit_for_tensorrt`.
        EngineError: TensorRT refuses the graph or fails; the message holds its own ones.
    """
    _ready()
    import onnx

    from engines.precision import emit_for_tensorrt

    graph, options = job.graph, job.options.tensorrt
    batch = options.batch or (1, 1, 1 if options.dla is not None else graph.max_batch)
    if batch[2] > graph.max_batch:
        raise UsageError(
            f"batches of up to {batch[2]}, but the graph was exported for at most {graph.max_batch}; export it with "
            f"--max-batch {batch[2]}"
        )
    model = emit_for_tensorrt(graph, job.precision, job.calibration, b.numbers(version())[:2])
    nodes = [node.name or node.op_type for node in model.graph.node]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(model, str(path))
        return build_file(
            path, nodes=nodes, precision=job.precision, size=graph.spec.input_size, batch=batch, folder=folder,
            options=options, say=job.say, progress=job.progress,
        )  # fmt: skip


def build_file(
    model: Path,
    *,
    nodes: Sequence[str],
    precision: Precision,
    size: int,
    batch: tuple[int, int, int],
    folder: Path,
    options: TensorRtOptions,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[str, Any]:
    """`build` from an emitted graph on: needs nothing but TensorRT and a GPU. Arguments as in `builder.Order`."""
    from engines.tensorrt_gpu.builder import Order, build_plan

    order = Order(model, tuple(nodes), precision, size, batch, options, device())
    plan, layers, remarks = build_plan(order, say, progress)
    for name, content in (("model.plan", plan), ("layers.json", layers.encode())):
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return remarks


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> TensorRtEngine:
    """Opens the engine of a folder whose digests were checked; `threads` means nothing on a GPU.

    Raises:
        EngineError: TensorRT or CUDA cannot load the plan; EngineMismatch where TensorRT itself refuses it.
        BackendUnavailable: this machine lacks TensorRT, a GPU or PyCUDA.
    """
    _ready()
    from engines.tensorrt_gpu.runtime import TensorRtEngine

    return TensorRtEngine(folder, manifest)


def _ready() -> None:
    if lacks := missing():
        raise BackendUnavailable(f"TensorRT needs {' and '.join(lacks)}; use --backend onnxruntime until then")
