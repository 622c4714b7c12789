"""OpenVINO on the CPU: the extra `openvino`, often the faster one on Intel machines."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import onnxruntime_cpu
from engines.base import BaseEngine
from engines.device import cpu_device, cpu_mismatch, physical_cores, version_mismatch
from engines.onnxruntime_cpu import MODEL_FILE
from engines.openvino_rules import resize_by_products, shorten_floats
from engines.options import Job
from ssmt_edge.errors import BackendUnavailable, EngineError
from ssmt_edge.spec import Device, EngineManifest, ModelSpec

REFUSES = onnxruntime_cpu.REFUSES


class OpenVinoEngine(BaseEngine):
    """An ONNX graph compiled for the CPU, once for every batch size that is asked for; see `ssmt_edge.spec.Engine`.

    One compiled graph for all batch sizes would leave the shapes open, which OpenVINO runs more slowly.
    """

    def __init__(self, path: Path, spec: ModelSpec, max_batch: int, threads: int) -> None:
        """EngineError where OpenVINO cannot load or compile the file."""
        super().__init__(spec, max_batch)
        # without the precision hint OpenVINO computes in bfloat16 where the processor can: other outputs
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._path = path
        self._requests: dict[int, Any] = {}
        library = core()  # what is missing is told as that, not as a file that cannot be loaded
        try:
            self._model = library.read_model(path)
            self._model.reshape([1, 1, spec.input_size, spec.input_size])
            resize_by_products(self._model)
            if computes_in_bfloat16():
                shorten_floats(self._model)
        except Exception as error:  # OpenVINO raises RuntimeError and errors of its own
            raise _cannot_load(path, error) from None
        self._names = [output.get_any_name() for output in self._model.outputs]
        self._requests[1] = self._compile(1)

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if not self._requests:
            raise EngineError("the engine is closed; open it again")
        self.check(frames)
        batch = len(frames)
        if batch not in self._requests:
            self._requests[batch] = self._compile(batch)
        # neither input nor outputs are copied by OpenVINO; the next call overwrites the outputs, hence copies
        try:
            results = self._requests[batch].infer({0: frames}, share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on {batch} frames: {_line(error)}") from None
        return {name: results[i].copy() for i, name in enumerate(self._names)}

    def _compile(self, batch: int) -> Any:
        try:
            self._model.reshape([batch, 1, self.spec.input_size, self.spec.input_size])
            return core().compile_model(self._model, "CPU", self._settings).create_infer_request()
        except Exception as error:
            raise _cannot_load(self._path, error) from None

    def time_layers(self) -> Any:
        """From now on OpenVINO takes the time of every layer at batch 1, which costs some; its request, which tells."""
        self._settings = {**self._settings, "PERF_COUNT": True}
        self._requests = {1: self._compile(1)}
        return self._requests[1]

    def close(self) -> None:
        self._requests = {}
        self._model = None


def missing() -> list[str]:
    if importlib.util.find_spec("openvino") is None:
        return ["the Python package openvino (pip install 'ssmt-edge[openvino]')"]
    try:
        import openvino  # noqa: F401
    except Exception as error:  # a missing library, a clash of versions
        return [f"an openvino that works: it is installed but broken ({_line(error)}); install it again"]
    return []


@cache
def core() -> Any:
    """The process's one `openvino.Core`, kept until it ends.

    The CPU plugin of every Core gives its thread an alternate signal stack (which AMX needs) and frees it when it goes.
    Two that go in the order in which they came leave the thread with one that is gone, and then the next signal that
    Python handles (Ctrl-C, the end of a child of PyTorch's loader) kills the process without a word.

    Raises:
        BackendUnavailable: OpenVINO is missing, or does not start.
    """
    library = _library()
    try:
        return library.Core()
    except Exception as error:  # a plugin that is missing or broken
        raise BackendUnavailable(
            f"OpenVINO does not start ({_line(error)}); install it again, or use --backend onnxruntime"
        ) from None


def computes_in_bfloat16() -> bool:
    """Whether OpenVINO is installed and this CPU has products of bfloat16."""
    return not missing() and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def version() -> str:
    """E.g. `2026.4.1`, without the build number behind it."""
    return str(_library().__version__).partition("-")[0]


def device() -> Device:
    return cpu_device()


def mismatch(manifest: EngineManifest) -> str | None:
    return version_mismatch(manifest, version()) or cpu_mismatch(manifest)


def build(job: Job, folder: Path) -> dict[str, Any]:
    """Writes the same `model.onnx` as the backend `onnxruntime`, as `engines.auto` relies on; raises what that does."""
    # Other INT8 emissions were measured: median ms and agreement with FP32 on DDTI val, ssmt-lite on one thread of a
    # Zen 4 with VNNI, before `openvino_rules`. This one 10.2 and 0.9958; without Relu, Concat and Resize 10.3 and
    # 0.9929; with residual adds 10.3 and 0.9943; unsigned symmetric 11.0 and 0.9917; signed symmetric 9.9 and 0.9439;
    # with the products of attention 10.5 and 0.9893.
    return onnxruntime_cpu.build(job, folder)


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> OpenVinoEngine:
    """Opens the engine of a folder whose digests were checked.

    Raises:
        EngineError: OpenVINO cannot load the file.
        BackendUnavailable: OpenVINO is not installed, or broken.
    """
    return open_model(folder / MODEL_FILE, manifest.spec, manifest.max_batch, threads)


def open_model(path: Path, spec: ModelSpec, max_batch: int, threads: int | None = None) -> OpenVinoEngine:
    """Opens a file that `build` wrote; raises what `open` does."""
    return OpenVinoEngine(path, spec, max_batch, threads or physical_cores())


def _library() -> Any:
    """OpenVINO, imported when first needed: it takes a good part of a second."""
    if lacks := missing():
        raise BackendUnavailable(f"OpenVINO needs {lacks[0]}; or use --backend onnxruntime")
    import openvino

    return openvino


def _cannot_load(path: Path, error: Exception) -> EngineError:
    return EngineError(f"{path} cannot be loaded: {_line(error)}; build the engine again")


def _line(error: Exception) -> str:
    """The last line of OpenVINO's message: those before it name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:300]
