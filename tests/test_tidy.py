"""Tidying: each leftover of the exporter goes, what only looks like one stays, and the function is the same."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from engines.graph import load_graph  # noqa: E402
from engines.onnxruntime_cpu import session_options  # noqa: E402
from engines.parity import phantom_frames  # noqa: E402
from engines.tidy import tidy  # noqa: E402
from ssmt_edge.weights import ONNX  # noqa: E402

# attention as PyTorch's exporter and onnxsim write it: 5 tokens of 8 channels, 2 heads
ATTENTION = """
    x = Cast <to=1> (frame)
    n = Shape <start=0, end=1> (frame)
    grid = Concat <axis=0> (n, one, five, five)
    mask = Expand (allowed, grid)
    added = Where (mask, nothing, lowest)
    merged = MatMul (x, w)
    qs, ks, vs = Split <axis=-1> (merged, sizes)
    q0 = Add (qs, qb)
    k0 = Add (ks, kb)
    v0 = Add (vs, vb)
    q1 = Reshape (q0, heads)
    q2 = Transpose <perm=[0,2,1,3]> (q1)
    k1 = Reshape (k0, heads)
    k2 = Transpose <perm=[0,2,1,3]> (k1)
    k3 = Reshape (k2, flat)
    k4 = Transpose <perm=[0,2,1]> (k3)
    k5 = Reshape (k4, whole)
    v1 = Reshape (v0, heads)
    v2 = Transpose <perm=[0,2,1,3]> (v1)
    qm = Mul (q2, root)
    km = Mul (k5, root)
    products = MatMul (qm, km)
    scores = Add (products, added)
    s = Softmax <axis=-1> (scores)
    bad = IsNaN (s)
    safe = Where (bad, nothing, s)
    o = MatMul (safe, v2)
    ot = Transpose <perm=[0,2,1,3]> (o)
    y = Reshape (ot, tokens)
"""
CONSTANTS = """
    int64[1] one = {1}, int64[1] five = {5}, bool[1,1,5,1] allowed = {1, 1, 1, 1, 1}, float nothing = {0.0},
    float lowest = {-3.4e38}, int64[3] sizes = {8, 8, 8}, int64[4] heads = {-1, 5, 2, 4}, int64[3] flat = {-1, 5, 4},
    int64[4] whole = {-1, 2, 4, 5}, float root = {0.7}, int64[3] tokens = {-1, 5, 8}
