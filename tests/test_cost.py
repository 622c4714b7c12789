"""The cost table: what is measured, what is kept between runs, and memory in a process of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("matplotlib")

from benchmarks.cost import Subject, cost_table
from benchmarks.timing.memory import peak_memory
from engines.count import count
from engines.device import physical_cores
from engines.graph import Graph, load_graph
from ssmt_edge.errors import EngineError, SinkError, UsageError

QUICK: dict[str, Any] = {"input_size": 64, "rounds": 3, "frames": 1, "threads": 1}


class Maker:
    """Hands out a graph and counts how often it was asked."""

    def __init__(self, graph: Path) -> None:
        self.graph, self.calls = graph, 0

    def __call__(self) -> Graph:
        self.calls += 1
        return load_graph(self.graph)


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_table_of_networks(tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    one, two = Maker(tiny_graph), Maker(tiny_graph)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # before anything is timed
        patch.setattr("benchmarks.cost.take_turn", interrupted)
        cost_table([Subject("one", 3_000_000, one)], tmp_path, **QUICK)
    assert not (tmp_path / "cells").exists()
    first = cost_table([Subject("one", 3_000_000, one)], tmp_path, **QUICK, say=lines.append)
    both = [Subject("two", 5, two), Subject("one", 3_000_000, one)]
    rows = cost_table(both, tmp_path, **QUICK, say=lines.append)
    # the one measured before is taken from its cell
    assert one.calls == two.calls == 1 and rows[1] == first[0]
    assert not list((tmp_path / "prepared").iterdir())  # the models are gone, which were large
    assert "1 of 2 networks are measured already" in lines
    assert cost_table(both, tmp_path, **QUICK) == rows and two.calls == 1

    cost = count(load_graph(tiny_graph).model)
    for row, name, parameters in zip(rows, ("two", "one"), (5, 3_000_000), strict=True):
        assert (row["name"], row["training_parameters"]) == (name, parameters)
        assert (row["gmac"], row["gflops"], row["parameters"]) == (cost.gmac, cost.gflops, cost.parameters)
        for precision in ("fp32", "int8"):
            found = row[precision]
            assert 0 < found["interval_ms"][0] <= found["median_ms"] <= found["interval_ms"][1]
            assert len(found["round_medians_ms"]) == 3
            assert 20 < found["start_mib"] < found["peak_mib"] < 500
        # weights of four bytes or one, and little besides
        assert row["fp32"]["file_mib"] == pytest.approx(4 * cost.parameters / 2**20, rel=0.1)
        assert row["int8"]["file_mib"] < 0.4 * row["fp32"]["file_mib"]

    report = json.loads((tmp_path / "cost.json").read_text())
    assert report["rows"] == json.loads(json.dumps(rows))
    text = (tmp_path / "cost.md").read_text()
    for needed in ("| two |", "| one |", "random", "without the Dice gate", "same run", "GFLOPs = 2 x GMAC", "VmHWM"):
        assert needed in text
    assert (tmp_path / "cost.png").stat().st_size > 5000


def test_other_conditions_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def prepare(subject: Subject, *_: Any) -> dict[str, Any]:
        measured.append(subject.name)
        each = dict.fromkeys(("median_ms", "peak_mib", "start_mib", "file_mib"), 1.0) | {"interval_ms": [1.0, 1.0]}
        made = {"run": "now", "load": 0.0, "parameters": 1, "gmac": 1.0, "gflops": 2.0, "fp32": each, "int8": each}
        return {"name": subject.name, "training_parameters": subject.training_parameters, **made}

    monkeypatch.setattr("benchmarks.cost._prepare", prepare)
    monkeypatch.setattr("benchmarks.cost._timed", lambda rows, *_: rows)
    subject = Subject("net", 5, lambda: pytest.fail("the fake measures"))
    for size, threads in ((64, None), (96, None), (64, 1), (64, 1)):
        cost_table([subject], tmp_path, input_size=size, threads=threads)
    assert len(measured) == (3 if physical_cores() > 1 else 2)
    other = replace(subject, training_parameters=6)  # its code has changed
    cost_table([other], tmp_path, input_size=64)
    count_before = len(measured)
    cost_table([other], tmp_path, input_size=64)
    assert len(measured) == count_before
    cell = tmp_path / "cells" / "net.json"
    cell.write_text(cell.read_text()[:-20])
    cost_table([other], tmp_path, input_size=64)
    monkeypatch.setattr("benchmarks.cost.VERSION", 0)
    cost_table([other], tmp_path, input_size=64)
    assert len(measured) == count_before + 2


def test_memory_is_that_of_the_engine_alone(tiny_graph: Path) -> None:
    ballast = np.ones(2**27, np.uint8)  # what the caller holds must not count, nor what it ever held
    graph = load_graph(tiny_graph)
    before = peak_memory(tiny_graph, graph.spec, 1)["peak_mib"]
    del ballast
    assert before == pytest.approx(peak_memory(tiny_graph, graph.spec, 1)["peak_mib"], rel=0.15)


def test_what_cannot_be_measured_is_named(tiny_graph: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"^memory of none.onnx cannot be measured: .*none.onnx cannot be loaded"):
        peak_memory(tmp_path / "none.onnx", load_graph(tiny_graph).spec, 1)
    subject = Subject("net", 5, Maker(tiny_graph))
    with pytest.raises(UsageError, match="threads is 4096, expected 1 to"):
        cost_table([subject], tmp_path, **{**QUICK, "threads": 4096})
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be created"):
        cost_table([subject], tmp_path / "file", **QUICK)


@pytest.mark.slow
def test_the_verb_measures_a_network_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("onnxscript")
    from ssmt_edge.cli.cost import cost

    with pytest.raises(UsageError, match="unknown network 'unet3'"):
        cost(tmp_path, ["unet3"], 64)
    cost(tmp_path, ["ssmt-lite"], 64, rounds=3, frames=1, threads=1, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    # size and nodule are deployed, the other decoders only train
    assert row["name"] == "ssmt-lite" and 2_000_000 < row["parameters"] < row["training_parameters"]
    cost(tmp_path, ["ssmt-lite"], 64, threads=1)
    shown = capsys.readouterr().out
    assert "ssmt-lite" in shown and f"{row['gmac']:.2f}" in shown and "Weights are random" in shown
