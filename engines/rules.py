"""What TensorRT wants of a graph, asked before its parser is, which may be on another machine.

Sources: [a] `docs/operators.md` of onnx-tensorrt, in the release of that version; [b] its `docs/Changelog.md`;
[c] NVIDIA's ONNX Opset Guide for TensorRT 11; [d] the parser's source, release 8.5, `builtin_op_importers.cpp`;
[e] TensorRT's documentation, pages on Quantize, Explicit Quantization, Shape and DataType.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from engines.tensors import Links, attribute, dtype_name, infer_types, label
from ssmt_edge.errors import ExportError

Version = tuple[int, int]
# What differs by version; each holds from the version named on.
OLDEST: Version = (8, 5)
OPSETS = {(8, 5): 17, (10, 0): 20, (10, 6): 22, (10, 15): 24, (11, 4): 25}
"""highest opset: 8.5, 10.0, 10.15 [a]; 10.6, which brought ONNX 1.17 [b]; 11.4 [c]"""
BFLOAT16: Version = (9, 0)  # [b]
HALF_SCALES: Version = (10, 0)  # [e]; 8.5 reads every scale as float32 [d]
STORED_INT8: Version = (10, 0)  # weights may come as int8 constants [e]; before, as float32 with a QuantizeLinear
SHAPE_OF_A_PART: Version = (10, 0)  # 8.5 ignores the attributes of Shape, silently [d]

# of 8.5 [a], without control flow, random numbers and recurrent layers
_OPERATORS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip
    Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum
    Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity InstanceNormalization IsNaN LRN
    LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization
    Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
    Reshape Resize ReverseSequence RoiAlign Round ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size
    Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
    Trilu Unsqueeze Where Xor
"""
_OPERATORS_SINCE = {(10, 0): "CastLike Gelu GroupNormalization Hardmax IsInf LayerNormalization"}  # [b]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_DTYPES = {*_FLOATS, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL}
_SETTINGS = {  # inputs that have to be constants [a]
    "CumSum": (1,), "InstanceNormalization": (1, 2), "Slice": (3,), "Squeeze": (1,), "TopK": (1,), "Unsqueeze": (1,),
}  # fmt: skip
_RESIZING = {  # [a]; the first is what stands where nothing is said
    "mode": ("nearest", "linear"),
    "coordinate_transformation_mode": (
        "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"
    ),
    "nearest_mode": ("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"),
    "antialias": (0,),
    "keep_aspect_ratio_policy": ("stretch",),
}  # fmt: skip
_ONE_OUTPUT = {"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"}  # [a]
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")
_MIXED = {*_QUANTISING, "BatchNormalization", "CastLike", "Resize"}  # may have inputs of several float types


def check_rules(model: ModelProto, version: Version) -> None:
    """Raises where a graph breaks a rule of this TensorRT.

    Raises:
        ExportError: the first violation, and how many more there are.
    """
    if found := violations(model, version):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise ExportError(
            f"TensorRT {version[0]}.{version[1]} cannot take this graph: {found[0]}{more}; export it again"
        )


def violations(model: ModelProto, version: Version) -> list[str]:
    """One line for each thing that this TensorRT's parser or builder would refuse, or silently take for another.

    Args:
        version: major and minor.

    Returns:
        Lines that name the node or tensor, what it is, and what is expected; none for a graph that obeys.
    """
    if version < OLDEST:
        return [f"this TensorRT is older than {OLDEST[0]}.{OLDEST[1]}, the oldest that can be built for"]
    if outside := [t.name for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL]:
        return [f"tensor {name}: stored in another file, expected inside the graph" for name in outside]
    graph = _Graph(model, version)
    found = [
        *graph.opsets(), *graph.operators(), *graph.settings(), *graph.dtypes(), *graph.bytes(), *graph.quantisation(),
        *graph.float_types(),
    ]  # fmt: skip
    if not found:
        try:
            infer_types(model, strict=True)
        except onnx.shape_inference.InferenceError as error:
            found = [" ".join(f"types or shapes disagree: {error}".split())]
    return found


