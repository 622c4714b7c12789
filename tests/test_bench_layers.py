"""Ceilings, times of layers and the roofline that follows from both."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.roof import ceilings, products, profilers
from benchmarks.roof.layers import APART, Executed, Layers, Timed, layer_times, matched
from benchmarks.roof.roofline import against
from engines.count import Count, count
from engines.graph import load_graph
from engines.openvino_cpu import computes_in_bfloat16, missing

GB_S, MIB = 1e9, 2**20


def test_ceilings_name_the_fastest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_SECONDS", 0.01)
    monkeypatch.setattr(products, "SIDE", 256)
    monkeypatch.setattr(ceilings, "_MIB", (1, 4))
    found = ceilings.ceilings(1)
    assert found is not None
    ways = {"fp32": 4 if missing() else 8, "int8": 4 if missing() else 8, "bf16": 4}
    known = [*ways] if computes_in_bfloat16() else ["fp32", "int8"]
    assert [p["precision"] for p in found["products"]] == known
    for product in found["products"]:
        tried = product["tried"]
        assert product["gmac_s"] == max(tried.values()) and min(tried.values()) > 0
        assert len(tried) == ways[product["precision"]] and product["threads"] == 1
        assert max(tried, key=tried.get) in product["how"]
    assert [size["mib"] for size in found["bandwidth"]["by_size"]] == [1, 4]
    assert found["bandwidth"]["gb_s"] == found["bandwidth"]["by_size"][-1]["gb_s"] > 0


def test_rates_are_those_of_a_known_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0.02 <= ceilings._best_seconds(lambda: time.sleep(0.02)) < 0.03
    monkeypatch.setattr(ceilings, "_pass", lambda one, rest: time.sleep(0.01))
    found = ceilings._passes(32, threads=2)  # both sleep at the same time; each pass once between two readings
    for rate in found.values():
        assert 0.5 < rate / (32 * MIB / 0.01 / GB_S) <= 1.001


def test_a_ceiling_multiplies_what_it_is_said_to() -> None:
    for precision in ("fp32", "int8"):
        macs = {}
        for what, model, mac, feed in products.products(precision):
            (layer,) = count(onnx.load_from_string(model)).layers
            macs[what] = mac
            size = 1 if precision == "int8" else 4
            # an INT8 product reads and writes bytes alone, or it would be bound by memory
            assert layer.bytes == 2 * feed.nbytes + layer.weight_bytes and feed.itemsize == size
        assert list(macs.values()) == [1024**3, 256**2 * 56**2, 96**2 * 9 * 28**2, 256**2 * 9 * 28**2]


@pytest.mark.parametrize("name", ["fp32_engine", "int8_engine"])
def test_layers_of_an_engine_add_up(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    layers = layer_times(folder, threads=1, runs=6)
    assert layers is not None
    expected = count(onnx.load(str(folder / "model.onnx")))
    assert sum(layer.mac for layer in layers.executed) == sum(layer.mac for layer in expected.layers)
    # every product was found behind the names that ONNX Runtime gives fused nodes
    assert not [layer for layer in layers.executed if layer.name.startswith(APART)]
    assert {layer.name for layer in layers.executed} >= {layer.name for layer in expected.layers}
    integers = {layer.op for layer in layers.executed if layer.mac and layer.precision == "int8"}
    assert integers == ({"QLinearConv", "QGemm"} if name == "int8_engine" else set())
    assert min(layer.ms for layer in layers.executed) >= 0
    assert 0.2 * layers.measured_ms < layers.sum_ms < 5 * layers.measured_ms


@pytest.mark.skipif(bool(missing()), reason="OpenVINO is not installed")
def test_layers_of_openvino_add_up(int8_engine: Path) -> None:
    from engines import read_manifest
    from engines.parity import phantom_frames

    manifest = read_manifest(int8_engine)  # the file is the same for both libraries
    frames = phantom_frames(manifest.spec, 1)
    graph = onnx.load(str(int8_engine / "model.onnx"))
    counted = count(graph).layers
    for _ in range(5):  # layers and the whole are timed one after the other: on a busy machine one of them may suffer
        timed, whole = profilers.openvino(int8_engine, manifest, 1, frames, 2, 5)
        executed = matched(timed, counted, graph)
        if sum(layer.ms for layer in executed) < 5 * whole:
            break
    assert sum(layer.mac for layer in executed) == sum(layer.mac for layer in counted)
    assert not [layer for layer in executed if layer.name.startswith(APART)]
    assert any(layer.precision == "int8" and layer.mac for layer in executed)
    assert 0 < sum(layer.ms for layer in executed) < 5 * whole


def test_layers_of_tensorrt_are_found_by_metadata_or_name(
    tiny_graph: Path, fp32_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines import read_manifest, tensorrt_gpu
    from engines.tensorrt_gpu import layer_times as told_by_tensorrt

    graph = load_graph(tiny_graph).model
    first, second, third, *rest = count(graph).layers
    seen = {f"{first.name} + PWN(relu)": [0.2, 0.4, 0.3], "fused 7": [0.5] * 3, "a copy": [0.1] * 3}
    detail = [{"Name": "fused 7", "LayerType": "Myelin", "Inputs": [{"Format/Datatype": "Int8"}],
               "Metadata": f"[ONNX Layer: {second.name}]\x1e[ONNX Layer: {third.name}]"}, "not told"]  # fmt: skip
    (tmp_path / "layers.json").write_text(json.dumps({"Layers": detail}))
    monkeypatch.setattr(tensorrt_gpu, "open", lambda *_: nullcontext())
    monkeypatch.setattr(told_by_tensorrt, "layer_times", lambda *_: (seen, [1.5, 1.4, 1.6]))
    timed, whole = profilers.tensorrt(tmp_path, read_manifest(fp32_engine), 1, np.zeros(1, np.uint8), 1, 3)
    executed = matched(timed, [first, second, third, *rest], graph)
    assert whole == 1.5
    assert [(e.name, e.ms, e.mac) for e in executed] == [
        (first.name, 0.3, first.mac),
        ("fused 7", 0.5, second.mac + third.mac),
        ("a copy", 0.1, 0),
        (f"{APART}: {len(rest)} layers", 0.0, sum(layer.mac for layer in rest)),
    ]
    assert (executed[1].precision, executed[1].op) == ("int8", "Myelin")
    assert executed[1].bytes == second.bytes + third.bytes
    assert executed[2].bytes is None  # TensorRT does not tell, and no product tells for it
    assert executed[3].precision == "int8"  # the fastest here: the floor of what is not known must not be too high


def small(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), name) for name in ("v", "w")]
    graph = helper.make_graph(
        list(nodes), "g", [value("x", TensorProto.FLOAT, [1, 4, 2, 2])], [value("y", TensorProto.FLOAT, None)], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def timed(name: str, origins: Sequence[str] = (), size: int = 100) -> Timed:
    return Timed(name, "Conv", "fp32", 1.0, tuple(origins) or (name,), size, 7)


def test_a_fused_layer_is_found_behind_its_output_and_claimed_once() -> None:
    graph = small(
        helper.make_node("Conv", ["x", "v"], ["a"], name="one"),
        helper.make_node("Conv", ["a", "w"], ["b"], name="two"),
        helper.make_node("Add", ["a", "b"], ["c"], name="add"),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
    )
    layers = count(graph).layers
    # ONNX Runtime calls a convolution in blocked layout after the tensor that it makes
    found = matched([timed("fused one_token_3"), timed("y_nchwc"), timed("ReorderOutput")], layers, graph)
    assert [(e.name, e.mac, e.bytes) for e in found] == [("one", 64, 164), ("two", 64, 164), ("ReorderOutput", 0, 107)]
    again = matched([timed("two"), timed("two")], layers, graph)
    assert [(e.name, e.mac) for e in again] == [("two", 64), ("two", 0), (f"{APART}: 1 layers", 64)]


def layers_of(*executed: Executed, measured: float = 10.0) -> Layers:
    return Layers(executed, Count(0, 0, 0, 0, 0, ()), measured, measured * 1.1, "a profiler")


CEILINGS: dict[str, Any] = {
    "products": [
        {"threads": 1, "precision": "fp32", "gmac_s": 10.0, "how": ""},
        {"threads": 1, "precision": "int8", "gmac_s": 40.0, "how": ""},
    ],
    "bandwidth": {"gb_s": 1.0, "how": "", "by_size": [{"mib": 1, "gb_s": 8.0}, {"mib": 16, "gb_s": 2.0}]},
}


def test_the_roofline_worked_out_by_hand() -> None:
    found = against(
        layers_of(
            Executed("dense", "Conv", "fp32", 4.0, 20_000_000, 800_000),  # 2 ms of products, 0.1 ms of bytes
            Executed("quick", "QConv", "int8", 1.0, 20_000_000, 800_000),  # 0.5 ms of products
            Executed("wide", "Gemm", "fp32", 3.0, 1_000_000, 4_000_000),  # 2 ms of bytes, out of the larger cache
            Executed("copy", "Transpose", "fp32", 2.0, 0, 20_000_000),  # 20 ms at the memory's pace: impossible
        ),
        CEILINGS,
    )
    rows = {row["name"]: row for row in found["layers"]}
    assert list(rows) == ["dense", "wide", "copy", "quick"]
    assert [rows[n]["of_ceiling"] for n in ("dense", "quick", "wide")] == pytest.approx([0.5, 0.5, 2 / 3])
    assert rows["copy"]["of_ceiling"] == pytest.approx(10.0)  # never hidden: it says that the ceiling is too low
    assert [row["bound"] for row in found["layers"]] == ["arithmetic", "bandwidth", "bandwidth", "arithmetic"]
    assert rows["dense"]["gmac_s"] == pytest.approx(5.0) and rows["dense"]["share"] == pytest.approx(0.4)
    assert found["floor_ms"] == pytest.approx(4.5)  # what is no product could be fused away
    assert found["of_ceiling"] == pytest.approx(0.45) and found["products_share"] == pytest.approx(0.8)


def test_all_but_the_slowest_share_one_row() -> None:
    many = [Executed(f"layer {i}", "Conv", "fp32", 20.0 - i, 1_000_000, 8) for i in range(10)]
    few = [Executed(f"small {i}", "Add" if i else "Resize", "fp32", 1.0, 0, 8) for i in range(3)]
    odd = Executed("half", "Conv", "fp16", 0.5, 1_000_000, 8)
    found = against(layers_of(*few, *many, odd, measured=200.0), CEILINGS)
    assert len(found["layers"]) == 11
    rest = found["layers"][-1]
    total = sum(layer.ms for layer in (*many, *few)) + 0.5
    assert rest["name"] == "everything else" and rest["ms"] == pytest.approx(3.5) and rest["mac"] == odd.mac
    assert rest["op"].startswith("2 Add ") and "1 Resize" in rest["op"] and "1 Conv" in rest["op"]
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    assert found["by_op"][0] == {"op": "Conv", "count": 11, "ms": pytest.approx(total - 3), "mac": 11_000_000,
                                 "share": pytest.approx((total - 3) / total)}  # fmt: skip
    # there is no ceiling for half precision here: nothing is guessed
    assert rest["of_ceiling"] is None and found["floor_ms"] is None and found["of_ceiling"] is None
    unknown = against(layers_of(odd, Executed("copy", "Copy", "fp32", 1.0, 0, None)), CEILINGS)["layers"]
    assert [(row["of_ceiling"], row["bound"]) for row in unknown] == [(None, None)] * 2
    json.dumps(found, allow_nan=False)
