"""What each layer of an engine takes: a library's own profiler, matched to the layers that `engines.count` counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from engines import open_engine, read_manifest, reference_graph
from engines.onnxruntime_cpu import MODEL_FILE
from engines.parity import Frames, phantom_frames
from ssmt_edge.errors import EngineError
from ssmt_edge.spec import EngineManifest

if TYPE_CHECKING:  # for counting: an engine can be opened and timed without onnx
    import onnx

    from engines.count import Count, Layer

WARM, RUNS = 4, 30
PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
APART = "not timed apart"
FASTEST_FIRST = ("int8", "fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Timed:
    """What a profiler tells of one layer of the graph as a library runs it."""

    name: str
    op: str
    """the library's word for it"""
    precision: str
    """one of FASTEST_FIRST: of what it multiplies"""
    ms: float
    """median over the runs"""
    origins: tuple[str, ...]
    """names of nodes or tensors of the ONNX graph that it may come from"""
    bytes: int | None
    """what it reads and writes besides constants; None where the library does not tell"""
    constant_bytes: int = 0
    """constants that it reads, weights too where the library tells of them"""


@dataclass(frozen=True)
class Executed:
    """A layer of the graph as a library runs it."""

    name: str
    """of the ONNX node where one is known"""
    op: str
    precision: str
    ms: float
    mac: int
    """of the counted layers that it computes; 0 for all that is no product"""
    bytes: int | None
    """None where neither the library nor the count tells"""


@dataclass(frozen=True)
class Layers:
    """An engine, layer by layer, at batch 1."""

    executed: tuple[Executed, ...]
    """in the order of execution; their `mac` adds up to the count's"""
    count: Count
    measured_ms: float
    """median of a whole inference without the profiler"""
    profiled_ms: float
    """median of one with it"""
    how: str

    @property
    def sum_ms(self) -> float:
        """What the profiler saw; less than `measured_ms` where time passes between layers."""
        return sum(layer.ms for layer in self.executed)


Profiler = Callable[[Path, EngineManifest, int, Frames, int, int], tuple[list[Timed], float]]
"""folder, manifest, threads, frames, inferences that do not count and that do -> layers in their order, median ms of a
whole inference"""


def layer_times(folder: Path, threads: int, runs: int = RUNS) -> Layers | None:
    """Times every layer of an engine on a phantom, batch 1, in a session of its own, because profiling costs time.

    Args:
        folder: engine folder.
        threads: as for `open_engine`.
        runs: inferences whose median counts.

    Returns:
        None for a backend whose library tells no times of layers.

    Raises:
        EngineError, EngineMismatch, BackendUnavailable: as `open_engine`; a graph that cannot be counted.
    """
    from engines.count import count

    manifest = read_manifest(folder)
    profile, how = _profilers().get(manifest.backend, (None, ""))
    if profile is None:
        return None
    graph = _graph(folder)
    frames = phantom_frames(manifest.spec, 1)
    half = -(-runs // 2)
    before = _calls(folder, threads, frames, half)  # half on either side, so that drift shows on neither
    timed, profiled_ms = profile(folder, manifest, threads, frames, WARM, runs)
    after = _calls(folder, threads, frames, half)
    if not timed:
        raise EngineError(f"{folder}: {manifest.backend} told no time of any layer; install the pinned versions")
    counted = count(graph)
    return Layers(
        executed=tuple(matched(timed, counted.layers, graph)),
        count=counted,
        measured_ms=float(np.median(before + after)),
        profiled_ms=profiled_ms,
        how=how,
    )


def _profilers() -> dict[str, tuple[Profiler, str]]:
    from benchmarks.roof import profilers

    return {
        "onnxruntime": (profilers.onnxruntime, "ONNX Runtime's profiler"),
        "openvino": (profilers.openvino, "OpenVINO's performance counters"),
        "tensorrt": (profilers.tensorrt, "TensorRT's IProfiler, without a CUDA graph"),
    }


def _graph(folder: Path) -> onnx.ModelProto:
    """The graph that the engine was made from: with its Q/DQ pairs where the library reads ONNX."""
    import onnx

    model = folder / MODEL_FILE
    return onnx.load(str(model if model.is_file() else reference_graph(folder)))


def _calls(folder: Path, threads: int, frames: Frames, runs: int) -> list[float]:
    """Milliseconds of each inference as users get it."""
    times = []
    with open_engine(folder, threads) as engine:
        for i in range(WARM + runs):
            start = perf_counter()
            engine.infer(frames)
            if i >= WARM:
                times.append(1e3 * (perf_counter() - start))
    return times


def matched(timed: Sequence[Timed], counted: Sequence[Layer], graph: onnx.ModelProto) -> list[Executed]:
    """Gives every counted layer to the executed one that computes it; what is left goes into one row without a time,
    so that the sum of `mac` is the count's whatever a library calls its layers."""
    left = {layer.name: layer for layer in counted}
    tracer = _Tracer(graph)
    found = []
    for layer in timed:
        own = [left.pop(name) for name in tracer.products(layer.origins, left)]
        named = own[0].name if len(own) == 1 else layer.name
        if layer.bytes is None:
            size = sum(one.bytes for one in own) if own else None
        else:  # libraries keep weights in layouts of their own, some out of sight: the count knows them
            size = layer.bytes + (sum(one.weight_bytes for one in own) if own else layer.constant_bytes)
        found.append(Executed(named, layer.op, layer.precision, layer.ms, sum(one.mac for one in own), size))
    if left:
        mac, size = sum(layer.mac for layer in left.values()), sum(layer.bytes for layer in left.values())
        # of which precision they are is not known: a floor must not be too high
        fastest = min((layer.precision for layer in found), key=FASTEST_FIRST.index)
        found.append(Executed(f"{APART}: {len(left)} layers", "", fastest, 0.0, mac, size))
    return found


class _Tracer:
    """Finds the products of the graph behind the names that libraries give their layers."""

    # what ONNX Runtime and OpenVINO add to names when they fuse nodes or change their layout
    _ADDED = re.compile(
        r"^fused |_token_\d+$|_nchwc$|_nhwc$|/MatMulScaleFusion/?$|/duplicated$"
        r"|/WithoutBiases$|/DequantizationMultiply$|_original$"
    )

    def __init__(self, graph: onnx.ModelProto) -> None:
        self._makers = {name: node for node in graph.graph.node for name in node.output}
        self._nodes = {node.name: node for node in graph.graph.node if node.name}

    def products(self, origins: Sequence[str], left: dict[str, Layer]) -> list[str]:
        """Names of counted layers, of those that are left; those named first, else the nearest in front of a tensor."""
        names = [name for origin in origins for name in (origin, self._plain(origin))]
        if direct := [name for name in dict.fromkeys(names) if name in left]:
            return direct
        for name in names:
            if name in self._makers and name not in self._nodes and (product := self._behind(name, left)):
                return [product]
        return []

    def _plain(self, name: str) -> str:
        shorter = self._ADDED.sub("", name)
        return name if shorter == name else self._plain(shorter)

    def _behind(self, tensor: str, left: dict[str, Layer]) -> str | None:
        """The product that makes a tensor, through the activations and additions that are fused into it."""
        front = [tensor]
        for _ in range(4):  # Q/DQ, addition, activation
            makers = [self._makers[name] for name in front if name in self._makers]
            for node in makers:
                if (label := node.name or node.output[0]) in left and node.op_type in PRODUCTS:
                    return label
            front = [name for node in makers if node.op_type not in PRODUCTS for name in node.input]
        return None
