"""What is done to a graph before OpenVINO compiles it: resizing by matrix products, and bfloat16 where it is free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")

import onnxruntime  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engines import openvino_cpu, read_manifest  # noqa: E402
from engines.graph import load_graph  # noqa: E402
from engines.openvino_cpu import core  # noqa: E402
from engines.openvino_rules import resize_by_products, shorten_floats  # noqa: E402
from engines.parity import phantom_frames  # noqa: E402

F32 = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def short(model: Any) -> dict[str, str]:
    """Names and kinds of the nodes that compute in bfloat16."""
    return {
        node.get_friendly_name(): node.get_type_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() not in ("Convert", "Constant")
        and node.get_output_size()
        and node.get_output_element_type(0) == openvino.Type.bf16
    }


def run(model: Any, *inputs: Any) -> list[Any]:
    compiled = core().compile_model(model, "CPU", F32)
    return [value.copy() for value in compiled(list(inputs)).values()]


def convolution_and_rounding(channels: int, read_as_well: bool, rounded: bool) -> bytes:
    """x to y: a float convolution with bias and Relu, behind it a rounding to bytes and, if asked for, the output z."""
    random = np.random.default_rng(3)
    numbers = {
        "w": random.normal(size=(8, channels, 3, 3)).astype(np.float32),
        "b": random.normal(size=8).astype(np.float32),
        "scale": np.float32(0.1),
        "zero": np.uint8(0),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
    ]
    if rounded:
        nodes += [
            helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["r"], ["y"]))
    outputs = ["y"]
    if read_as_well:
        nodes.append(helper.make_node("Neg", ["r"], ["z"]))
        outputs.append("z")
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 12, 12])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 12, 12]) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("channels", "read_as_well", "rounded", "kinds"),
    [
        (4, False, True, {"Convolution", "Add", "Relu"}),
        (4, True, True, set()),
        (4, False, False, set()),
        (1, False, True, set()),  # a stem
    ],
)
def test_a_convolution_is_shortened_where_its_result_is_rounded_anyway(
    channels: int, read_as_well: bool, rounded: bool, kinds: set[str]
) -> None:
    content = convolution_and_rounding(channels, read_as_well, rounded)
    model = core().read_model(content)
    shorten_floats(model)
    assert set(short(model).values()) == kinds
    x = np.random.default_rng(4).normal(size=(1, channels, 12, 12)).astype(np.float32)
    found, plain = run(model, x)[0], run(core().read_model(content), x)[0]
    # values of up to 25 lose 2^-9 of themselves at most, which moves them by one step of 0.1 or not at all
    assert np.abs(found - plain).max() <= 0.1001
    assert np.mean(found != plain) < 0.2


def test_a_network_loses_nothing_to_it(int8_engine: Path, tiny_graph: Path) -> None:
    before, after = (core().read_model(int8_engine / "model.onnx") for _ in range(2))
    shorten_floats(after)
    kinds = list(short(after).values())
    attention = sum(node.get_type_name() == "Softmax" for node in after.get_ordered_ops())
    assert attention > 0
    assert (kinds.count("Softmax"), kinds.count("MatMul")) == (attention, 2 * attention)
    assert "Convolution" not in kinds  # the stem and the head are the only float ones
    exact = core().read_model(int8_engine / "reference.onnx")
    frames = phantom_frames(load_graph(tiny_graph).spec, 4, seed=5)
    exact.reshape([4, 1, 64, 64])
    for model in (before, after):
        model.reshape([4, 1, 64, 64])
    shortened, plain, truth = (run(model, frames)[0].astype(int) for model in (after, before, exact))
    # INT8 has errors of its own; the shorter floats must not add to them
    assert np.abs(shortened - truth).mean() <= 1.15 * np.abs(plain - truth).mean()


@pytest.mark.parametrize("capable", [True, False])
def test_an_engine_shortens_where_the_processor_can(
    capable: bool, int8_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    capabilities = ["FP32", "INT8"] + ["BF16"] * capable
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, *names: capabilities)
    monkeypatch.setattr(openvino_cpu, "shorten_floats", made.append)
    openvino_cpu.open(int8_engine, read_manifest(int8_engine), threads=1).close()
    assert len(made) == capable


def test_fp32_stays_fp32(tiny_graph: Path) -> None:
    model = core().read_model(tiny_graph)
    count = len(model.get_ordered_ops())
    shorten_floats(model)
    assert (short(model), len(model.get_ordered_ops())) == ({}, count)


def resizing(channels: int, before: tuple[int, int], after: tuple[int, int], mode: str, where: str) -> Any:
    scales = helper.make_tensor("sizes", TensorProto.INT64, [4], [2, channels, *after])
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=where)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, channels, *before])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, channels, *after])
    graph = helper.make_graph([node], "resizing", [x], [y], [scales])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("channels", "before", "after", "mode", "where", "replaced"),
    [
        (1, (8, 8), (16, 16), "linear", "half_pixel", True),
        (1, (5, 7), (13, 9), "linear", "half_pixel", True),
        (1, (9, 12), (4, 5), "linear", "half_pixel", True),
        (1, (1, 2), (4, 6), "linear", "half_pixel", True),
        (3, (8, 8), (16, 16), "linear", "half_pixel", False),
        (1, (8, 8), (16, 16), "linear", "align_corners", False),
        (1, (8, 8), (16, 16), "nearest", "asymmetric", False),
    ],
)
def test_resizing_by_products_is_resizing(
    channels: int, before: tuple[int, int], after: tuple[int, int], mode: str, where: str, replaced: bool
) -> None:
    content = resizing(channels, before, after, mode, where).SerializeToString()
    x = np.random.default_rng(1).normal(size=(2, channels, *before)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    model = core().read_model(content)
    resize_by_products(model)
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    assert ("MatMul" in kinds, "Interpolate" in kinds) == (replaced, not replaced)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled({0: x})[0], expected, atol=1e-5)


def test_the_head_of_a_network_is_resized_so(tiny_graph: Path) -> None:
    model = core().read_model(tiny_graph)
    model.reshape([1, 1, 64, 64])
    before = sum(node.get_type_name() == "MatMul" for node in model.get_ordered_ops())
    resize_by_products(model)
    assert sum(node.get_type_name() == "MatMul" for node in model.get_ordered_ops()) == before + 2
