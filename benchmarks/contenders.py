"""Other libraries that run the same network, behind the Engine protocol, so that one loop times them all.

Each runs the engine folder's FP32 reference graph as its documentation tells to run it for latency, on the CPU.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import BaseEngine
from ssmt_edge.errors import EngineError, MissingDependency, UsageError
from ssmt_edge.packages import EXTRAS
from ssmt_edge.spec import Engine, ModelSpec

HOW = {
    "onnxruntime": "ONNX Runtime, default session, the FP32 reference graph",
    "openvino": "OpenVINO CPU, latency hint, FP32, the reference graph fixed to batch 1",
    "torch": "PyTorch eager, FP32, the checkpoint",
}


def check_peers(names: Sequence[str], torch_given: bool) -> None:
    """Finds out before any measurement whether the peers can be opened, without importing them.

    Raises:
        UsageError: a peer that does not exist, that is named twice, or `torch` without a way to open it.
        MissingDependency: its package is not installed.
    """
    for name in names:
        if name not in HOW:
            raise UsageError(f"--vs {name!r} is not known; expected some of {', '.join(HOW)}")
        if names.count(name) > 1:
            raise UsageError(f"--vs names {name!r} twice; name each once")
        if importlib.util.find_spec(name) is None:
            extra = f"[{EXTRAS[name]}]" if name in EXTRAS else ""
            raise MissingDependency(f"--vs {name}: {name} is not installed; pip install 'ssmt-edge{extra}'")
        if name == "torch" and not torch_given:
            raise UsageError("--vs torch needs the network's weights; give --checkpoint")


def open_contender(
    name: str, graph: Path, spec: ModelSpec, threads: int, torch: Callable[[int], Engine] | None = None
) -> Engine:
    """A peer as an Engine of batch 1.

    Args:
        name: a key of `HOW`.
        graph: the FP32 reference graph.
        threads: threads of computation, at least 1.
        torch: opens the PyTorch network with so many threads; for the peer `torch`.

    Raises:
        EngineError: the peer cannot load the graph.
    """
    if name == "torch" and torch is not None:
        return torch(threads)
    try:
        return (OnnxRuntimePeer if name == "onnxruntime" else OpenVinoPeer)(graph, spec, threads)
    except Exception as error:  # each library has its own tree of errors, and some raise plain RuntimeError
        raise EngineError(f"{name} cannot load {graph}: {error}; verify the engine with ssmt-edge verify") from None


class OnnxRuntimePeer(BaseEngine):
    """The graph in a plain ONNX Runtime session."""

    def __init__(self, graph: Path, spec: ModelSpec, threads: int) -> None:
        import onnxruntime

        super().__init__(spec, max_batch=1)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """uint8 [1, 1, S, S] to the graph's outputs by name."""
        return dict(zip(self._names, self._session.run(self._names, {"frame": frames}), strict=True))


class OpenVinoPeer(BaseEngine):
    """The graph compiled by OpenVINO for the CPU."""

    def __init__(self, graph: Path, spec: ModelSpec, threads: int) -> None:
        import openvino

        super().__init__(spec, max_batch=1)
        model = openvino.Core().read_model(graph)
        model.reshape([1, 1, spec.input_size, spec.input_size])
        # without the precision hint OpenVINO computes in bfloat16 where the processor can: other outputs
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
        self._names = [output.get_any_name() for output in model.outputs]

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """uint8 [1, 1, S, S] to the graph's outputs by name."""
        results = self._request.infer({"frame": frames}, share_inputs=True, share_outputs=True)
        # outputs are views of the request's memory, as the next inference overwrites them, the caller gets copies
        return {name: results[name].copy() for name in self._names}
