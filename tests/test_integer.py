"""Which nodes an INT8 emission touches: layers and what moves bytes to them, and nothing that only shares a tensor."""

from __future__ import annotations

from typing import Any

import pytest

onnx = pytest.importorskip("onnx")

from engines.graph import Graph  # noqa: E402
from engines.precision.integer import quantisable, quantise_for_cpu, quantise_for_tensorrt  # noqa: E402
from engines.ranges import Calibration  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402

# stem -> relu -> first -> relu -> second, whose weights are the head's, too; the stem's relu goes past both to an Add
GRAPH = """
<ir_version: 9, opset_import: ["": 20]>
g (uint8[N,1,64,64] frame) => (uint8[N,1,64,64] nodule)
<float[4,1,1,1] stem_w = {0.1, 0.2, 0.3, 0.4}, float[4,4,1,1] first_w = {
  0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6},
 float[1,4,1,1] shared_w = {0.1, 0.2, 0.3, 0.4}, float[1] shared_b = {0.5}>
{
  [cast] x = Cast <to=1> (frame)
  [stem] s = Conv (x, stem_w)
  [stem_relu] r = Relu (s)
  [first] f = Conv (r, first_w)
  [first_relu] a = Relu (f)
  [second] m = Conv (a, shared_w, shared_b)
  [mask] e = Sigmoid (m)
  [residual] j = Add (r, e)
  [head] h = Conv (j, shared_w, shared_b)
  [sigmoid] p = Sigmoid (h)
  [to_bytes] nodule = Cast <to=2> (p)
}
"""


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = onnx.parser.parse_model(GRAPH)
    return Graph(model, ModelSpec("small", 64, 60.0, 1.0, ("nodule",), crop="none"), "0" * 64, 4)


def calibration_of(graph: Graph, kept: tuple[str, ...] = ()) -> Calibration:
    ranges = {name: (0.0, 4.0) for node in graph.model.graph.node for name in node.output}
    return Calibration("0" * 64, "minmax", 8, "0" * 64, "made up", ranges, kept=kept)


def emitted(graph: Graph, target: str, kept: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """For each original node what makes its inputs: an operator, or `constant`."""
    calibration = calibration_of(graph, kept)
    if target == "tensorrt":
        model = quantise_for_tensorrt(graph, calibration)
    else:
        model = quantise_for_cpu(graph, calibration, target)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    names = {node.name for node in graph.model.graph.node}
    return {n.name: [makers.get(i, "constant") for i in n.input] for n in model.graph.node if n.name in names}


def test_first_layers_and_heads_are_not_candidates(graph: Graph) -> None:
    assert quantisable(graph.model) == ["first", "second"]


@pytest.mark.parametrize("target", ["vnni", "avx2", "tensorrt"])
def test_a_head_that_shares_its_weights_keeps_them(graph: Graph, target: str) -> None:
    found = emitted(graph, target)
    assert found["second"][:2] == ["DequantizeLinear", "DequantizeLinear"]
    assert found["head"] == ["Add", "constant", "constant"]


def test_a_residual_add_reads_the_float_tensor_where_one_is_made(graph: Graph) -> None:
    for target in ("vnni", "tensorrt"):
        assert emitted(graph, target)["residual"][0] == "Relu"
        assert emitted(graph, target)["first"][0] == "DequantizeLinear"


@pytest.mark.parametrize("target", ["vnni", "tensorrt"])
def test_a_kept_layer_is_left_alone(graph: Graph, target: str) -> None:
    found = emitted(graph, target, ("first",))
    assert found["first"] == ["Relu", "constant"]
    assert found["second"][:2] == ["DequantizeLinear", "DequantizeLinear"]


def test_biases_stay_float_for_tensorrt(graph: Graph) -> None:
    assert emitted(graph, "tensorrt")["second"][2] == "constant"
    assert emitted(graph, "vnni")["second"][2] == "DequantizeLinear"


def as_text(model: Any) -> str:
    return str(onnx.printer.to_text(model))


def test_the_graph_that_came_is_not_changed(graph: Graph) -> None:
    before = as_text(graph.model)
    emitted(graph, "vnni")
    emitted(graph, "tensorrt")
    assert as_text(graph.model) == before