class _Graph:
    """The rules, each a method that yields its violations."""

    def __init__(self, model: ModelProto, version: Version) -> None:
        self._model, self._version = model, version
        self._links, self._types = Links(model), infer_types(model)
        self._opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        self._quantising = [n for n in model.graph.node if n.op_type in _QUANTISING and not n.domain]
        # their rule speaks for these, so that one mistake is told once
        self._quantised = {name for node in self._quantising for name in (*node.input, *node.output)}

    def opsets(self) -> Iterator[str]:
        highest = OPSETS[max(v for v in OPSETS if v <= self._version)]
        if not 9 <= self._opset <= highest:
            yield f"opset {self._opset}, expected 9 to {highest}"

    def operators(self) -> Iterator[str]:
        known = set(_OPERATORS.split())
        known.update(*(names.split() for since, names in _OPERATORS_SINCE.items() if since <= self._version))
        for node in self._model.graph.node:
            if node.domain not in ("", "ai.onnx"):
                yield f"node {label(node)}: of domain {node.domain}, expected ONNX's own operators"
            elif any(a.HasField("g") or a.graphs for a in node.attribute):
                yield f"node {label(node)}: control flow, expected a graph without"
            elif node.op_type not in known:
                yield f"node {label(node)}: an operator that its parser does not know, expected elementary ones"

    def settings(self) -> Iterator[str]:
        for node in self._model.graph.node:
            for index in _SETTINGS.get(node.op_type, ()):
                if index < len(node.input) and node.input[index] and not self._links.is_constant(node.input[index]):
                    yield f"node {label(node)}: input {node.input[index]} is computed, expected a constant"
            if node.op_type in _ONE_OUTPUT and any(node.output[1:]):
                yield f"node {label(node)}: makes {node.output[1]}, expected its first output only"
            for name, values in _RESIZING.items() if node.op_type == "Resize" else ():
                if (value := attribute(node, name, values[0])) not in values:
                    yield f"node {label(node)}: {name} {value}, expected {' or '.join(map(str, values))}"
            if node.op_type == "Shape" and self._version < SHAPE_OF_A_PART:
                if attribute(node, "start", 0) or attribute(node, "end") is not None:
                    yield f"node {label(node)}: has start or end, which its parser ignores, expected Shape and Slice"

    def dtypes(self) -> Iterator[str]:
        for value in (*self._model.graph.input, *self._model.graph.output):
            if (kind := value.type.WhichOneof("value")) != "tensor_type":
                yield f"tensor {value.name}: of {kind}, expected a tensor"
        allowed = _DTYPES - ({TensorProto.BFLOAT16} if self._version < BFLOAT16 else set())
        for name, found in self._types.items():
            if found.dtype not in allowed and name not in self._quantised:
                yield f"tensor {name}: {dtype_name(found.dtype)}, expected float32, float16, int32, int64 or bool"

    def bytes(self) -> Iterator[str]:
        """uint8 is for the graph's inputs and outputs; right there it becomes a float or comes from one [e]."""
        inputs = {value.name for value in self._model.graph.input}
        for name, found in self._types.items():
            if found.dtype != TensorProto.UINT8 or name in self._quantised:
                continue
            maker = self._links.makers.get(name)
            if name not in inputs and name not in self._links.outputs:
                yield f"tensor {name}: uint8 inside the graph, expected in its inputs and outputs only"
            elif maker is not None and not self._casts(maker, maker.input[0]):
                yield f"node {label(maker)}: makes uint8 {name}, expected a Cast from float32 or float16"
            for reader in self._links.readers.get(name, ()) if name in inputs else ():
                if not self._casts(reader, reader.output[0]):
                    yield f"node {label(reader)}: reads uint8 {name}, expected only a Cast to float32 or float16"

    def quantisation(self) -> Iterator[str]:
        for node in self._quantising:
            yield from (f"node {label(node)}: {what}" for what in self._quantisation_of(node))

    def float_types(self) -> Iterator[str]:
        """Strongly typed networks convert nothing by themselves."""
        for node in self._model.graph.node:
            if node.op_type in _MIXED:
                continue
            found = {self._types[name].dtype for name in node.input if name in self._types}.intersection(_FLOATS)
            if len(found) > 1:
                names = " and ".join(sorted(map(dtype_name, found)))
                yield f"node {label(node)}: inputs of {names}, expected one type"

    def _casts(self, node: NodeProto, other: str) -> bool:
        """Whether a node is a Cast whose other side is a float, as far as that is known."""
        return node.op_type == "Cast" and self._dtype(other) in (*_FLOATS[:2], TensorProto.UNDEFINED)

    def _quantisation_of(self, node: NodeProto) -> Iterator[str]:
        maker = self._links.makers.get(node.input[0])
        if maker is None or maker.op_type != "QuantizeLinear" or maker.input[1:] != node.input[1:]:
            yield from self._scale(node)
        yield from self._pair(node)
        if node.op_type == "DequantizeLinear":
            yield from self._channels(node)

    def _scale(self, node: NodeProto) -> Iterator[str]:
        """Scale and zero-point; what a DequantizeLinear shares with its QuantizeLinear is told there."""
        if node.op_type == "DequantizeLinear" and self._dtype(node.input[0]) == TensorProto.INT32:
            yield f"int32 bias {node.input[0]}, expected the bias in float"
            return
        if len(node.input) < 3 or not node.input[2]:
            yield "no zero-point, which may mean uint8, expected int8 zeros"
            return
        if (dtype := self._dtype(node.input[2])) != TensorProto.INT8:
            yield f"zero-point of {dtype_name(dtype)}, expected int8"
            return
        scale, zero = self._links.constant(node.input[1]), self._links.constant(node.input[2])
        if scale is None or zero is None:
            yield "scale or zero-point is computed, expected constants"
            return
        if np.any(zero):
            yield f"zero-point {int(zero[zero != 0].flat[0])}, expected 0"
        if scale.size != zero.size:
            yield f"{scale.size} scales and {zero.size} zero-points, expected the same number"
        if not np.all(np.isfinite(scale)) or not np.all(scale > 0):
            yield "a scale that is not positive and finite"
        yield from self._scale_type(node)

    def _scale_type(self, node: NodeProto) -> Iterator[str]:
        dtype = self._dtype(node.input[1])
        half = self._version >= HALF_SCALES and self._opset >= 19
        if dtype not in (_FLOATS if half else _FLOATS[:1]):
            yield f"scale of {dtype_name(dtype)}, expected float32" + (" or float16" if half else "")
        elif node.op_type == "QuantizeLinear" and (found := self._dtype(node.input[0])) not in (dtype, 0):
            yield f"input of {dtype_name(found)} and scale of {dtype_name(dtype)}, expected one type"

    def _pair(self, node: NodeProto) -> Iterator[str]:
        """A QuantizeLinear is read by DequantizeLinear only, with the same scale, and the other way round."""
        if node.op_type == "QuantizeLinear":
            readers = self._links.readers.get(node.output[0], [])
            if not readers or node.output[0] in self._links.outputs:
                yield f"its output {node.output[0]} leaves the graph, expected a DequantizeLinear behind it"
            for reader in readers:
                if reader.op_type != "DequantizeLinear":
                    yield f"read by {label(reader)}, expected a DequantizeLinear"
                elif not self._alike(node, reader):
                    yield f"another scale or axis than {label(reader)}, expected the same"
        elif self._links.is_constant(node.input[0]):
            if self._version < STORED_INT8 and self._dtype(node.input[0]) == TensorProto.INT8:
                yield f"weights {node.input[0]} stored as int8, expected float32 behind a QuantizeLinear"
        else:
            maker = self._links.makers.get(node.input[0])
            if maker is None or maker.op_type != "QuantizeLinear":
                yield f"reads {node.input[0]}, expected the output of a QuantizeLinear"

    def _alike(self, a: NodeProto, b: NodeProto) -> bool:
        one, other = self._links.constant(a.input[1]), self._links.constant(b.input[1])
        if one is None or other is None or not np.array_equal(one, other):
            return False
        return one.size == 1 or bool(attribute(a, "axis", 1) == attribute(b, "axis", 1))

    def _channels(self, node: NodeProto) -> Iterator[str]:
        """Several scales are for the output channels of weights."""
        scale = self._links.constant(node.input[1])
        if (count := 1 if scale is None else scale.size) == 1:
            return
        maker = self._links.makers.get(node.input[0])
        source = node.input[0] if maker is None else maker.input[0]
        shape = self._types[source].shape if source in self._types else None
        if not self._links.is_constant(source) or shape is None:
            yield f"{count} scales for {source}, which is not a weight, expected one"
            return
        axis = attribute(node, "axis", 1) % len(shape)
        if shape[axis] != count:
            yield f"{count} scales for axis {axis} of {source} {list(shape)}, expected {shape[axis]}"
            return
        for reader in self._links.readers.get(node.output[0], ()):
            channels = _output_channels(reader, len(shape)) if node.output[0] in reader.input[1:2] else None
            if channels is None:
                yield f"a scale for each channel of {source}, read by {label(reader)}, expected a layer's weight"
            elif channels != axis:
                yield f"scales for axis {axis} of {source}, expected its output channels, axis {channels}"

    def _dtype(self, name: str) -> int:
        return self._types[name].dtype if name in self._types else TensorProto.UNDEFINED


def _output_channels(node: NodeProto, rank: int) -> int | None:
    """The axis of a linear layer's weight that counts its outputs; None for other nodes."""
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)
