"""ONNX of today for TensorRT 8.5: opset 17, with the operators that its parser knows.

What changed between the opsets is asked of the ONNX package's own operator versions, so that nothing slips through: an
operator whose version differs is rewritten here, or known to mean the same, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, defs, helper, numpy_helper

from engines.editor import drop_unread, measure_behind_casts
from engines.tensors import FreeNames, Links, TensorType, attribute, dtype_name, infer_types, label, remove_attributes
from ssmt_edge.errors import ExportError

OPSET = 17
IR_VERSION = 8
NEWEST = 20
# differ only in the types they take, or in attributes that say something about types nobody uses here
_SAME_MEANING = {
    "Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear", "Equal", "Identity", "IsInf", "IsNaN",
    "QuantizeLinear", "Reshape", "Size",
}  # fmt: skip
_REDUCTIONS = {
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSumSquare",
}  # fmt: skip
_REDUCES_ONE_TO_ITSELF = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"}
_TO_THE_END = 2**31 - 1  # as an end of a slice; fits the 32 bits to which TensorRT casts


def lower(model: ModelProto) -> ModelProto:
    """The same function at opset 17, for TensorRT 8.5.

    LayerNormalization, Gelu and a Shape of some axes (whose attributes that parser ignores) become elementary
    operators; reductions, Split, Resize, Pad and AveragePool get their older form.

    Args:
        model: opset 17 to 20, float32 or with float16 parts, with or without QuantizeLinear and DequantizeLinear whose
            scales are float32. It is left as it is.

    Raises:
        ExportError: names the node and operator that opset 17 or TensorRT 8.5 cannot express.
    """
    opset = next((o.version for o in model.opset_import if not o.domain), 0)
    if not OPSET <= opset <= NEWEST:
        raise ExportError(f"a graph of opset {opset}, expected {OPSET} to {NEWEST} for TensorRT 8.5; export it again")
    lowered = ModelProto()
    lowered.CopyFrom(model)
    measure_behind_casts(lowered)
    rewriting = _Rewriting(lowered, opset)
    for node in lowered.graph.node:
        rewriting.lower(node)
    del lowered.graph.node[:], lowered.graph.value_info[:]
    lowered.graph.node.extend(rewriting.nodes)
    lowered.graph.initializer.extend(rewriting.tensors)
    drop_unread(lowered)
    for imported in lowered.opset_import:
        if not imported.domain:
            imported.version = OPSET
    lowered.ir_version = IR_VERSION
    try:
        onnx.checker.check_model(lowered)
        infer_types(lowered, strict=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph lowered to opset {OPSET} is not valid: {str(error).strip()}") from None
    return lowered


class _Rewriting:
    """Collects the lowered nodes and their constants."""

    def __init__(self, model: ModelProto, opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self._opset = opset
        self._links = Links(model)
        self._types = infer_types(model)
        self._names = FreeNames(model)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def lower(self, node: NodeProto) -> None:
        if node.domain:
            raise _refusal(node, f"of domain {node.domain}")
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            raise _refusal(node, "which holds a graph of its own")
        try:
            new = defs.get_schema(node.op_type, self._opset, "").since_version
        except defs.SchemaError:
            raise _refusal(node, f"which opset {self._opset} does not have") from None
        # an operator has no version at all before the opset that brought it
        changed = new > OPSET
        op = node.op_type
        if op == "LayerNormalization":
            self._layer_normalization(node)
        elif op == "Gelu":
            self._gelu(node)
        elif op == "Shape":
            self._shape(node)
        elif op in ("QuantizeLinear", "DequantizeLinear"):
            self._quantisation(node)
        elif not changed:
            self.nodes.append(node)
        elif op in _REDUCTIONS:
            self._reduction(node)
        elif op == "Split":
            self._split(node)
        elif op in ("Resize", "Pad", "AveragePool"):
            self._older_attributes(node)
        elif op in _SAME_MEANING:
            remove_attributes(node, "saturate")
            self.nodes.append(node)
        else:
            raise _refusal(node, f"whose version {new} is newer")

    def _layer_normalization(self, node: NodeProto) -> None:
        """As the operator's specification defines it, but with (x - mean)^2 instead of a mean of squares, which
        loses digits, and a product instead of Pow."""
        source, dtype = node.input[0], self._type(node).dtype
        if any(node.output[1:]):
            raise _refusal(node, "whose mean or deviation is used")
        stashed = attribute(node, "stash_type", TensorProto.FLOAT)
        if dtype not in (TensorProto.FLOAT, TensorProto.FLOAT16) or stashed != TensorProto.FLOAT:
            raise _refusal(node, f"of {dtype_name(dtype)} with statistics in {dtype_name(stashed)}")
        axis = attribute(node, "axis", -1)
        axes = list(range(axis - self._rank(node) if axis >= 0 else axis, 0))
        half = dtype == TensorProto.FLOAT16
        if half:
            source = self._add(node, "Cast", [source], to=TensorProto.FLOAT)
        mean = self._add(node, "ReduceMean", [source], axes=axes, keepdims=1)
        centred = self._add(node, "Sub", [source, mean])
        square = self._add(node, "Mul", [centred, centred])
        variance = self._add(node, "ReduceMean", [square], axes=axes, keepdims=1)
        epsilon = self._constant(np.float32(attribute(node, "epsilon", 1e-5)))
        deviation = self._add(node, "Sqrt", [self._add(node, "Add", [variance, epsilon])])
        value = self._add(node, "Div", [centred, deviation])
        if half:
            value = self._add(node, "Cast", [value], to=TensorProto.FLOAT16)
        biased = len(node.input) > 2 and node.input[2] != ""
        value = self._add(node, "Mul", [value, node.input[1]], None if biased else node.output[0])
        if biased:
            self._add(node, "Add", [value, node.input[2]], node.output[0])

    def _gelu(self, node: NodeProto) -> None:
        x, half_type = node.input[0], self._type(node).dtype == TensorProto.FLOAT16
        real = np.float16 if half_type else np.float32
        if attribute(node, "approximate", "none") == "tanh":
            cube = self._add(node, "Mul", [self._add(node, "Mul", [x, x]), x])
            cube = self._add(node, "Mul", [cube, self._constant(real(0.044715))])
            inner = self._add(node, "Add", [x, cube])
            bent = self._add(node, "Tanh", [self._add(node, "Mul", [inner, self._constant(real(sqrt(2 / pi)))])])
        else:
            bent = self._add(node, "Erf", [self._add(node, "Mul", [x, self._constant(real(sqrt(0.5)))])])
        gate = self._add(node, "Add", [bent, self._constant(real(1))])
        halved = self._add(node, "Mul", [x, self._constant(real(0.5))])
        self._add(node, "Mul", [halved, gate], node.output[0])

    def _shape(self, node: NodeProto) -> None:
        start, end = attribute(node, "start", 0), attribute(node, "end", _TO_THE_END)
        remove_attributes(node, "start", "end")
        if (start, end) == (0, _TO_THE_END):
            self.nodes.append(node)
            return
        bounds = [self._constant(np.array([bound], np.int64)) for bound in (start, end, 0)]
        self._add(node, "Slice", [self._add(node, "Shape", [node.input[0]]), *bounds], node.output[0])

    def _quantisation(self, node: NodeProto) -> None:
        scale = self._types.get(node.input[1])
        if scale is None or scale.dtype != TensorProto.FLOAT:
            found = "unknown type" if scale is None else dtype_name(scale.dtype)
            raise _refusal(node, f"whose scale is of {found}, expected float32")
        remove_attributes(node, "saturate", "block_size", "output_dtype")
        self.nodes.append(node)

    def _reduction(self, node: NodeProto) -> None:
        keep = attribute(node, "keepdims", 1)
        axes: list[int] = []
        if len(node.input) > 1 and node.input[1]:
            value = self._links.constant(node.input[1])
            if value is None:
                raise _refusal(node, f"whose axes {node.input[1]} are computed")
            axes = [int(axis) for axis in value.ravel()]
        if axes:
            self._add(node, node.op_type, [node.input[0]], node.output[0], axes=axes, keepdims=keep)
        elif attribute(node, "noop_with_empty_axes", 0):
            if node.op_type not in _REDUCES_ONE_TO_ITSELF:
                raise _refusal(node, "of no axes")
            self._add(node, "Identity", [node.input[0]], node.output[0])
        else:
            self._add(node, node.op_type, [node.input[0]], node.output[0], keepdims=keep)

    def _split(self, node: NodeProto) -> None:
        parts = attribute(node, "num_outputs")
        remove_attributes(node, "num_outputs")
        if parts is not None:
            axis, shape = attribute(node, "axis", 0), self._type(node).shape
            whole = shape[axis] if shape is not None else None
            if not isinstance(whole, int):
                raise _refusal(node, f"of an axis {axis} whose size is unknown")
            size = -(-whole // parts)  # the last one gets what is left
            sizes = [size] * (parts - 1) + [whole - size * (parts - 1)]
            del node.input[1:]
            node.input.append(self._constant(np.array(sizes, np.int64)))
        self.nodes.append(node)

    def _older_attributes(self, node: NodeProto) -> None:
        """Takes off what opset 17 does not have, where it says what opset 17 does anyway."""
        neutral: dict[str, Sequence[Any]] = {
            "antialias": (0,), "keep_aspect_ratio_policy": ("stretch",), "dilations": ([1], [1, 1], [1, 1, 1]),
        }  # fmt: skip
        for name, values in neutral.items():
            if (value := attribute(node, name, values[0])) not in values:
                raise _refusal(node, f"with {name} {value}")
        if attribute(node, "axes") is not None or (node.op_type == "Pad" and len(node.input) > 3):
            raise _refusal(node, "for some of the axes only")
        if node.op_type == "Pad" and attribute(node, "mode") == "wrap":
            raise _refusal(node, "with mode wrap")
        if node.op_type == "Resize" and attribute(node, "coordinate_transformation_mode") == "half_pixel_symmetric":
            raise _refusal(node, "with coordinate_transformation_mode half_pixel_symmetric")
        if node.op_type == "AveragePool" and attribute(node, "ceil_mode", 0):
            raise _refusal(node, "with ceil_mode, which the versions define differently")
        remove_attributes(node, *neutral)
        self.nodes.append(node)

    def _type(self, node: NodeProto) -> TensorType:
        if node.input[0] not in self._types:
            raise _refusal(node, f"whose input {node.input[0]} has no known type")
        return self._types[node.input[0]]

    def _rank(self, node: NodeProto) -> int:
        shape = self._type(node).shape
        if shape is None:
            raise _refusal(node, f"whose input {node.input[0]} has no known rank")
        return len(shape)

    def _add(self, origin: NodeProto, op: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Appends a node for a part of `origin` and returns the name of its output; the last one keeps the name."""
        part = self._names.take(f"{origin.output[0]}/{op}") if output is None else output
        name = part if output is None else origin.name
        self.nodes.append(helper.make_node(op, inputs, [part], name=name, **attributes))
        return part

    def _constant(self, value: Any) -> str:
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._names.take("lowered")
            self.tensors.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]


def _refusal(node: NodeProto, why: str) -> ExportError:
    return ExportError(f"TensorRT 8.5 cannot take the node {label(node)}, {why}; use TensorRT 10 or newer")
