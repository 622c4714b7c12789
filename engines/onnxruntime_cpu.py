"""ONNX Runtime on any CPU: the backend that needs nothing but pip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.base import BaseEngine
from engines.device import cpu_device, cpu_mismatch, physical_cores, version_mismatch
from engines.options import Job
from ssmt_edge.errors import CalibrationError, EngineError
from ssmt_edge.spec import Device, EngineManifest, ModelSpec

if TYPE_CHECKING:  # building needs onnx, running does not
    from engines.graph import Graph

MODEL_FILE = "model.onnx"
REFUSES: dict[str, str] = {
    "fp16": "fp16 engines are for GPUs: on a CPU half precision is computed in FP32; use fp32 or int8"
}


class OnnxRuntimeEngine(BaseEngine):
    """An ONNX graph in an inference session; see `ssmt_edge.spec.Engine`."""

    def __init__(self, session: ort.InferenceSession, spec: ModelSpec, max_batch: int) -> None:
        super().__init__(spec, max_batch)
        self._session: ort.InferenceSession | None = session
        self._names = [o.name for o in session.get_outputs()]

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if self._session is None:
            raise EngineError("the engine is closed; open it again")
        self.check(frames)
        return dict(zip(self._names, self._session.run(self._names, {"frame": frames}), strict=True))

    def close(self) -> None:
        self._session = None


def missing() -> list[str]:
    return []  # every installation has it


def version() -> str:
    return str(ort.__version__)


def device() -> Device:
    return cpu_device()


def mismatch(manifest: EngineManifest) -> str | None:
    return version_mismatch(manifest, version()) or cpu_mismatch(manifest)


def build(job: Job, folder: Path) -> dict[str, Any]:
    """Writes `model.onnx` for this CPU; precisions in REFUSES never get here.

    Raises:
        CalibrationError: int8 without calibration, or with one that does not fit the graph.
    """
    import onnx

    from engines.precision import quantise_for_cpu

    model = job.graph.model
    if job.precision == "int8":
        if job.calibration is None:
            raise CalibrationError("an int8 engine needs calibration ranges; give frames of ultrasound")
        model = quantise_for_cpu(job.graph, job.calibration, cpu_device().instruction_set)
    onnx.save(model, str(folder / MODEL_FILE))
    return {}


def session_options(threads: int | None, optimise: bool = True) -> ort.SessionOptions:
    """Options for one stream.

    Args:
        threads: of one operator; None for one per physical core that this process may use.
        optimise: fuse and reorder; the reference runs the graph as it is written.
    """
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads or physical_cores()
    options.log_severity_level = 3  # errors only: warnings about unused initialisers are not the user's business
    return options


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> OnnxRuntimeEngine:
    """Opens the engine of a folder whose digests were checked.

    Raises:
        EngineError: ONNX Runtime cannot load the file.
    """
    return open_model(folder / MODEL_FILE, manifest.spec, manifest.max_batch, threads)


def open_model(path: Path, spec: ModelSpec, max_batch: int, threads: int | None = None) -> OnnxRuntimeEngine:
    """Opens a file that `build` wrote; EngineError where ONNX Runtime cannot load it."""
    try:
        session = ort.InferenceSession(str(path), session_options(threads), ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(f"{path} cannot be loaded: {reason}; build the engine again") from None
    return OnnxRuntimeEngine(session, spec, max_batch)


def open_graph(
    graph: Graph, threads: int | None = None, optimise: bool = False, tensors: Sequence[str] = ()
) -> OnnxRuntimeEngine:
    """A graph in memory, node by node as written: the FP32 reference that engines are compared with.

    Args:
        optimise: fuse and reorder as in an engine folder.
        tensors: inner tensors that become outputs, too.
    """
    model = graph.model
    if tensors:
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(graph.model)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = session_options(threads, optimise)
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return OnnxRuntimeEngine(session, graph.spec, graph.max_batch)
