"""`--backend auto`: which backends are candidates, and which of them is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import WITHOUT_TORCH, in_subprocess
from fakes import BrightEngine

pytest.importorskip("onnx")

from engines import auto, backend, onnxruntime_cpu, onnxruntime_cuda, openvino_cpu, tensorrt_gpu
from engines.calibrate import collect, measure_ranges
from engines.graph import Graph, load_graph
from engines.options import BuildOptions, Job
from ssmt_edge.errors import BackendUnavailable, EngineError, UsageError

BOTH = ["onnxruntime", "openvino"]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def graph(tiny_graph: Path) -> Graph:
    return load_graph(tiny_graph)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the machine has: names of the backends that are ready beside onnxruntime."""

    def has(*names: str) -> None:
        for module, name in (
            (tensorrt_gpu, "tensorrt"),
            (onnxruntime_cuda, "onnxruntime-cuda"),
            (openvino_cpu, "openvino"),
        ):
            monkeypatch.setattr(module, "missing", lambda name=name: [] if name in names else [f"what {name} needs"])

    return has


@pytest.mark.parametrize(
    ("ready", "precision", "expected"),
    [
        ((), "fp32", ["onnxruntime"]),
        (("openvino",), "fp32", BOTH),
        (("openvino",), "int8", BOTH),
        (("tensorrt", "onnxruntime-cuda", "openvino"), "int8", ["tensorrt"]),
        (("tensorrt", "onnxruntime-cuda"), "fp16", ["tensorrt"]),
        (("onnxruntime-cuda", "openvino"), "fp16", ["onnxruntime-cuda"]),
        (("onnxruntime-cuda", "openvino"), "fp32", ["onnxruntime-cuda"]),
        (("onnxruntime-cuda", "openvino"), "int8", BOTH),
    ],
)
def test_candidates(machine: Any, ready: tuple[str, ...], precision: Any, expected: list[str]) -> None:
    machine(*ready)
    assert auto.candidates("auto", precision) == expected


def test_a_backend_that_is_named_is_the_only_candidate(machine: Any) -> None:
    machine("tensorrt")
    assert auto.candidates("openvino", "fp32") == ["openvino"]
    with pytest.raises(UsageError, match="'openvina'"):
        auto.candidates("openvina", "fp32")


def test_fp16_without_a_gpu_says_what_is_missing(machine: Any) -> None:
    machine("openvino")
    with pytest.raises(BackendUnavailable, match=r"fp16 is for GPUs.*what tensorrt needs.*--precision int8 or fp32"):
        auto.candidates("auto", "fp16")


def test_one_candidate_is_taken_and_the_other_s_lack_recorded(graph: Graph, machine: Any, tmp_path: Path) -> None:
    machine()
    name, remarks = auto.build(["onnxruntime"], Job(graph, None, BuildOptions("fp32")), tmp_path)
    assert name == "onnxruntime" and [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert remarks["backend"]["chosen"] == "onnxruntime"
    assert "openvino needs what openvino needs" in remarks["backend"]["because"]


def test_a_backend_that_was_asked_for_needs_no_reason(graph: Graph, tmp_path: Path) -> None:
    options = BuildOptions("fp32", backend="onnxruntime")
    assert auto.build(["onnxruntime"], Job(graph, None, options), tmp_path) == ("onnxruntime", {})


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_both_are_measured_on_what_was_built(
    graph: Graph, calib_folder: Path, tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(auto, "SECONDS", 0.2)
    samples = collect(calib_folder, graph.spec)
    calibration = measure_ranges(graph, samples, "here") if precision == "int8" else None
    said: list[str] = []
    job = Job(graph, calibration, BuildOptions(precision), said.append)
    name, remarks = auto.build(BOTH, job, tmp_path, samples.frames)
    found = remarks["backend"]
    assert name == found["chosen"] and found["because"] == "measured" and "failed" not in found
    assert list(found["median_ms"]) == BOTH and all(ms > 0 for ms in found["median_ms"].values())
    assert said == [
        f"{name} is taken: " + ", ".join(f"{n} {ms:.2f} ms" for n, ms in found["median_ms"].items()) + " a frame"
    ]
    with backend(name).open_model(tmp_path / "model.onnx", graph.spec, graph.max_batch, 1) as engine:
        assert engine.infer(samples.frames[:1])["nodule"].shape == (1, 1, 64, 64)


@pytest.mark.parametrize(("slow", "expected"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")])
def test_the_faster_one_is_taken(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str, expected: str
) -> None:
    monkeypatch.setattr(auto, "SECONDS", 0.2)
    opened = {}
    for module, name in ((onnxruntime_cpu, "onnxruntime"), (openvino_cpu, "openvino")):
        opened[name] = BrightEngine(graph.spec, 0.012 if name == slow else 0.004)
        monkeypatch.setattr(module, "open_model", lambda *_, name=name: opened[name])
    name, remarks = auto.build(BOTH, Job(graph, None, BuildOptions("fp32")), tmp_path)
    assert name == expected
    times = remarks["backend"]["median_ms"]
    assert times[slow] > 11 and 3 < times[expected] < times[slow]
    assert all(engine.closed for engine in opened.values())
    assert {frames.shape for engine in opened.values() for frames in engine.seen} == {(1, 1, 64, 64)}


def test_slow_networks_are_measured_a_few_times_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "SECONDS", 0.0)
    engines = {"a": BrightEngine(seconds=0.08), "b": BrightEngine(seconds=0.08)}
    auto._medians(engines, np.zeros((2, 1, 64, 64), np.uint8))
    # one to warm up; each turn one that does not count and one that does
    assert [len(engine.seen) for engine in engines.values()] == [1 + 2 * auto.ROUNDS] * 2


@pytest.mark.parametrize(
    ("times", "expected"),
    [((10.0, 9.8), "onnxruntime"), ((10.0, 9.6), "openvino"), ((9.0, 10.0), "onnxruntime")],
)
def test_a_tie_goes_to_the_one_that_needs_nothing(times: tuple[float, float], expected: str) -> None:
    assert auto._fastest(dict(zip(BOTH, times, strict=True))) == expected


def test_a_backend_that_cannot_open_the_file_is_left_out(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("an operator is not supported")

    monkeypatch.setattr(auto, "SECONDS", 0.1)
    monkeypatch.setattr(openvino_cpu, "open_model", refuse)
    name, remarks = auto.build(BOTH, Job(graph, None, BuildOptions("fp32")), tmp_path)
    assert name == "onnxruntime"
    assert remarks["backend"]["failed"] == {"openvino": "an operator is not supported"}
    monkeypatch.setattr(onnxruntime_cpu, "open_model", refuse)
    with pytest.raises(EngineError, match="not supported; an operator"):
        auto.build(BOTH, Job(graph, None, BuildOptions("fp32")), tmp_path)


def test_it_works_where_torch_is_not_installed(tiny_graph: Path, tmp_path: Path) -> None:
    before = f"""
from pathlib import Path
from engines import auto
from engines.options import BuildOptions, Job
from engines.graph import load_graph
auto.SECONDS = 0.0
graph = load_graph(Path({str(tiny_graph)!r}))
names = auto.candidates("auto", "fp32")
name, remarks = auto.build(names, Job(graph, None, BuildOptions("fp32"), print), Path({str(tmp_path)!r}))
assert name in names and remarks["backend"]["chosen"] == name
"""
    answer = in_subprocess("--help", before=WITHOUT_TORCH + before)
    assert answer.code == 0, answer.err
