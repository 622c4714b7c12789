"""The count of small graphs, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engines.count import Count, count
from ssmt_edge.errors import EngineError


def model(
    nodes: Sequence[NodeProto],
    shape: Sequence[int | str],
    weights: dict[str, NDArray[np.generic]],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A graph from `x` to `y`; the output's sizes are left to inference."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def zeros(*shape: int, dtype: str = "float32") -> NDArray[np.generic]:
    return np.zeros(shape, dtype)


def conv_count() -> Count:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="stem", group=2, strides=[2, 2], pads=[1, 1, 1, 1])
    return count(model([node], ["N", 4, 8, 8], {"w": zeros(6, 2, 3, 3), "b": zeros(6)}))


def test_grouped_strided_convolution_at_batch_one() -> None:
    found = conv_count()
    mac = 6 * 4 * 4 * (2 * 3 * 3)  # output elements x length of each sum
    assert [(layer.name, layer.op, layer.mac) for layer in found.layers] == [("stem", "Conv", mac)]
    assert found.gmac == mac / 1e9
    assert found.gflops == 2 * found.gmac
    assert found.parameters == 6 * 2 * 3 * 3 + 6
    assert found.weight_bytes == found.layers[0].weight_bytes == 4 * found.parameters
    assert found.bytes == found.layers[0].bytes == 4 * (4 * 8 * 8 + found.parameters + 6 * 4 * 4)


def test_transposed_convolution_is_counted_at_its_input() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], kernel_shape=[2, 2])
    found = count(model([node], ["N", 4, 5, 5], {"w": zeros(4, 3, 2, 2)}))
    assert found.gmac == 4 * 5 * 5 * (3 * 2 * 2) / 1e9


def test_attention_is_counted_with_its_products_through_dynamic_shapes() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),  # [N, 5, 8] x [8, 12]
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "tail"], ["heads"], axis=0),
        helper.make_node("Reshape", ["q", "heads"], ["split"]),  # [N, 5, 3, 4]
        helper.make_node("Transpose", ["split"], ["a"], perm=[0, 2, 1, 3]),
        helper.make_node("Transpose", ["split"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["a", "b"], ["scores"]),  # 3 heads of [5, 4] x [4, 5]
        helper.make_node("Softmax", ["scores"], ["p"]),
        helper.make_node("MatMul", ["p", "a"], ["y"]),  # 3 heads of [5, 5] x [5, 4]
    ]
    shapes = {"zero": np.array([0]), "tail": np.array([5, 3, 4])}
    found = count(model(nodes, ["N", 5, 8], {"w": zeros(8, 12)} | shapes))
    assert [layer.mac for layer in found.layers] == [5 * 8 * 12, 3 * 5 * 4 * 5, 3 * 5 * 5 * 4]
    assert found.parameters == 8 * 12  # sizes of Reshape are not weights


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_and_without_transposed_input(transposed: int) -> None:
    node = helper.make_node("Gemm", ["a", "w", "b"], ["y"], transA=transposed)
    start = helper.make_node("Transpose" if transposed else "Identity", ["x"], ["a"])
    found = count(model([start, node], ["N", 7], {"w": zeros(7, 3), "b": zeros(3)}))
    assert found.gmac == 7 * 3 / 1e9
    assert found.parameters == 7 * 3 + 3


def test_quantised_graph_costs_the_same_and_weighs_a_quarter() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], group=2, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "xs", "xz"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "xs", "xz"], ["y"]),
    ]
    weights = {
        "xs": np.float32(0.1), "xz": np.uint8(0),
        "wq": zeros(6, 2, 3, 3, dtype="int8"), "ws": zeros(6), "wz": zeros(6, dtype="int8"),
        "bq": zeros(6, dtype="int32"), "bs": zeros(6), "bz": zeros(6, dtype="int32"),
    }  # fmt: skip
    found, plain = count(model(nodes, ["N", 4, 8, 8], weights)), conv_count()
    assert (found.gmac, found.parameters) == (plain.gmac, plain.parameters)
    assert found.weight_bytes == 6 * 2 * 3 * 3 + 4 * 6
    # bytes go in and, behind the fused activation, come out; biases are whole integers
    assert found.layers[0].bytes == 4 * 8 * 8 + found.weight_bytes + 6 * 4 * 4
    floats = model([*nodes[:4], helper.make_node("Conv", ["xd", "wd", "bd"], ["y"], group=2)], ["N", 4, 8, 8], weights)
    assert count(floats).layers[0].bytes == 4 * 8 * 8 + found.weight_bytes + 4 * 6 * 6 * 6  # nothing rounds it


def test_weights_stored_in_half_precision_count_once_at_two_bytes() -> None:
    nodes = [
        helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["s"]),  # the same weights again
        helper.make_node("Mul", ["s", "scale"], ["y"]),
    ]
    found = count(model(nodes, ["N", 8], {"half": zeros(8, 8, dtype="float16"), "scale": np.float32(2)}))
    assert found.gmac == 2 * 8 * 8 / 1e9
    assert (found.parameters, found.weight_bytes) == (64, 128)  # a scalar is a constant, not a weight


def test_constant_nodes_hold_weights_and_resize_scales_do_not() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(np.zeros((2, 4, 1, 1), np.float32))),
        helper.make_node("Conv", ["x", "w"], ["h"]),
        helper.make_node("Resize", ["h", "", "scales"], ["y"]),
    ]
    found = count(model(nodes, ["N", 4, 6, 6], {"scales": np.array([1, 1, 2, 2], np.float32)}))
    assert found.gmac == 2 * 6 * 6 * 4 / 1e9
    assert found.parameters == 8


def test_model_is_left_as_it_was() -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], ["N", 4], {"w": zeros(4, 4)})
    before = made.SerializeToString()
    count(made)
    assert made.SerializeToString() == before


def test_products_that_the_rule_does_not_know_are_refused() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], name="mix", equation="nk,km->nm")
    with pytest.raises(EngineError, match="'mix' is a Einsum"):
        count(model([node], ["N", 4], {"w": zeros(4, 4)}))


def test_sizes_that_cannot_be_inferred_are_named() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="stem")
    with pytest.raises(EngineError, match="tensor 'x' at node 'stem'"):
        count(model([node], ["N", 1, "height", 8], {"w": zeros(1, 1, 3, 3)}))
