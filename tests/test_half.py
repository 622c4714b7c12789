"""Half precision: which nodes keep FP32, what becomes of the others, and what happens without protection.

ONNX Runtime's CPU provider computes half-precision graphs in FP32, so it proves nothing here: ONNX's own reference
evaluator rounds every tensor to half.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from engines.calibrate import Samples, measure_ranges  # noqa: E402
from engines.graph import OPSET, Graph, load_graph  # noqa: E402
from engines.lower import lower  # noqa: E402
from engines.onnxruntime_cpu import open_graph  # noqa: E402
from engines.parity import phantom_frames  # noqa: E402
from engines.precision import emit_for_tensorrt, emit_half  # noqa: E402
from engines.precision.half import LARGEST, SHARE, SMALLEST, islands, to_half  # noqa: E402
from ssmt_edge.errors import CalibrationError  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402

SIZE, CHANNELS = 64, 8


def weight(name: str, values: Any) -> Any:
    return numpy_helper.from_array(np.asarray(values, np.float32), name)


def normalising_graph(scale: float) -> Graph:
    """frame -> convolution that yields values of about `scale` -> LayerNormalization -> product -> head -> nodule."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Cast", ["frame"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"], "centre"),
        helper.make_node("Conv", ["centred", "stem_w"], ["stem"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["stem"], ["last"], "to_last", perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["last", "gamma", "beta"], ["normed"], "norm", axis=-1, epsilon=1e-6),
        helper.make_node("MatMul", ["normed", "linear_w"], ["linear"], "linear"),
        helper.make_node("Relu", ["linear"], ["active"], "relu"),
        helper.make_node("Transpose", ["active"], ["first"], "to_first", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "head_w"], ["logit"], "head"),
        helper.make_node("Sigmoid", ["logit"], ["probability"], "sigmoid"),
        helper.make_node("Mul", ["probability", "to_byte"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "round"], ["rounded"], "round"),
        helper.make_node("Cast", ["rounded"], ["nodule"], "to_bytes", to=TensorProto.UINT8),
    ]
    constants = [
        weight("mean", 60.0),
        weight("stem_w", rng.normal(0, scale / 100, (CHANNELS, 1, 3, 3))),
        weight("gamma", np.ones(CHANNELS)),
        weight("beta", np.zeros(CHANNELS)),
        weight("linear_w", rng.normal(0, 1, (CHANNELS, CHANNELS))),
        weight("head_w", rng.normal(0, 1, (1, CHANNELS, 1, 1))),
        weight("to_byte", 255.0),
        weight("round", 0.5),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["N", 1, SIZE, SIZE])],
        [helper.make_tensor_value_info("nodule", TensorProto.UINT8, ["N", 1, SIZE, SIZE])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    return Graph(model, ModelSpec("small", SIZE, 60.0, 1.0, ("nodule",), crop="none"), "0" * 64, 4)


def ranges_of(graph: Graph) -> Any:
    frames = phantom_frames(graph.spec, 8)
    return measure_ranges(graph, Samples(frames, [str(i) for i in range(8)]), "phantoms")


def difference(model: Any, graph: Graph) -> float:
    """Largest difference to the FP32 graph in gray levels, every tensor of `model` rounded to its own type."""
    frames = phantom_frames(graph.spec, 2, seed=6)
    with np.errstate(all="ignore"):
        (found,) = ReferenceEvaluator(model).run(["nodule"], {"frame": frames})
    (expected,) = ReferenceEvaluator(graph.model).run(["nodule"], {"frame": frames})
    assert expected.std() > 40  # masks that say something
    return float(np.abs(found.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("decomposed", [False, True])
def test_large_activations_destroy_an_unprotected_layer_norm_and_not_a_protected_one(decomposed: bool) -> None:
    graph = normalising_graph(1000)  # squares of a thousand pass 65504; the values themselves do not
    calibration = ranges_of(graph)
    kept = islands(graph.model, calibration.ranges)
    assert kept["norm"] == "statistics"
    unprotected = {name: why for name, why in kept.items() if name != "norm"}
    protected = emit_half(graph, calibration)
    if decomposed:  # as TensorRT 8.5 has to take it
        bare, protected = to_half(lower(graph.model), unprotected), lower(protected)
    else:
        bare = to_half(graph.model, unprotected)
    assert difference(bare, graph) > 100
    assert difference(protected, graph) <= 3


def test_values_near_the_limit_keep_fp32_all_the_way(tmp_path: Path) -> None:
    graph = normalising_graph(30000)  # the convolution's own values pass the share of 65504, here even the limit
    calibration = ranges_of(graph)
    assert max(map(abs, calibration.ranges["stem"])) > LARGEST
    kept = islands(graph.model, calibration.ranges)
    for name in ("stem", "to_last", "norm"):  # makes, moves and reads them
        assert "values up to" in kept[name] or name == "norm"
    assert {"linear", "relu", "to_first"}.isdisjoint(kept)
    without = {name: why for name, why in kept.items() if not why.startswith("values")}
    assert difference(to_half(graph.model, without), graph) > 100
    assert difference(emit_half(graph, calibration), graph) <= 3


def test_the_share_of_the_limit_decides() -> None:
    graph = normalising_graph(100)
    ranges = ranges_of(graph).ranges
    assert not [why for why in islands(graph.model, ranges).values() if why.startswith("values")]
    limit = SHARE * LARGEST
    assert "linear" not in islands(graph.model, {**ranges, "linear": (-limit, limit)})
    kept = islands(graph.model, {**ranges, "linear": (-limit - 1, 0.0)})
    assert kept["linear"] == kept["relu"] == f"values up to {limit + 1:.0f} in linear"


@pytest.mark.parametrize("value", [1e-7, 1e6])
def test_a_constant_that_half_precision_cannot_hold_keeps_its_node(value: float) -> None:
    graph = normalising_graph(100)
    constants = {t.name: t for t in graph.model.graph.initializer}
    constants["linear_w"].CopyFrom(weight("linear_w", np.full((CHANNELS, CHANNELS), value)))
    assert "linear_w" in islands(graph.model, ranges_of(graph).ranges)["linear"]


def test_ranges_of_another_graph_are_refused() -> None:
    graph = normalising_graph(100)
    ranges = ranges_of(graph).ranges
    with pytest.raises(CalibrationError, match="no range for linear"):
        islands(graph.model, {name: r for name, r in ranges.items() if name != "linear"})


def test_types_of_the_emitted_graph(tiny_graph: Path) -> None:
    graph = load_graph(tiny_graph)
    model = emit_half(graph, ranges_of(graph))
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
    kinds |= {t.name: t.data_type for t in inferred.graph.initializer}
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    halves = [n for n in convolutions if kinds[n.output[0]] == TensorProto.FLOAT16]
    assert len(halves) == len(convolutions) - 1  # all but the head
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "ReduceMean", "Sigmoid"):
            assert kinds[node.output[0]] == TensorProto.FLOAT, node.name
    ins, outs = model.graph.input, model.graph.output
    assert [v.type.tensor_type.elem_type for v in (*ins, *outs)] == [
        TensorProto.UINT8,
        TensorProto.UINT8,
        TensorProto.FLOAT,
    ]
    # one Cast a tensor and direction, however many read it
    casts = [(n.input[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    weights = sum(numpy_helper.to_array(t).nbytes for t in model.graph.initializer)
    before = sum(numpy_helper.to_array(t).nbytes for t in graph.model.graph.initializer)
    assert weights < 0.55 * before
    assert difference(model, graph) <= 8  # its logits were scaled up: three levels for a network as trained


@pytest.mark.parametrize("scale", [100, 1000])
def test_half_precision_around_int8_computes_what_float_does(scale: float) -> None:
    graph = normalising_graph(scale)
    calibration = ranges_of(graph)
    typed = emit_for_tensorrt(graph, "int8", calibration, (10, 3))
    floating = emit_for_tensorrt(graph, "int8", calibration, (8, 5))
    frames = phantom_frames(graph.spec, 2, seed=6)
    found = ReferenceEvaluator(typed).run(["nodule"], {"frame": frames})[0].astype(int)
    with open_graph(replace(graph, model=floating)) as engine:  # all in float32, which it computes as written
        expected = engine.infer(frames)["nodule"].astype(int)
    assert expected.std() > 40 and np.abs(found - expected).max() <= 16  # a value beside an edge of INT8's steps
    assert np.abs(found - expected).mean() < 0.5

    makers = {name: node for node in typed.graph.node for name in node.output}
    kinds = {t.name: t.data_type for t in typed.graph.initializer}
    (linear,) = (n for n in typed.graph.node if n.op_type == "MatMul")
    for name in linear.input:  # nothing between a pair and its layer, or TensorRT does not fuse them
        assert makers[name].op_type == "DequantizeLinear"
        assert kinds[makers[name].input[1]] == TensorProto.FLOAT16
    first = makers[makers[linear.input[0]].input[0]]
    assert first.op_type == "QuantizeLinear" and makers[first.input[0]].name == "norm"
    assert kinds[first.input[1]] == TensorProto.FLOAT  # it reads an island, without a Cast


def test_scales_too_small_for_half_are_raised() -> None:
    graph = normalising_graph(100)
    constants = {t.name: t for t in graph.model.graph.initializer}
    values = numpy_helper.to_array(constants["linear_w"]).copy()
    values[:, 0] *= 1e-6  # a channel that all but died: its scale is below half precision's normal numbers
    constants["linear_w"].CopyFrom(weight("linear_w", values))
    emitted = emit_for_tensorrt(graph, "int8", ranges_of(graph), (10, 3))
    halves = [
        numpy_helper.to_array(t) for t in emitted.graph.initializer if t.name.endswith("_half") and "scale" in t.name
    ]
    assert halves and all((s >= SMALLEST).all() for s in halves) and any((s == SMALLEST).any() for s in halves)
    assert difference(emitted, graph) < 40
