"""ONNX Runtime on an NVIDIA GPU, where `onnxruntime-gpu` is installed in place of `onnxruntime`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from engines.base import BaseEngine
from engines.device import gpus, version_mismatch
from engines.onnxruntime_cpu import MODEL_FILE, session_options
from engines.options import Job
from ssmt_edge.errors import BackendUnavailable, CalibrationError, EngineError
from ssmt_edge.spec import Device, EngineManifest, ModelSpec

PROVIDER = "CUDAExecutionProvider"
REFUSES: dict[str, str] = {
    "int8": "int8 is not for onnxruntime-cuda: that provider does not fuse quantisation into layers, so that INT8 is "
    "slower than fp16; use fp16, or --backend tensorrt for int8"
}
INSTEAD = "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]': both are imported as onnxruntime"


class BoundEngine(BaseEngine):
    """A session whose input and outputs stay in buffers on the device, one set for every batch size that is asked for;
    see `ssmt_edge.spec.Engine`."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        max_batch: int,
        threads: int | None,
        provider: str,
        device: str,
        settings: dict[str, str],
    ) -> None:
        """
        Args:
            threads: for what runs on the CPU; None for one per physical core.
            provider: ONNX Runtime's name, e.g. `CUDAExecutionProvider`.
            device: where the buffers lie, in ONNX Runtime's words: `cuda` or `cpu`.
            settings: of the provider.

        Raises:
            EngineError: ONNX Runtime cannot load the file.
            BackendUnavailable: the provider does not start; ONNX Runtime itself would go on without it.
        """
        super().__init__(spec, max_batch)
        providers = [(provider, settings), "CPUExecutionProvider"] if device != "cpu" else [provider]
        try:
            self._session: Any = ort.InferenceSession(str(path), session_options(threads), providers)
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            reason = str(error).strip().partition("\n")[0]
            raise EngineError(f"{path} cannot be loaded: {reason}; build the engine again") from None
        if provider not in self._session.get_providers():
            raise BackendUnavailable(
                f"ONNX Runtime {ort.__version__} could not start its {provider}: the libraries of CUDA and cuDNN are "
                "missing or of another version; pip install 'onnxruntime-gpu[cuda,cudnn]', or use --backend onnxruntime"
            )
        self._names = [output.name for output in self._session.get_outputs()]
        self._device = device
        self._sets: dict[int, tuple[Any, Any, dict[str, Any]]] = {}

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if self._session is None:
            raise EngineError("the engine is closed; open it again")
        self.check(frames)
        batch = len(frames)
        if batch not in self._sets:
            self._sets[batch] = self._bind(batch)
        binding, given, found = self._sets[batch]
        try:
            given.update_inplace(np.ascontiguousarray(frames))
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            # on the CPU numpy() shares the buffer, which the next call overwrites
            return {name: value.numpy().copy() for name, value in found.items()}
        except Exception as error:  # a lost device or full memory: as above, no common base
            reason = str(error).strip().partition("\n")[0]
            raise EngineError(f"ONNX Runtime failed on {batch} frames: {reason}") from None

    def _bind(self, batch: int) -> tuple[Any, Any, dict[str, Any]]:
        def buffer(shape: tuple[int, ...], kind: type) -> Any:
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, self._device, 0)

        plane = (batch, 1, self.spec.input_size, self.spec.input_size)
        given = buffer(plane, np.uint8)
        found = {n: buffer((batch,), np.float32) if n == "size" else buffer(plane, np.uint8) for n in self._names}
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("frame", given)
        for name, value in found.items():
            binding.bind_ortvalue_output(name, value)
        return binding, given, found

    def close(self) -> None:
        self._sets = {}
        self._session = None


def missing() -> list[str]:
    lacks = []
    if PROVIDER not in ort.get_available_providers():
        lacks.append(f"an ONNX Runtime with CUDA ({INSTEAD})")
    if not gpus():
        lacks.append("an NVIDIA GPU with its driver")
    return lacks


def version() -> str:
    _ready()
    return str(ort.__version__)


def device() -> Device:
    _ready()
    return gpus()[0]


def mismatch(manifest: EngineManifest) -> str | None:
    return version_mismatch(manifest, str(ort.__version__))  # the file is ONNX, which runs on any GPU


def build(job: Job, folder: Path) -> dict[str, Any]:
    """Writes `model.onnx`; precisions in REFUSES never get here.

    Raises:
        CalibrationError: fp16 without calibration, or with one that does not fit the graph.
    """
    import onnx

    from engines.precision import emit_half

    model = job.graph.model
    if job.precision == "fp16":
        if job.calibration is None:
            raise CalibrationError("an fp16 engine needs measured ranges; give frames of ultrasound")
        model = emit_half(job.graph, job.calibration)
    onnx.save(model, str(folder / MODEL_FILE))
    return {}


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> BoundEngine:
    """Opens the engine of a folder whose digests were checked.

    Raises:
        EngineError: ONNX Runtime cannot load the file.
        BackendUnavailable: no GPU, or an ONNX Runtime without CUDA.
    """
    _ready()
    if hasattr(ort, "preload_dlls"):  # finds CUDA and cuDNN where pip has put them
        ort.preload_dlls()
    # TF32 keeps 10 bits of an FP32 product: other outputs than the reference's
    settings = {"device_id": "0", "use_tf32": "0"}
    path = folder / MODEL_FILE
    return BoundEngine(path, manifest.spec, manifest.max_batch, threads, PROVIDER, "cuda", settings)


def _ready() -> None:
    if lacks := missing():
        raise BackendUnavailable(f"onnxruntime-cuda needs {' and '.join(lacks)}; use --backend onnxruntime until then")
