"""TensorRT's rules: a graph that obeys passes, and each thing changed is one violation that says so."""

from __future__ import annotations

import pytest

onnx = pytest.importorskip("onnx")

from engines.lower import lower  # noqa: E402
from engines.rules import check_rules, violations  # noqa: E402
from ssmt_edge.errors import ExportError  # noqa: E402
from ssmt_edge.weights import ONNX  # noqa: E402

NINE = ", ".join(["0.5"] * 18)
INT8 = f"""
    g (uint8[N,1,8,8] frame) => (uint8[N,2,8,8] nodule)
    <float s = {{0.1}}, int8 z = {{0}}, float[2,1,3,3] w = {{{NINE}}},
     float[2] ws = {{0.1, 0.2}}, int8[2] wz = {{0, 0}}> {{
        x = Cast <to=1> (frame)
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        wq = QuantizeLinear <axis=0> (w, ws, wz)
        wd = DequantizeLinear <axis=0> (wq, ws, wz)
        c = Conv <pads=[1,1,1,1]> (d, wd)
        nodule = Cast <to=2> (c)
    }}"""
FLOAT = """
    g (uint8[N,1,8,8] frame) => (uint8[N,1,16,16] nodule)
    <float[1] one = {1.0}, int64[1] first = {1}, int64[1] zero = {0}, float[4] twice = {1.0, 1.0, 2.0, 2.0}> {
        x = Cast <to=1> (frame)
        s = Shape (x)
        p = Slice (s, zero, first, zero)
        y = Add (x, one)
        u = Unsqueeze (y, first)
        v = Squeeze (u, first)
        r = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (v, , twice)
        m = MaxPool <kernel_shape=[1,1]> (r)
        nodule = Cast <to=2> (m)
    }"""
DENSE = f"""
    g (float[N,2] x) => (float[N,9] y)
    <float[2,9] w = {{{NINE}}}, float[9] ws = {{{", ".join(["0.1"] * 9)}}}, int8[9] wz = {{{", ".join(["0"] * 9)}}}> {{
        wq = QuantizeLinear <axis=1> (w, ws, wz)
        wd = DequantizeLinear <axis=1> (wq, ws, wz)
        y = Gemm (x, wd)
    }}"""
ALL = ((8, 5), (10, 3), (10, 13), (11, 4))
NEW = ALL[1:]


