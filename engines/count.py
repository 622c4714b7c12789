"""Counts what a frame costs: multiply-accumulates, parameters and bytes that layers of an ONNX graph read and write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import NodeProto, TensorProto, inliner

from ssmt_edge.errors import EngineError

# products under other names: left out they would make the count silently too small
_REFUSED = {
    "Attention", "ConvInteger", "DeformConv", "DynamicQuantizeMatMul", "Einsum", "FusedConv", "FusedGemm",
    "FusedMatMul", "GRU", "LSTM", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention",
    "QAttention", "QGemm", "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
# inputs that hold settings of an operator, not learned weights
_SETTINGS = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2), "Resize": (1, 2, 3), "Pad": (2,)}


@dataclass(frozen=True)
class Layer:
    """One counted node of the graph."""

    name: str
    op: str
    mac: int
    """multiply-accumulates a frame"""
    weight_bytes: int
    """bytes of its weights and bias as stored"""
    bytes: int
    """bytes that it reads and writes a frame: inputs, weights and output, each once, and bytes instead of floats where
    Q/DQ pairs stand around it, because libraries fuse them into the layer"""


@dataclass(frozen=True)
class Count:
    """What one frame (batch 1) costs."""

    gmac: float
    """1e9 multiply-accumulates"""
    gflops: float
    """2 x gmac"""
    parameters: int
    """elements of the weights: floating-point tensors with at least one axis and integer tensors that are
    dequantised, in whatever type they are stored; scales, zero points and sizes of Resize are not weights"""
    weight_bytes: int
    """bytes of these weights as stored in the graph"""
    bytes: int
    """of all layers: what they read and write a frame, see `Layer`"""
    layers: tuple[Layer, ...]
    """in the graph's order"""


def count(model: onnx.ModelProto) -> Count:
    """Counts a graph by `ssmt_edge.spec.COUNT_RULE`; the model is not changed.

    Counted are the multiply-accumulates of Conv, ConvTranspose, MatMul and Gemm at batch 1, attention's products
    included, also where QuantizeLinear and DequantizeLinear surround them. Nothing else is: no bias, normalisation,
    activation, softmax or resizing.

    Args:
        model: any graph whose inputs have known sizes but for the first axis, which is taken as 1.

    Raises:
        EngineError: a product's size cannot be inferred, or the graph holds products that the rule does not know.
    """
    if model.functions:
        model = inliner.inline_local_functions(model)
    shapes, widths = _tensors(model)
    traffic = _Traffic(model.graph, shapes, widths)
    layers = []
    for node in model.graph.node:
        label = node.name or node.output[0]
        if node.op_type in _REFUSED or any(a.HasField("g") or a.graphs for a in node.attribute):
            raise EngineError(
                f"node {label!r} is a {node.op_type}, which cannot be counted; expected a graph whose products are "
                f"Conv, ConvTranspose, MatMul or Gemm: count the graph before it is optimised for one library"
            )
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            layers.append(Layer(label, node.op_type, _mac(node, shapes), *traffic.of(node)))
    weights = list(_weights(model.graph))
    mac = sum(layer.mac for layer in layers)
    return Count(
        gmac=mac / 1e9,
        gflops=2 * mac / 1e9,
        parameters=sum(prod(tensor.dims) for tensor in weights),
        weight_bytes=sum(prod(t.dims) * _width(t.data_type) for t in weights),
        bytes=sum(layer.bytes for layer in layers),
        layers=tuple(layers),
    )


def _width(dtype: int) -> int:
    """Bytes of an element."""
    return onnx.helper.tensor_dtype_to_np_dtype(dtype).itemsize


def _tensors(model: onnx.ModelProto) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Sizes, and bytes of an element, of every tensor whose sizes are known at batch 1."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    initialised = {tensor.name for tensor in fixed.graph.initializer}
    for value in fixed.graph.input:
        if value.name not in initialised and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    # sizes noted by the exporter still name the symbolic batch: infer them anew
    del fixed.graph.value_info[:]
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    widths = {tensor.name: _width(tensor.data_type) for tensor in fixed.graph.initializer}
    for value in (*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output):
        tensor_type = value.type.tensor_type
        if tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in tensor_type.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in tensor_type.shape.dim)
            widths[value.name] = _width(tensor_type.elem_type)
    return shapes, widths


class _Traffic:
    """Bytes that a layer reads and writes, seen through the Q/DQ pairs around it."""

    def __init__(self, graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], widths: dict[str, int]) -> None:
        self._shapes, self._widths = shapes, widths
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        self._constants = {tensor.name for tensor in graph.initializer}
        self._constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}

    def of(self, node: NodeProto) -> tuple[int, int]:
        """Bytes of the weights, and of everything."""
        weights = others = 0
        for name in filter(None, node.input):
            source = self._stored(name)
            if source in self._constants:
                weights += self._bytes(source)
            else:
                others += self._bytes(source)
        return weights, weights + others + self._bytes(self._written(node.output[0]))

    def _bytes(self, name: str) -> int:
        return prod(self._shapes[name]) * self._widths[name] if name in self._shapes else 0

    def _stored(self, name: str) -> str:
        """The tensor that is read: the bytes in front of a DequantizeLinear, the halves in front of a Cast."""
        maker = self._makers.get(name)
        through = maker is not None and (
            maker.op_type == "DequantizeLinear" or (maker.op_type == "Cast" and maker.input[0] in self._constants)
        )
        return self._stored(maker.input[0]) if maker is not None and through else name

    def _written(self, name: str) -> str:
        """The tensor that is written: the bytes behind a QuantizeLinear, if nobody wants the floats."""
        readers = self._readers.get(name, [])
        if name not in self._outputs and len(readers) == 1 and readers[0].op_type in ("Relu", "QuantizeLinear"):
            return self._written(readers[0].output[0])
        return name


def _mac(node: NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of one node: elements of its output times the length of the sum behind each."""
    try:
        first, second, out = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    except KeyError as error:
        raise EngineError(
            f"size of tensor {error} at node {node.name or node.output[0]!r} ({node.op_type}) cannot be inferred; "
            f"export the graph with fixed sizes but for the batch, and run onnxsim on it"
        ) from None
    if node.op_type == "Conv":  # weights [C_out, C_in / group, kernel...]
        return prod(out) * prod(second[1:])
    if node.op_type == "ConvTranspose":  # weights [C_in, C_out / group, kernel...], applied at each input element
        return prod(first) * prod(second[1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return prod(out) * (first[0] if transposed else first[-1])


def _weights(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """The constant tensors of the graph that are weights, each once however often it is used."""
    constants = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                constants.append(TensorProto())
                constants[-1].CopyFrom(attribute.t)
                constants[-1].name = node.output[0]
    dequantised = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    settings = {
        name for node in graph.node for place, name in enumerate(node.input) if place in _SETTINGS.get(node.op_type, ())
    }
    for tensor in constants:
        if tensor.name not in settings and tensor.dims and (tensor.data_type in _FLOATS or tensor.name in dequantised):
            yield tensor
