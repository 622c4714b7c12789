"""Peak memory of one engine, in a process of its own: `python -m benchmarks.memory MODEL_ONNX SPEC_JSON THREADS`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.measure import peak_resident_mib, resident_mib
from engines.onnxruntime_cpu import open_model
from ssmt_edge.errors import EngineError
from ssmt_edge.spec import ModelSpec

FRAMES = 5
METHOD = (
    f"most resident memory (VmHWM) of a fresh process that opens the model and infers {FRAMES} frames one by one, "
    "starting with Python, NumPy, OpenCV and ONNX Runtime loaded"
)


def peak_memory(model: Path, spec: ModelSpec, threads: int) -> dict[str, float]:
    """Memory of a fresh process that runs an ONNX model, by `METHOD`.

    Args:
        model: file of `engines.onnxruntime_cpu.build`.

    Returns:
        `start_mib` and `peak_mib`.

    Raises:
        EngineError: that process failed.
    """
    command = [sys.executable, "-m", "benchmarks.memory", str(model), spec.to_json(), str(threads)]
    # from where this package lies, whether or not it is installed
    home = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EngineError(f"memory of {model.name} cannot be measured: {reason}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _main(model: str, spec_json: str, threads: str) -> None:
    spec = ModelSpec.from_json(spec_json)
    frame = np.zeros((1, 1, spec.input_size, spec.input_size), np.uint8)
    start = resident_mib() or 0.0
    # not getrusage where there is better: on Linux its peak includes what the parent process held
    with open_model(Path(model), spec, 1, int(threads)) as engine:
        for _ in range(FRAMES):
            engine.infer(frame)
    print(json.dumps({"start_mib": round(start, 1), "peak_mib": round(peak_resident_mib(), 1)}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