def parse(text: str, opset: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> {text}')


@pytest.mark.parametrize("text", [INT8, FLOAT, DENSE, DENSE.replace("Gemm", "MatMul")])
@pytest.mark.parametrize("version", ALL)
def test_a_graph_that_obeys(text: str, version: tuple[int, int]) -> None:
    assert violations(parse(text, 17), version) == []
    if version >= (10, 0):
        assert violations(parse(text, 20), version) == []
    check_rules(parse(text, 17), version)


CASES = {
    "opset": (FLOAT, [], "opset 20, expected 9 to 17", [(8, 5)], 20),
    "newer opset": (FLOAT, [], "opset 21, expected 9 to 20", [(10, 3)], 21),
    "domain": (
        FLOAT, [("Add (x, one)", "com.microsoft.BiasGelu (x, one)")],
        "node y (BiasGelu): of domain com.microsoft, expected ONNX's own operators", ALL, 17,
    ),
    "operator": (
        FLOAT, [("Add (x, one)", "LayerNormalization (x, one)"), ("float[1] one", "float[8] one"),
                ("one = {1.0}", "one = {1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0}")],
        "node y (LayerNormalization): an operator that its parser does not know, expected elementary ones",
        [(8, 5)], 17,
    ),
    "operator of none": (
        FLOAT, [("Add (x, one)", "Det (x)"), ("u = Unsqueeze (y, first)", "u = Unsqueeze (x, first)")],
        "node y (Det): an operator that its parser does not know, expected elementary ones", ALL, 17,
    ),
    "second output": (
        FLOAT, [("m = MaxPool", "m, indices = MaxPool")],
        "node m (MaxPool): makes indices, expected its first output only", ALL, 17,
    ),
    "computed axes": (
        FLOAT, [("v = Squeeze (u, first)", "t = Add (zero, first) v = Squeeze (u, t)")],
        "node v (Squeeze): input t is computed, expected a constant", ALL, 17,
    ),
    "shape of a part": (
        FLOAT, [("Shape (x)", "Shape <start=1> (x)")],
        "node s (Shape): has start or end, which its parser ignores, expected Shape and Slice", [(8, 5)], 17,
    ),
    "cubic": (FLOAT, [('"linear"', '"cubic"')], "node r (Resize): mode cubic, expected nearest or linear", ALL, 17),
    "antialias": (
        FLOAT, [('mode="linear"', 'mode="linear", antialias=1')], "node r (Resize): antialias 1, expected 0", NEW, 20,
    ),
    "coordinates": (
        FLOAT, [('"half_pixel"', '"tf_crop_and_resize"')],
        "node r (Resize): coordinate_transformation_mode tf_crop_and_resize, expected half_pixel or "
        "pytorch_half_pixel or tf_half_pixel_for_nn or asymmetric or align_corners", ALL, 17,
    ),
    "bytes inside": (
        FLOAT, [("y = Add (x, one)", "b = Cast <to=2> (x) e = Cast <to=1> (b) y = Add (e, one)")],
        "tensor b: uint8 inside the graph, expected in its inputs and outputs only", ALL, 17,
    ),
    "bytes read": (
        FLOAT, [("Shape (x)", "Shape (frame)")],
        "node s (Shape): reads uint8 frame, expected only a Cast to float32 or float16", ALL, 17,
    ),
    "bytes made": (
        FLOAT, [("nodule = Cast <to=2> (m)", "i = Cast <to=6> (m) nodule = Cast <to=2> (i)")],
        "node nodule (Cast): makes uint8 nodule, expected a Cast from float32 or float16", ALL, 17,
    ),
    "double": (
        FLOAT, [("y = Add (x, one)", "b = Cast <to=11> (x) e = Cast <to=1> (b) y = Add (e, one)")],
        "tensor b: float64, expected float32, float16, int32, int64 or bool", ALL, 17,
    ),
    "bfloat16": (
        FLOAT, [("y = Add (x, one)", "b = Cast <to=16> (x) e = Cast <to=1> (b) y = Add (e, one)")],
        "tensor b: bfloat16, expected float32, float16, int32, int64 or bool", [(8, 5)], 17,
    ),
    "mixed floats": (
        FLOAT, [("Add (x, one)", "Add (h, one)"), ("s = Shape", "h = Cast <to=10> (x) s = Shape")],
        "node y (Add): inputs of float16 and float32, expected one type", ALL, 17,
    ),
    "sequence": (
        FLOAT, [("uint8[N,1,8,8] frame", "uint8[N,1,8,8] frame, seq(float[N]) more")],
        "tensor more: of sequence_type, expected a tensor", ALL, 17,
    ),
    "zero-point": (
        INT8, [("int8 z = {0}", "int8 z = {3}")],
        "node q (QuantizeLinear): zero-point 3, expected 0", ALL, 17,
    ),
    "zero-point of uint8": (
        INT8, [("int8 z = ", "uint8 z = ")], "node q (QuantizeLinear): zero-point of uint8, expected int8", ALL, 17,
    ),
    "zero-point of int16": (
        INT8, [("int8 z = ", "int16 z = ")],
        "node q (QuantizeLinear): zero-point of int16, expected int8", [(11, 4)], 21,
    ),
    "no zero-point": (
        INT8, [("(x, s, z)", "(x, s)"), ("(q, s, z)", "(q, s)")],
        "node q (QuantizeLinear): no zero-point, which may mean uint8, expected int8 zeros", ALL, 17,
    ),
    "scale of zero": (
        INT8, [("float s = {0.1}", "float s = {0.0}")],
        "node q (QuantizeLinear): a scale that is not positive and finite", ALL, 17,
    ),
    "negative scale": (
        INT8, [("ws = {0.1, 0.2}", "ws = {0.1, -0.2}")],
        "node wq (QuantizeLinear): a scale that is not positive and finite", ALL, 17,
    ),
    "half scale": (
        INT8, [("float s = {0.1}", "float16 s = {11878}"), ("x = Cast <to=1>", "x = Cast <to=10>")],
        "node q (QuantizeLinear): scale of float16, expected float32", ALL, 17,
    ),
    "scale of another type": (
        INT8, [("x = Cast <to=1>", "x = Cast <to=10>")],
        "node q (QuantizeLinear): input of float16 and scale of float32, expected one type", NEW, 20,
    ),
    "unpaired": (
        INT8, [("d = DequantizeLinear (q, s, z)", "d = Cast <to=1> (q)")],
        "node q (QuantizeLinear): read by d (Cast), expected a DequantizeLinear", ALL, 17,
    ),
    "another scale": (
        INT8, [("d = DequantizeLinear (q, s, z)", "d = DequantizeLinear (q, t, z)"),
               ("float s =", "float t = {0.2}, float s =")],
        "node q (QuantizeLinear): another scale or axis than d (DequantizeLinear), expected the same", ALL, 17,
    ),
    "out of nothing": (
        INT8, [("q = QuantizeLinear (x, s, z)", "q = Cast <to=3> (x)")],
        "node d (DequantizeLinear): reads q, expected the output of a QuantizeLinear", ALL, 17,
    ),
    "stored int8": (
        INT8, [("wq = QuantizeLinear <axis=0> (w, ws, wz)", ""), ("float[2,1,3,3] w =", "int8[2,1,3,3] wq ="),
               (NINE, NINE.replace("0.5", "1"))],
        "node wd (DequantizeLinear): weights wq stored as int8, expected float32 behind a QuantizeLinear", [(8, 5)], 17,
    ),
    "int32 bias": (
        INT8, [("(d, wd)", "(d, wd, b)"), ("c = Conv", "b = DequantizeLinear (bq, s) c = Conv"),
               ("float s =", "int32[2] bq = {1, 2}, float s =")],
        "node b (DequantizeLinear): int32 bias bq, expected the bias in float", ALL, 17,
    ),
    "activation by channel": (
        INT8, [("(x, s, z)", "(x, ws, wz)"), ("(q, s, z)", "(q, ws, wz)"), ("uint8[N,1,8,8]", "uint8[N,2,8,8]"),
               ("float[2,1,3,3] w", "float[1,2,3,3] w"), ("<axis=0> (w, ws, wz)", "(w, s, z)"),
               ("<axis=0> (wq, ws, wz)", "(wq, s, z)"), ("uint8[N,2,8,8] nodule", "uint8[N,1,8,8] nodule")],
        "node d (DequantizeLinear): 2 scales for x, which is not a weight, expected one", ALL, 17,
    ),
    "wrong axis": (
        DENSE, [("axis=1", "axis=0"), ("float[9] ws", "float[2] ws"), ("int8[9] wz", "int8[2] wz"),
                (", ".join(["0.1"] * 9), "0.1, 0.1"), (", ".join(["0"] * 9), "0, 0")],
        "node wd (DequantizeLinear): scales for axis 0 of w, expected its output channels, axis 1", ALL, 17,
    ),
    "too many scales": (
        DENSE, [("axis=1", "axis=0")],
        "node wd (DequantizeLinear): 9 scales for axis 0 of w [2, 9], expected 2", ALL, 17,
    ),
    "not a weight": (
        DENSE, [("y = Gemm (x, wd)", "r = Relu (wd) y = Gemm (x, r)")],
        "node wd (DequantizeLinear): a scale for each channel of w, read by r (Relu), expected a layer's weight",
        ALL, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_thing_changed_is_one_violation(name: str) -> None:
    text, changes, expected, versions, opset = CASES[name]
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    for version in versions:
        assert violations(parse(text, opset), version) == [expected], version


def test_an_infinite_scale() -> None:
    model = parse(INT8, 17)
    model.graph.initializer[3].float_data[1] = float("inf")
    assert violations(model, (11, 4)) == ["node wq (QuantizeLinear): a scale that is not positive and finite"]


def test_half_scales_from_opset_19() -> None:
    text = INT8.replace("0.1", "11878").replace("0.2", "11878").replace("0.5", "14336").replace("to=1>", "to=10>")
    text = text.replace("float s", "float16 s").replace("float[2", "float16[2")
    for version in NEW:
        assert violations(parse(text, 19), version) == []
    assert len(violations(parse(text, 17), (10, 3))) == 2  # one for each pair


def test_weights_in_another_file() -> None:
    model = parse(INT8, 17)
    weights = model.graph.initializer[2]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights), "w"))
    onnx.external_data_helper.set_external_data(weights, "weights.bin")
    for version in ALL:
        assert violations(model, version) == ["tensor w: stored in another file, expected inside the graph"]


