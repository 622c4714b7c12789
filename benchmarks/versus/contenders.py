"""Other libraries that run the same network, behind the Engine protocol, so that one loop times them all.

Each runs it as its documentation tells to run it for latency: PyTorch the checkpoint, the others a graph. The suffix of
a name says what it is given: none the engine's FP32 reference graph, `:same` the engine's own quantised file, `:plain`
the network as it was trained, nothing folded and no task left out.
"""

from __future__ import annotations

import importlib
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

PACKAGES = {"torch": "torch", "torch-compile": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""what a library's contenders import"""
_RUN_BY = {
    "torch": "PyTorch eager, FP32, channels last",
    "torch-compile": "torch.compile (Inductor, max-autotune, frozen weights), FP32, channels last",
    "onnxruntime": "ONNX Runtime, default session",
    "openvino": "OpenVINO CPU, latency hint, FP32, fixed to batch 1",
    "openvino:same": "OpenVINO CPU, latency hint, precision of its own choice, fixed to batch 1",
}
_ON_GPU = {
    "torch": "PyTorch eager on the GPU, FP16, channels last",
    "torch-compile": "torch.compile on the GPU (max-autotune, CUDA graphs), FP16, channels last",
}
_GIVEN = {
    "": "the FP32 reference graph",
    "same": "the engine's own quantised file",
    "plain": "the network as trained, all tasks, nothing folded or pruned",
}
NAMES = tuple(
    f"{library}:{given}".rstrip(":")
    for given in _GIVEN
    for library in PACKAGES
    if given != "same" or PACKAGES[library] != "torch"
)
"""all contenders that --vs takes"""


def library_of(name: str) -> str:
    """`onnxruntime` of `onnxruntime:same`, and of `onnxruntime ENGINE:same` where there are several such files."""
    return name.partition(":")[0].partition(" ")[0]


def given_to(name: str) -> str:
    """A key of `_GIVEN`: "", "same" or "plain"; what is before the last colon may be an engine's name with colons."""
    return name.rpartition(":")[2] if ":" in name else ""


def how(name: str, gpu: bool = False) -> str:
    """A contender in words; `gpu`: PyTorch runs on the GPU."""
    library, given = library_of(name), given_to(name)
    if PACKAGES[library] == "torch":
        what = _GIVEN["plain"] if given else "the checkpoint with the outputs and the folding of the reference graph"
        return f"{(_ON_GPU if gpu else _RUN_BY)[library]}: {what}"
    return f"{_RUN_BY.get(f'{library}:{given}', _RUN_BY[library])}: {_GIVEN[given]}"


def needs_checkpoint(name: str) -> bool:
    return PACKAGES[library_of(name)] == "torch" or given_to(name) == "plain"


def check_peers(names: Sequence[str]) -> None:
    """Finds out before any measurement whether contenders exist, without importing them.

    Raises:
        UsageError: one is not of `NAMES`, or named twice.
        MissingDependency: its package is not installed.
    """
    for name in names:
        if name not in NAMES:
            raise UsageError(f"--vs {name!r} is not known; expected some of {', '.join(NAMES)}")
        if names.count(name) > 1:
            raise UsageError(f"--vs names {name!r} twice; name each once")
        needed = [PACKAGES[library_of(name)], *(["torch"] if needs_checkpoint(name) else [])]
        for package in needed:
            if importlib.util.find_spec(package) is None:
                extra = f"[{EXTRAS[package]}]" if package in EXTRAS else ""
                raise MissingDependency(f"--vs {name}: {package} is not installed; pip install 'ssmt-edge{extra}'")


def open_contender(
    library: str,
    spec: str,
    threads: int,
    graph: str | None = None,
    checkpoint: str | None = None,
    outputs: Sequence[str] = (),
    gpu: bool = False,
) -> Engine:
    """A contender as an Engine of batch 1; arguments are JSON values because they come from another process.

    Args:
        library: `torch` or `torch-compile` for a checkpoint, a key of `GRAPH_PEERS` for a graph.
        spec: the engines' ModelSpec as JSON.
        threads: threads of computation, at least 1.
        graph: ONNX file, for all but PyTorch.
        checkpoint: for PyTorch.
        outputs: what PyTorch computes, in the order of the reference graph, gray folded as there; none: every task of
            the network as it was trained.
        gpu: PyTorch runs on the GPU, in half precision.

    Raises:
        EngineError: the library cannot load the graph.
        SsmtError: what `trainer` raises.
    """
    if checkpoint is not None:
        return _open_torch(Path(checkpoint), library, tuple(outputs), threads, gpu)
    assert graph is not None
    path = Path(graph)
    try:
        return GRAPH_PEERS[library](path, ModelSpec.from_json(spec), threads)
    except Exception as error:  # each library has its own tree of errors, and some raise plain RuntimeError
        reason = str(error).replace(str(path), path.name)
        raise EngineError(f"{library} cannot load {path.name}: {reason}; verify the engine") from None


def _open_torch(checkpoint: Path, library: str, outputs: tuple[str, ...], threads: int, gpu: bool) -> Engine:
    # by name: the network's own code is a package that engines and benchmarks do not know
    cpu_peers = importlib.import_module("trainer.cpu_peers")
    deployed = cpu_peers.load_deployed(checkpoint, outputs or None)
    if outputs:
        from engines.export import fold_gray

        deployed = fold_gray(deployed)
    compiled = library == "torch-compile"
    engine: Engine
    if gpu:
        peers = importlib.import_module("trainer.peers")
        engine = peers.peer_of(deployed, "max-autotune" if compiled else "eager")
    else:
        engine = cpu_peers.CpuPeer(deployed, compiled, threads)
    return engine


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
        from engines.openvino_cpu import core

        super().__init__(spec, max_batch=1)
        model = core().read_model(graph)
        model.reshape([1, 1, spec.input_size, spec.input_size])
        settings = {"PERFORMANCE_HINT": "LATENCY", **self._settings(threads)}
        self.request = core().compile_model(model, "CPU", settings).create_infer_request()
        self._names = [output.get_any_name() for output in model.outputs]

    def _settings(self, threads: int) -> dict[str, str]:
        return openvino_settings(threads)

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """uint8 [1, 1, S, S] to the graph's outputs by name."""
        results = self.request.infer({"frame": frames}, share_inputs=True, share_outputs=True)
        # outputs are views of the request's memory, as the next inference overwrites them, the caller gets copies
        return {name: results[name].copy() for name in self._names}


def openvino_settings(threads: int) -> dict[str, str]:
    """Besides the hint; without the precision OpenVINO computes in bfloat16 where the processor can: other outputs."""
    return {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoSame(OpenVinoPeer):
    """A quantised graph as OpenVINO runs it unasked: what is not quantised in bfloat16 where the processor can.

    Engines of `engines.openvino_cpu` use bfloat16 in such graphs, too: a peer held to FP32 would be handicapped.
    """

    def _settings(self, threads: int) -> dict[str, str]:
        return {"INFERENCE_NUM_THREADS": str(threads)}


class OpenVinoBare(OpenVinoPeer):
    """What is left of `OpenVinoPeer` without handing in a frame and taking masks out: what benchmark_app times."""

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Infers on whatever the request's memory holds; returns nothing."""
        self.request.infer(share_outputs=True)
        self.last_times_ms = {"compute": self.request.latency}  # what benchmark_app takes for the time
        return {}


GRAPH_PEERS: dict[str, Callable[[Path, ModelSpec, int], Engine]] = {
    "onnxruntime": OnnxRuntimePeer,
    "onnxruntime:same": OnnxRuntimePeer,
    "openvino": OpenVinoPeer,
    "openvino:same": OpenVinoSame,
    "openvino-bare": OpenVinoBare,
}
