"""Lowering to opset 17: the same function in TensorRT 8.5's operators, or an error that names the node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from engines.graph import Graph, load_graph  # noqa: E402
from engines.lower import lower  # noqa: E402
from engines.onnxruntime_cpu import open_graph, session_options  # noqa: E402
from engines.parity import max_difference, phantom_frames  # noqa: E402
from engines.rules import violations  # noqa: E402
from ssmt_edge.errors import ExportError  # noqa: E402
from ssmt_edge.weights import CALIBRATION, ONNX  # noqa: E402

EIGHT = ", ".join(["0.5, 1.5, -1.0, 2.0"] * 2)


def parse(body: str, constants: str = "", x: str = "float[N,4,6,8]", opset: int = 20) -> Any:
    held = f"<{constants}>" if constants else ""
    header = f'<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]>'
    model = onnx.parser.parse_model(f"{header} g ({x} x) => (y) {held} {{ {body} }}")
    inferred = onnx.shape_inference.infer_shapes(model)
    if not inferred.graph.output[0].type.tensor_type.elem_type:
        inferred.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    del inferred.graph.value_info[:]
    return inferred


def run(model: Any, x: Any) -> Any:
    session = ort.InferenceSession(model.SerializeToString(), session_options(1, optimise=False))
    return session.run(None, {"x": x})[0]


SAME = {
    "layer norm": (
        "y = LayerNormalization <epsilon=0.01> (x, w, b)", f"float[8] w = {{{EIGHT}}}, float[8] b = {{{EIGHT}}}"
    ),
    "layer norm without bias": ("y = LayerNormalization (x, w)", f"float[8] w = {{{EIGHT}}}"),
    "layer norm over two axes": ("y = LayerNormalization <axis=2> (x, w)", "float[1,8] w = {" + EIGHT + "}"),
    "gelu": ("y = Gelu (x)", ""),
    "gelu by tanh": ('y = Gelu <approximate="tanh"> (x)', ""),
    "mean": ("y = ReduceMean <keepdims=0> (x, a)", "int64[2] a = {2, -1}"),
    "largest of all": ("y = ReduceMax (x)", ""),
    "reduction of nothing": ("y = ReduceMin <noop_with_empty_axes=1> (x)", ""),
    "even split": ("y, z = Split <axis=3, num_outputs=2> (x)", ""),
    "uneven split": ("a, z, y = Split <axis=-1, num_outputs=3> (x)", ""),
    "split by sizes": ("a, y = Split <axis=3> (x, s)", "int64[2] s = {5, 3}"),
    "resize": (
        'y = Resize <mode="linear", antialias=0, keep_aspect_ratio_policy="stretch"> (x, , f)',
        "float[4] f = {1.0, 1.0, 2.0, 2.0}",
    ),
    "average pool": (
        "y = AveragePool <kernel_shape=[3,3], dilations=[1,1], count_include_pad=1, pads=[1,1,1,1]> (x)", "",
    ),
    "pad": ("y = Pad (x, p)", "int64[8] p = {0, 0, 1, 1, 0, 0, 1, 0}"),
    "shape of a part": ("s = Shape <start=1, end=-1> (x) e = Expand (o, s) y = Add (e, e)", "float o = {2.0}"),
    "shape from an axis on": ("s = Shape <start=-2> (x) y = Cast <to=1> (s)", ""),
    "shape": ("s = Shape (x) y = Cast <to=1, saturate=1> (s)", ""),
    "guard": ("n = IsNaN (x) y = Where (n, o, x)", "float o = {0.0}"),
    "quantised": (
        "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)", "float s = {0.05}, int8 z = {0}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_an_operator_means_the_same_lowered(name: str) -> None:
    model = parse(*SAME[name])
    before = model.SerializeToString()
    lowered = lower(model)
    assert model.SerializeToString() == before  # a copy was lowered
    onnx.checker.check_model(lowered, full_check=True)
    assert [o.version for o in lowered.opset_import if not o.domain] == [17] and lowered.ir_version == 8
    assert violations(lowered, (8, 5)) == []
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 8)).astype(np.float32) * 3
    np.testing.assert_allclose(run(lowered, x), run(model, x), rtol=1e-5, atol=1e-6)


def test_layer_norm_keeps_its_digits_far_from_zero() -> None:
    # the mean of squares minus the square of the mean would leave nothing of a deviation of 1 beside 1e4
    lowered = lower(parse("y = LayerNormalization (x, w)", f"float[8] w = {{{', '.join(['1.0'] * 8)}}}"))
    assert not {"LayerNormalization", "Pow"} & {n.op_type for n in lowered.graph.node}
    deviations = np.random.default_rng(1).normal(size=(2, 4, 6, 8))
    x = (1e4 + deviations).astype(np.float32)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(run(lowered, x), exact, atol=2e-3)


def test_layer_norm_of_halves_squares_in_float() -> None:
    text = "y = LayerNormalization (x, w)", f"float16[8] w = {{{', '.join(['15360'] * 8)}}}", "float16[N,4,6,8]"
    lowered = lower(parse(*text))
    squares = next(n for n in lowered.graph.node if n.op_type == "Mul")
    assert squares.input[0] == squares.input[1]
    x = (np.random.default_rng(2).normal(size=(2, 4, 6, 8)) * 2000).astype(np.float16)
    exact = x.astype(np.float64) - x.astype(np.float64).mean(-1, keepdims=True)
    assert np.abs(exact).max() ** 2 > np.finfo(np.float16).max
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True))
    found = ReferenceEvaluator(lowered).run(None, {"x": x})[0]  # computes in the types the graph says
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, exact, atol=3e-3)


REFUSED = {
    "group norm": (
        "y = GroupNormalization <num_groups=2> (x, w, w)", "float[2] w = {1.0, 2.0}",
        r"node y \(GroupNormalization\), whose version 18 is newer",
    ),
    "new operator": ("y = Mish (x)", "", r"node y \(Mish\), whose version 18 is newer"),
    "other domain": ("y = com.microsoft.Gelu (x)", "", r"node y \(Gelu\), of domain com\.microsoft"),
    "antialias": (
        'y = Resize <mode="linear", antialias=1> (x, , f)', "float[4] f = {1.0, 1.0, 0.5, 0.5}",
        r"node y \(Resize\), with antialias 1",
    ),
    "resize of axes": (
        'y = Resize <axes=[2,3]> (x, , f)', "float[2] f = {2.0, 2.0}", r"node y \(Resize\), for some of the axes",
    ),
    "statistics": (
        "n, m = LayerNormalization (x, w) y = Add (m, m)", f"float[8] w = {{{EIGHT}}}",
        r"node n \(LayerNormalization\), whose mean or deviation is used",
    ),
    "computed axes": (
        "a = Add (o, o) y = ReduceMax (x, a)", "int64[1] o = {1}", r"node y \(ReduceMax\), whose axes a are computed",
    ),
    "reduction of nothing": ("y = ReduceL2 <noop_with_empty_axes=1> (x)", "", r"node y \(ReduceL2\), of no axes"),
    "unknown axis": ("y, z = Split <num_outputs=2> (x)", "", r"node y \(Split\), of an axis 0 whose size is unknown"),
    "half scale": (
        "h = Cast <to=10> (x) q = QuantizeLinear (h, s, z) d = DequantizeLinear (q, s, z) y = Cast <to=1> (d)",
        "float16 s = {11878}, int8 z = {0}", r"node q \(QuantizeLinear\), whose scale is of float16, expected float32",
    ),
    "dilated pool": (
        "y = AveragePool <kernel_shape=[2,2], dilations=[2,2]> (x)", "", r"node y \(AveragePool\), with dilations",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lowered_is_named(name: str) -> None:
    body, constants, message = REFUSED[name]
    with pytest.raises(ExportError, match=message):
        lower(parse(body, constants))


def test_a_newer_opset_is_refused() -> None:
    with pytest.raises(ExportError, match="opset 21, expected 17 to 20"):
        lower(parse("y = Relu (x)", opset=21))


def same_lowered(graph: Graph, count: int = 2) -> None:
    lowered = lower(graph.model)
    assert violations(lowered, (8, 5)) == []
    frames = phantom_frames(graph.spec, count, seed=5)
    with open_graph(graph) as before, open_graph(replace(graph, model=lowered)) as after:
        expected = before.infer(frames)
        assert max(max_difference(after.infer(frames), expected).values()) <= 1 / 255
    assert np.ptp(expected["nodule"]) > 100


def test_the_shipped_network_lowered() -> None:
    same_lowered(load_graph(ONNX))


@pytest.mark.parametrize(("version", "opset"), [((8, 5), 17), ((10, 3), 20), ((10, 13), 20), ((11, 4), 20)])
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_shipped_network_as_each_tensorrt_takes_it(version: tuple[int, int], opset: int, precision: Any) -> None:
    from engines.precision import emit_for_tensorrt
    from engines.ranges import load_calibration

    graph = load_graph(ONNX)
    calibration = load_calibration(CALIBRATION, graph.checkpoint_sha256)
    emitted = emit_for_tensorrt(graph, precision, calibration, version)  # its rules are checked on the way
    assert [o.version for o in emitted.opset_import if not o.domain] == [opset]
    assert (sum(n.op_type == "QuantizeLinear" for n in emitted.graph.node) > 20) == (precision == "int8")
    frames = phantom_frames(graph.spec, 2, seed=5)
    with open_graph(graph) as reference, open_graph(replace(graph, model=emitted)) as engine:
        expected, found = (e.infer(frames)["nodule"] > 127 for e in (reference, engine))
    assert (expected != found).mean() < 0.01 < expected.mean()