def test_control_flow() -> None:
    branch = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["o"])], "b", [], [value("o")])
    flow = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = onnx.helper.make_tensor("c", onnx.TensorProto.BOOL, [], [True])
    graph = onnx.helper.make_graph([flow], "g", [value("x")], [value("y")], [condition])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    for version in ALL:
        assert violations(model, version) == ["node y (If): control flow, expected a graph without"]


def test_shapes_that_do_not_fit() -> None:
    found = violations(parse(DENSE.replace("float[N,2] x", "float[N,3] x"), 17), (10, 3))
    assert len(found) == 1 and found[0].startswith("types or shapes disagree: ") and "Gemm" in found[0]


def test_an_older_tensorrt() -> None:
    assert violations(parse(FLOAT, 13), (8, 4)) == ["this TensorRT is older than 8.5, the oldest that can be built for"]


def test_the_error_names_the_first_and_counts_the_rest() -> None:
    text = FLOAT.replace('"linear"', '"cubic"').replace("Shape (x)", "Shape <start=1> (x)")
    with pytest.raises(
        ExportError, match=r"^TensorRT 8\.5 cannot take this graph: opset 20, .* \(and 2 more\); export it again$"
    ):
        check_rules(parse(text, 20), (8, 5))
    with pytest.raises(ExportError, match=r"^TensorRT 11\.4 .*mode cubic.* or linear; export it again$"):
        check_rules(parse(text, 20), (11, 4))


def test_the_shipped_network_obeys() -> None:
    model = onnx.load(str(ONNX))
    for version in NEW:
        assert violations(model, version) == []
    assert violations(lower(model), (8, 5)) == []
    old = violations(model, (8, 5))
    assert "opset 20, expected 9 to 17" in old and any("(LayerNormalization)" in line for line in old)


def value(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"])
