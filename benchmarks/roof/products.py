"""Products as large as those of networks, to find out how fast a library does them at best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.count import count

SIDE = 1024
_CONVOLUTIONS = ((256, 1, 56), (96, 3, 28), (256, 3, 28))
"""channels in and out, side of the kernel, side of the map; small maps stay in the caches"""


def products(precision: str) -> Iterator[tuple[str, bytes, int, NDArray[Any]]]:
    """Large products of a precision, `fp32` or `int8`, each: what it is, an ONNX file from `x` to `y`, the
    multiply-accumulates that it takes, and its input, float32 or uint8."""
    rng = np.random.default_rng(0)
    cases: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
        f"{SIDE} x {SIDE} matrices": ("MatMul", (1, SIDE, SIDE), (SIDE, SIDE))
    }
    for channels, kernel, side in _CONVOLUTIONS:
        cases[f"{kernel} x {kernel} convolution of {channels} channels on {side} x {side}"] = (
            "Conv", (1, channels, side, side), (channels, channels, kernel, kernel)
        )  # fmt: skip
    for what, (op, shape, weights) in cases.items():
        feed: NDArray[Any]
        if precision == "fp32":
            model, feed = _graph(op, shape, weights, rng), rng.standard_normal(shape, np.float32)
        else:
            model, feed = _quantised(op, shape, weights, rng), rng.integers(0, 255, shape, np.uint8)
        yield what, model.SerializeToString(), sum(layer.mac for layer in count(model).layers), feed


def _graph(op: str, shape: Sequence[int], weights: Sequence[int], rng: np.random.Generator) -> onnx.ModelProto:
    w = numpy_helper.from_array(rng.standard_normal(weights, np.float32), "w")
    return _model([_node(op, "x", "w", "y", weights)], shape, TensorProto.FLOAT, [w])


def _quantised(op: str, shape: Sequence[int], weights: Sequence[int], rng: np.random.Generator) -> onnx.ModelProto:
    """The same with Q/DQ pairs, as engines have it, between bytes: unsigned activations, signed weights of 7 bits (more
    would saturate where there is no VNNI, and is no faster)."""
    constants = {
        "w": rng.integers(-63, 64, weights, np.int8),
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "weights_scale": np.float32(0.01),
        "weights_zero": np.int8(0),
        "out_scale": np.float32(0.5),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "weights_scale", "weights_zero"], ["wf"]),
        _node(op, "xf", "wf", "yf", weights),
        helper.make_node("QuantizeLinear", ["yf", "out_scale", "zero"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    return _model(nodes, shape, TensorProto.UINT8, tensors)


def _node(op: str, x: str, w: str, y: str, weights: Sequence[int]) -> onnx.NodeProto:
    if op == "MatMul":
        return helper.make_node(op, [x, w], [y])
    return helper.make_node(op, [x, w], [y], kernel_shape=weights[2:], pads=[weights[2] // 2] * 4)


def _model(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], dtype: int, constants: Sequence[TensorProto]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "ceiling",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],  # every case leaves the shape as it is
        list(constants),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
