"""The deployed ONNX graph as a file: FP32, one file, with spec and origin in its metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from ssmt_edge.errors import ExportError
from ssmt_edge.files import replacing
from ssmt_edge.spec import ModelSpec

OPSET = 20  # the highest that TensorRT 10.3 parses; has LayerNormalization, Gelu and half-precision Q/DQ scales
_KEYS = ("ssmt-edge.spec", "ssmt-edge.checkpoint_sha256", "ssmt-edge.max_batch")
_HALF = "_stored_half"


@dataclass(frozen=True)
class Graph:
    """An exported network: input `frame` uint8 [N, 1, S, S], outputs as in `ssmt_edge.spec.Engine`."""

    model: onnx.ModelProto
    """weights in float32"""
    spec: ModelSpec
    checkpoint_sha256: str
    max_batch: int

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.model.graph.output)


def load_graph(path: Path) -> Graph:
    """Reads a file of `save_graph`; weights stored in half precision become float32 again.

    Raises:
        ExportError: missing, damaged, or not exported by ssmt-edge.
    """
    if not path.is_file():
        raise ExportError(f"{path} is not a file; expected an ONNX file that `ssmt-edge export` wrote")
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"{path} is not a whole ONNX file ({reason}); export it again") from None
    metadata = {p.key: p.value for p in model.metadata_props}
    if missing := [key for key in _KEYS if key not in metadata]:
        raise ExportError(f"{path} lacks the metadata {missing[0]!r}; expected a file that `ssmt-edge export` wrote")
    try:
        spec = ModelSpec.from_json(metadata[_KEYS[0]])
        max_batch = int(metadata[_KEYS[2]])
    except ValueError as error:
        raise ExportError(f"{path} has unusable metadata ({error}); export it again") from None
    _restore_full(model)
    return Graph(model, spec, metadata[_KEYS[1]], max_batch)


def save_graph(graph: Graph, path: Path, half_weights: bool = False) -> None:
    """Writes one file, atomically. `half_weights` stores weights as float16 behind casts: half the size, still FP32
    arithmetic."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    values = (graph.spec.to_json(), graph.checkpoint_sha256, str(graph.max_batch))
    del model.metadata_props[:]
    helper.set_model_props(model, dict(zip(_KEYS, values, strict=True)))
    if half_weights:
        _store_half(model)
    with replacing(path) as part:
        onnx.save(model, str(part))


def round_weights(graph: Graph) -> Graph:
    """The graph with its weights rounded to half precision, in float32: what a half-stored file computes."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    _store_half(model)
    _restore_full(model)
    return Graph(model, graph.spec, graph.checkpoint_sha256, graph.max_batch)


def _store_half(model: onnx.ModelProto) -> None:
    casts = []
    for tensor in model.graph.initializer:
        # small tensors (biases, normalisation, constants) are not worth a node
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < 1024:
            continue
        name = tensor.name
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, name + _HALF))
        casts.append(helper.make_node("Cast", [name + _HALF], [name], name=name + "_cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _restore_full(model: onnx.ModelProto) -> None:
    stored = {t.name: t for t in model.graph.initializer if t.name.endswith(_HALF)}
    kept = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            full = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(full, node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
