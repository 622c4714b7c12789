"""What OpenVINO's own compiler leaves to do in a graph, before it compiles it for the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF = "bf16"  # bfloat16: 8 bits for a value's digits, so 2^-9 of it is lost at most, and the range of FP32


def shorten_floats(model: Any) -> None:
    """In an INT8 graph, computes in bfloat16 what costs time in FP32 and loses next to nothing; other graphs stay.

    - convolutions that the calibration keeps out of INT8, where their result is rounded to eight bits anyway
    - the two products of attention and the softmax between them

    For processors with bfloat16 instructions: float convolutions took half the time there. All of the float part in
    bfloat16, as OpenVINO's own hint has it, costs masks: those of a partly trained ssmt-net agree with FP32 to 0.9971
    without, to 0.9966 with these rules, and to 0.9938 with the hint. A stem alone takes a shipped ssmt-lite from 0.9970
    to 0.9948 on phantoms.

    Args:
        model: openvino.Model; changed in place.
    """
    nodes = model.get_ordered_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return
    for node in nodes:
        if node.get_type_name() == "Convolution":
            _convolution(node)
        elif node.get_type_name() == "Softmax":
            _attention(node)


def _convolution(node: Any) -> None:
    """A convolution with float weights, then bias and Relu, then rounding alone."""
    weights = node.input_value(1)
    if weights.get_node().get_type_name() != "Constant":  # what scales bytes to weights
        return
    if weights.get_shape()[1] == 1:  # a stem, which reads the frame: cheap, and float for accuracy's sake
        return
    chain = [node]
    while len(readers := _readers(chain[-1])) == 1 and readers[0].get_node().get_type_name() in ("Add", "Relu"):
        chain.append(readers[0].get_node())
    if readers and all(reader.get_node().get_type_name() == "FakeQuantize" for reader in readers):
        _shorten(chain, readers)


def _attention(node: Any) -> None:
    """The softmax of a product, and the product that alone reads it."""
    first = node.input_value(0).get_node()
    readers = _readers(node)
    if first.get_type_name() != "MatMul" or len(_readers(first)) != 1 or len(readers) != 1:
        return
    second = readers[0].get_node()
    if second.get_type_name() == "MatMul" and readers[0].get_index() == 0:
        _shorten([first, node, second], _readers(second))


def _readers(node: Any) -> list[Any]:
    """Inputs that read a node's values; how large it is, a bias asks as well."""
    return [i for i in node.output(0).get_target_inputs() if i.get_node().get_type_name() != "ShapeOf"]


def _shorten(chain: list[Any], readers: list[Any]) -> None:
    """Lets nodes, each of which reads the one before, compute in bfloat16, and the readers read that as FP32."""
    from openvino import opset13

    names = {node.get_name() for node in chain}
    for node in chain:
        for place, value in enumerate(node.input_values()):
            if value.get_node().get_name() not in names:
                node.set_argument(place, opset13.convert(value, HALF).output(0))
        node.validate_and_infer_types()
    result = opset13.convert(chain[-1].output(0), "f32")
    for reader in readers:
        reader.replace_source_output(result.output(0))


def resize_by_products(model: Any) -> None:
    """Replaces the linear resizing of single planes, as in the heads, by one matrix product an axis: the same sums.

    OpenVINO's own takes 2 ms for 112 x 112 to 224 x 224 on one thread of a Zen 4: an INT8 ssmt-lite takes 9.7 ms so,
    11.5 ms without.

    Args:
        model: openvino.Model with fixed shapes; changed in place.
    """
    from openvino import opset13

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Interpolate":
            continue
        settings = node.get_attributes()
        if settings["mode"] not in ("linear", "linear_onnx") or settings["antialias"]:
            continue
        if settings["coordinate_transformation_mode"] != "half_pixel":
            continue
        (_, channels, *before), (_, _, *after) = node.input_value(0).get_shape(), node.output(0).get_shape()
        if channels != 1 or len(before) != 2:
            continue
        rows, columns = (opset13.constant(_weights(a, b)) for a, b in zip(before, after, strict=True))
        wide = opset13.matmul(node.input_value(0), columns, False, True)
        made = opset13.matmul(rows, wide, False, False)
        made.set_friendly_name(node.get_friendly_name())
        for user in node.output(0).get_target_inputs():
            user.replace_source_output(made.output(0))


def _weights(before: int, after: int) -> NDArray[np.float32]:
    """float32 [after, before]: the matrix that resizes an axis linearly, pixel centres at half-integers (ONNX Resize,
    coordinate transformation `half_pixel`)."""
    where = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    below = np.minimum(where.astype(int), max(before - 2, 0))
    matrix = np.zeros((after, before), np.float32)
    matrix[np.arange(after), below] = 1 - (where - below)
    if before > 1:
        matrix[np.arange(after), below + 1] = where - below
    return matrix
