"""Memory of one engine, in a process of its own: `python -m benchmarks.timing.memory ENGINE THREADS`.

Of an ONNX file that no engine folder holds: `python -m benchmarks.timing.memory MODEL_ONNX THREADS SPEC_JSON`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine.nvml import Gpu, NvmlUnavailable
from benchmarks.timing.fresh import answer, reply
from engines import backend, open_engine, read_manifest
from ssmt_edge.spec import Engine, ModelSpec

FRAMES = 5
METHOD = (
    f"most resident memory (on Linux VmHWM) of a fresh process that opens the model and infers {FRAMES} frames one by "
    "one, starting with Python, NumPy, OpenCV and the library behind it loaded"
)
DEVICE_METHOD = (
    "device: what NVML counts as used on the whole GPU after these frames, less what it counted before the engine was "
    "opened, so with CUDA's own"
)


def engine_memory(engine: Path, threads: int) -> dict[str, Any]:
    """Memory of a fresh process that runs an engine folder of any backend.

    Returns:
        MiB: `start` and `peak`, both resident, None where the system does not tell, and `device`, None for an engine of
        the CPU and where the GPU's driver does not tell (as on Jetsons); and `method`.

    Raises:
        EngineError: that process failed.
    """
    found = answer("memory", [str(engine.resolve()), str(threads)], f"memory of {engine.name}")
    device = found["device_mib"]
    method = METHOD if device is None else f"{METHOD}; {DEVICE_METHOD}"
    return {"start": found["start_mib"], "peak": found["peak_mib"], "device": device, "method": method}


def peak_memory(model: Path, spec: ModelSpec, threads: int) -> dict[str, float | None]:
    """Memory of a fresh process that runs an ONNX model, by `METHOD`.

    Args:
        model: file of `engines.onnxruntime_cpu.build`.

    Returns:
        `start_mib` and `peak_mib`, None where the system does not tell.

    Raises:
        EngineError: that process failed.
    """
    found = answer("memory", [str(model.resolve()), str(threads), spec.to_json()], f"memory of {model.name}")
    return {"start_mib": found["start_mib"], "peak_mib": found["peak_mib"]}


def resident_mib() -> float | None:
    """Memory that this process holds now, MiB; None where the system does not tell."""
    return _status_mib("VmRSS")


def peak_resident_mib() -> float | None:
    """Most memory that this process ever held, MiB; None where the system does not tell."""
    # not getrusage where there is better: on Linux its peak includes what the parent process held
    peak = _status_mib("VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status_mib(field: str) -> float | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(field + ":")), None)


def _gpu_mib() -> float | None:
    try:
        return Gpu().used_mib()
    except NvmlUnavailable:
        return None


def _main(path: str, threads: str, spec_json: str | None = None) -> dict[str, Any]:
    on_gpu = False
    if spec_json is None:
        manifest = read_manifest(Path(path))
        backend(manifest.backend).version()  # some import their library only when asked
        spec, on_gpu = manifest.spec, bool(manifest.device.compute_capability)
    else:
        from engines.onnxruntime_cpu import open_model

        spec = ModelSpec.from_json(spec_json)
    device_before = _gpu_mib() if on_gpu else None
    frame = np.zeros((1, 1, spec.input_size, spec.input_size), np.uint8)
    start = resident_mib()
    opened: Engine = (
        open_engine(Path(path), int(threads)) if spec_json is None else open_model(Path(path), spec, 1, int(threads))
    )
    with opened as engine:
        for _ in range(FRAMES):
            engine.infer(frame)
        device_after = _gpu_mib() if device_before is not None else None
    device = None if device_before is None or device_after is None else round(device_after - device_before, 1)
    peak = peak_resident_mib()
    return {"start_mib": start and round(start, 1), "peak_mib": peak and round(peak, 1), "device_mib": device}


if __name__ == "__main__":
    reply(_main)