"""


def parse(body: str, constants: str, x: str, y: str, **weights: Any) -> Any:
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 20]> g ({x}) => ({y}) <{constants}> {{ {body} }}'
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(v, name) for name, v in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def attention(body: str = ATTENTION, constants: str = CONSTANTS) -> Any:
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 24)), **{name: random.normal(size=8) for name in ("qb", "kb", "vb")}}
    weights = {name: (value * 0.1).astype(np.float32) for name, value in weights.items()}
    return parse(body, constants, "uint8[N,5,8] frame", "float[N,5,8] y", **weights)


def counts(model: Any) -> collections.Counter[str]:
    return collections.Counter(n.op_type for n in model.graph.node)


def same(model: Any, tidied: Any, x: Any) -> None:
    onnx.checker.check_model(tidied, full_check=True)
    name = model.graph.input[0].name
    found = []
    for m in (model, tidied):
        session = ort.InferenceSession(m.SerializeToString(), session_options(1, optimise=False))
        found.append(session.run(None, {name: x})[0])
    assert found[0].std() > 0
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-5)


def frames(count: int = 3) -> Any:
    return np.random.default_rng(1).integers(0, 9, (count, 5, 8), np.uint8)


def test_attention_becomes_what_it_is() -> None:
    model = attention()
    before = model.SerializeToString()
    tidied = tidy(model)
    assert model.SerializeToString() == before  # a copy was tidied
    assert counts(tidied) == {
        "Cast": 1, "Reshape": 6, "Gemm": 1, "Split": 1, "Transpose": 4, "MatMul": 2, "Softmax": 1
    }  # fmt: skip
    assert [n.output[0] for n in tidied.graph.node][-1] == "y"
    assert {t.name for t in tidied.graph.initializer} == {i for n in tidied.graph.node for i in n.input} - {
        o for n in tidied.graph.node for o in n.output
    } - {"frame"}
    for count in (1, 3):
        same(model, tidied, frames(count))
    assert tidy(tidied).SerializeToString() == tidied.SerializeToString()


def test_a_mask_that_masks_stays_with_its_guard() -> None:
    model = attention(constants=CONSTANTS.replace("{1, 1, 1, 1, 1}", "{1, 0, 1, 1, 1}"))
    tidied = tidy(model)
    assert counts(tidied)["Where"] == 2 and counts(tidied)["IsNaN"] == 1
    same(model, tidied, frames())


def test_an_infinite_mask_keeps_its_guard() -> None:
    masked = ATTENTION.replace("scores = Add (products, added)", "scores = Div (products, many)")
    model = attention(masked, CONSTANTS + ", float[5] many = {1.0, 0.0, 1.0, 1.0, 1.0}")
    assert counts(tidy(model))["IsNaN"] == 1


def test_a_mask_that_widens_its_scores_stays() -> None:
    # here the sum has more rows than the products: leaving the mask out would lose them
    text = "p = MatMul (x, x) m = Expand (allowed, shape) a = Where (m, nothing, lowest) s = Add (p, a) y = Relu (s)"
    constants = "bool[1] allowed = {1}, int64[3] shape = {2, 4, 4}, float nothing = {0.0}, float lowest = {-3.4e38}"
    model = parse(text, constants, "float[4,4] x", "float[2,4,4] y")
    tidied = tidy(model)
    assert counts(tidied) == counts(model)
    same(model, tidied, np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32))


def test_a_scale_stays_where_keys_come_from_the_same_weights() -> None:
    model = attention(ATTENTION.replace("k1 = Reshape (k0, heads)", "k1 = Reshape (q0, heads)"))
    tidied = tidy(model)
    assert counts(tidied)["Mul"] == 2
    same(model, tidied, frames())


def test_a_bias_whose_sum_leaves_the_graph_stays() -> None:
    text = "m = MatMul (x, w) a, b = Split <axis=2> (m, sizes) y = Add (a, qb) c = Add (b, qb) d = Relu (c)"
    random = np.random.default_rng(8)
    weights = {"w": random.normal(size=(8, 16)), "qb": random.normal(size=8)}
    weights = {name: value.astype(np.float32) for name, value in weights.items()}
    model = parse(text, "int64[2] sizes = {8, 8}", "float[N,5,8] x", "float[N,5,8] y, float[N,5,8] d", **weights)
    same(model, tidy(model), random.normal(size=(2, 5, 8)).astype(np.float32))


def test_transposes_of_transposes() -> None:
    text = """a = Transpose <perm=[1,2,0]> (x) b = Transpose <perm=[2,0,1]> (a) c = Transpose <perm=[0,2,1]> (b)
        y = Relu (c)"""
    model = parse(text, "float unread = {0.0}", "float[N,3,4] x", "float[N,4,3] y")
    tidied = tidy(model)
    assert counts(tidied) == {"Transpose": 1, "Relu": 1} and not tidied.graph.initializer
    same(model, tidied, np.random.default_rng(3).normal(size=(2, 3, 4)).astype(np.float32))


def test_a_transpose_across_heads_is_not_a_hidden_one() -> None:
    text = "a = Reshape (x, flat) b = Transpose <perm=[0,2,1]> (a) c = Reshape (b, whole) y = Relu (c)"
    constants = "int64[3] flat = {-1, 4, 6}, int64[4] whole = {-1, 2, 6, 2}"
    model = parse(text, constants, "float[N,2,2,6] x", "float[N,2,6,2] y")
    tidied = tidy(model)
    assert counts(tidied) == counts(model)
    same(model, tidied, np.random.default_rng(4).normal(size=(3, 2, 2, 6)).astype(np.float32))


@pytest.mark.parametrize("width, reshapes", [(8, 0), (4, 2)])
def test_reshapes_around_a_function(width: int, reshapes: int) -> None:
    text = "g = Gemm (x, w) a = Reshape (g, tokens) r = Relu (a) b = Reshape (r, back) y = Gemm (b, v)"
    constants = f"int64[3] tokens = {{-1, 5, 8}}, int64[2] back = {{-1, {width}}}"
    weights = np.random.default_rng(5).normal(size=(8, 8)).astype(np.float32)
    model = parse(text, constants, "float[10,8] x", f"float[M,{width}] y", w=weights, v=weights[:width, :width])
    tidied = tidy(model)
    assert counts(tidied)["Reshape"] == reshapes
    same(model, tidied, np.random.default_rng(6).normal(size=(10, 8)).astype(np.float32))


@pytest.mark.parametrize("size, computed", [("16", False), ("12", True), ("3", True)])
def test_sizes_become_factors_only_if_they_are_whole(size: str, computed: bool) -> None:
    text = """s = Shape <start=0, end=2> (x) t = Concat <axis=0> (s, wanted)
        r = Resize <mode="linear", coordinate_transformation_mode="half_pixel"> (x, , , t) y = Relu (r)"""
    constants = f"int64[2] wanted = {{{size}, {size}}}"
    model = parse(text, constants, "float[N,2,8,8] x", f"float[N,2,{size},{size}] y")
    tidied = tidy(model)
    assert ("Shape" in counts(tidied)) == computed
    same(model, tidied, np.random.default_rng(7).normal(size=(2, 2, 8, 8)).astype(np.float32))


def test_the_shipped_network_is_the_same_with_fewer_nodes() -> None:
    graph = load_graph(ONNX)
    tidied = tidy(graph.model)
    assert len(tidied.graph.node) < len(graph.model.graph.node)
    assert counts(tidied)["Mul"] == 1 and counts(tidied)["Shape"] == 0
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for m in (model, tidied):  # what the sigmoid and the bytes would hide
        head = next(n for n in reversed(m.graph.node) if n.op_type == "Resize").output[0]
        m.graph.output.insert(0, onnx.helper.make_tensor_value_info(head, onnx.TensorProto.FLOAT, ["N", 1, 224, 224]))
    same(model, tidied, phantom_frames(graph.spec, 2))
