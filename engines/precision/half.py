"""Half precision, ONNX to ONNX: float16 tensors with Cast nodes around islands that stay FP32.

Half precision holds numbers up to 65504 with 11 bits. What sums squares or many values (the statistics of
normalisation, softmax, means), what passes a share of that limit on the calibration frames, and what has constants
that half precision cannot hold stays FP32; so do the frame's own arithmetic and the heads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engines.precision.places import LAYERS, heads, stems
from engines.tensors import Links, infer_types
from ssmt_edge.errors import CalibrationError, ExportError

LARGEST = 65504.0
SHARE = 0.25
"""of LARGEST: a tensor that passes it stays FP32, so that other frames have room for four times as much"""
SMALLEST = 2.0**-14
"""smallest normal half: below it bits are lost, and GPUs may flush to zero"""

# sums inside one operator pass the limit unseen, or cancel
STATISTICS = {
    "BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization",
    "RMSNormalization", "Softmax", "LogSoftmax", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "CumSum", "GlobalAveragePool", "Pow", "Exp", "Log", "Sqrt",
    "Reciprocal", "Erf",
}  # fmt: skip
# inputs that stay float32 by ONNX' own rules
_FLOAT_SETTINGS = {"Resize": (1, 2)}
Ranges = Mapping[str, tuple[float, float]]


def islands(model: onnx.ModelProto, ranges: Ranges) -> dict[str, str]:
    """Names of the nodes that stay FP32, each with the reason.

    Args:
        model: the FP32 graph.
        ranges: lowest and highest value of its float tensors on calibration frames, by name.

    Raises:
        CalibrationError: a layer's output has no range.
    """
    floating = _floating(model)
    begins, ends = stems(model), heads(model)
    constants = {t.name: t for t in model.graph.initializer}
    reasons: dict[str, str] = {}
    near = {name: max(-low, high) for name, (low, high) in ranges.items() if max(-low, high) > SHARE * LARGEST}
    for node in model.graph.node:
        floats = [n for n in (*node.input, *node.output) if n in floating]
        if not floats:
            continue
        unknown = [n for n in node.output if n in floating and n not in ranges]
        if node.op_type in LAYERS and unknown:
            raise CalibrationError(
                f"the calibration has no range for {unknown[0]}; it was made for another export; calibrate on frames "
                "again"
            )
        large = [n for n in floats if n in near]
        if node.name in begins and node.op_type not in LAYERS:
            reasons[node.name] = "arithmetic of the frame"
        elif node.name in ends:
            reasons[node.name] = "head"
        elif node.op_type in STATISTICS:
            reasons[node.name] = "statistics"
        elif unknown:  # such as a tensor with an infinite value
            reasons[node.name] = f"no range of {unknown[0]} was measured"
        elif large:
            worst = max(large, key=lambda n: near[n])
            reasons[node.name] = f"values up to {near[worst]:.0f} in {worst}"
        elif unfit := next((n for n in node.input if n in constants and _unfit(constants[n])), None):
            reasons[node.name] = f"the constant {unfit} does not fit half precision"
    return reasons


def to_half(model: onnx.ModelProto, full: Mapping[str, str]) -> onnx.ModelProto:
    """The graph with float16 tensors everywhere but at the nodes in `full`; with or without Q/DQ, whose scales follow.

    Args:
        model: FP32, opset >= 19 if it holds Q/DQ; not changed.
        full: names of the nodes that stay FP32, from `islands` of the graph before quantisation.

    Raises:
        ExportError: the result's types do not fit together (a node of a kind that this pass does not know).
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    floating = _floating(made)
    types = _node_types(made, full)
    constants = {t.name: t for t in made.graph.initializer}
    kept_names = {o.name for o in made.graph.output}
    have: dict[str, int] = {}  # type of each float tensor as it is made
    halves: dict[str, TensorProto] = {}
    casts: dict[tuple[str, int], str] = {}
    nodes: list[NodeProto] = []

    def as_type(name: str, kind: int, at_least: float | None) -> str:
        """The tensor in this type: itself, a converted constant, or behind a Cast that all who need it share."""
        if name in constants:
            if kind == TensorProto.FLOAT:
                return name
            half = name + "_half"
            if half not in halves:
                halves[half] = _half(constants[name], half, at_least)
                if at_least is not None:  # an activation's pair may part FP32 from half: one value on both sides
                    rounded = numpy_helper.to_array(halves[half]).astype(np.float32)
                    constants[name].CopyFrom(numpy_helper.from_array(rounded, name))
            return half
        if have[name] == kind:
            return name
        if (name, kind) not in casts:
            casts[name, kind] = f"{name}_{'half' if kind == TensorProto.FLOAT16 else 'full'}"
            node = helper.make_node("Cast", [name], [casts[name, kind]], name=casts[name, kind] + "_cast", to=kind)
            nodes.append(node)
        return casts[name, kind]

    for node in made.graph.node:
        kind = types.get(node.name, TensorProto.FLOAT)
        settings = _FLOAT_SETTINGS.get(node.op_type, ())
        for place, name in enumerate(node.input):
            if name in floating and place not in settings:
                scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and place == 1
                node.input[place] = as_type(name, kind, SMALLEST if scale else None)
        if node.op_type == "Cast" and node.output[0] in floating and kind == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.FLOAT16
        makes_constants = node.op_type in ("Constant", "ConstantOfShape") and node.output[0] in floating
        if makes_constants and kind == TensorProto.FLOAT16:
            for value in (a for a in node.attribute if a.name == "value"):
                value.t.CopyFrom(_half(value.t, value.t.name, None))
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name not in floating:
                continue
            have[name] = kind
            if name in kept_names and kind == TensorProto.FLOAT16:  # outputs keep their type
                node.output[place] = inner = name + "_inner"
                have[inner] = kind
                nodes.append(helper.make_node("Cast", [inner], [name], name=name + "_cast", to=TensorProto.FLOAT))
                have[name] = TensorProto.FLOAT

    del made.graph.node[:]
    made.graph.node.extend(nodes)
    del made.graph.value_info[:]
    used = {name for node in made.graph.node for name in node.input}
    initialisers = [t for t in (*made.graph.initializer, *halves.values()) if t.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(initialisers)
    try:
        infer_types(made, strict=True)
    except onnx.shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ExportError(f"half precision does not fit this graph: {reason}; use --precision fp32 or int8") from None
    return made


def _node_types(model: onnx.ModelProto, full: Mapping[str, str]) -> dict[str, int]:
    """Float type of every node; Q/DQ take that of what they stand at, so that no Cast parts them from it."""
    links = Links(model)

    def of(node: NodeProto) -> int:
        if node.op_type == "QuantizeLinear" and node.input[0] in links.makers:
            return of(links.makers[node.input[0]])
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):  # a weight's pair, or an activation's second half
            onward = (of(reader) for reader in links.readers.get(node.output[0], []))
            return TensorProto.FLOAT if TensorProto.FLOAT in onward else TensorProto.FLOAT16
        return TensorProto.FLOAT if node.name in full else TensorProto.FLOAT16

    return {node.name: of(node) for node in model.graph.node}


def _floating(model: onnx.ModelProto) -> set[str]:
    """Names of the float32 tensors."""
    return {name for name, found in infer_types(model).items() if found.dtype == TensorProto.FLOAT}


def _unfit(tensor: TensorProto) -> bool:
    """Whether half precision changes a constant beyond rounding: too large, or a small one (epsilon) that vanishes.

    Weights may hold tiny values among larger ones: they add nothing.
    """
    if tensor.data_type != TensorProto.FLOAT:
        return False
    values = np.abs(numpy_helper.to_array(tensor))
    finite = values[np.isfinite(values)]
    largest = finite.max(initial=0.0)
    return bool(largest > LARGEST or 0 < largest < SMALLEST)


def _half(tensor: TensorProto, name: str, at_least: float | None) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    if at_least is not None:
        values = np.maximum(values, at_least)
    # infinities stay what they are (masks of attention); anything else was checked to fit
    return numpy_helper.from_array(values.astype(np.float16), name)
