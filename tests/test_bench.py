"""The bench: times land in their stages, tails stay visible, comparisons are fair, reports are whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fakes import SPEC, BrightEngine, write_folder
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import benchmarks.bench as bench_module
from benchmarks import check_writable, run_bench, write_reports
from benchmarks import compare as compare_module
from benchmarks.compare import bootstrap_interval, compare, ratio
from benchmarks.contenders import OnnxRuntimePeer, OpenVinoPeer
from benchmarks.environment import environment
from benchmarks.measure import MAX_WARMUP_FRAMES, WINDOW, measure, summary, warm_up
from engines import reference_graph
from ssmt_edge.errors import EngineError, MissingDependency, SinkError, SourceError, SsmtError, UsageError, VerdictNo
from ssmt_edge.segment import Segmenter
from ssmt_edge.spec import Device, Engine, EngineManifest, Precision

SLEEP = 0.02
STALL = 0.8


class StallingEngine(BrightEngine):
    """Sleeps a while at every inference, and much longer at one of them."""

    def __init__(self, seconds: float = SLEEP, stall_at: int | None = None) -> None:
        super().__init__(seconds=seconds)
        self._stall_at = stall_at

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if len(self.seen) == self._stall_at:
            time.sleep(STALL)
        return super().infer(frames)


def small_graph(path: Path, bias: float = 0.0) -> Path:
    """A convolution with the contract's input and output, on 64 x 64 frames."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w", "b"], ["logit"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Mul", ["p", "full"], ["p255"]),
        helper.make_node("Cast", ["p255"], ["nodule"], to=TensorProto.UINT8),
    ]
    weights = {
        "scale": np.float32(1 / 64),
        "w": np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32),
        "b": np.array([bias], np.float32),
        "full": np.float32(255),
    }
    sizes: list[str | int | None] = ["N", 1, SPEC.input_size, SPEC.input_size]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, sizes)],
        [helper.make_tensor_value_info("nodule", TensorProto.UINT8, sizes)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


@pytest.fixture
def make_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes engine folders that the bench opens as plain ONNX Runtime sessions (backends have their own tests)."""
    manifests: dict[Path, EngineManifest] = {}

    def make(name: str, precision: Precision = "fp32", checkpoint: str = "a" * 64) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        small_graph(folder / "model.onnx")
        manifests[folder] = EngineManifest(
            SPEC, precision, "onnxruntime", "1.0", Device("a processor", "avx2"), "0.1.0", ("nodule",), 1,
            {"model.onnx": ""}, checkpoint, parameters=10, gmac=0.25, gflops=0.5,
        )  # fmt: skip
        return folder

    def open_engine(path: Path, threads: int | None = None) -> Engine:
        return OnnxRuntimePeer(path / "model.onnx", SPEC, threads or 1)

    monkeypatch.setattr(bench_module, "open_engine", open_engine)
    monkeypatch.setattr(bench_module, "read_manifest", manifests.__getitem__)
    monkeypatch.setattr(compare_module, "SETTLE_SECONDS", 0.0)
    return make


def test_time_is_found_in_the_stage_that_takes_it(tmp_path: Path) -> None:
    times = measure(Segmenter(StallingEngine()), str(write_folder(tmp_path / "frames", 12)), 30)
    assert list(times.stages_ms) == ["decode", "preprocess", "infer", "postprocess"]
    medians = {stage: np.median(values) for stage, values in times.stages_ms.items()}
    assert medians["infer"] >= 1e3 * SLEEP
    assert all(medians[stage] < medians["infer"] for stage in ("decode", "preprocess", "postprocess"))
    together = np.sum(list(times.stages_ms.values()), axis=0)
    assert np.all(times.end_to_end_ms >= together - 1e-6)
    assert times.throughput == pytest.approx(1e3 / times.end_to_end_ms.mean())


def test_frames_in_memory_have_no_decoding() -> None:
    assert list(measure(Segmenter(BrightEngine()), None, 3).stages_ms) == ["preprocess", "infer", "postprocess"]


def test_warm_up_is_left_out_and_the_frames_that_follow_are_all_timed() -> None:
    engine = StallingEngine(stall_at=0)
    times = measure(Segmenter(engine), None, 25)
    assert times.first_ms >= 1e3 * STALL
    assert times.end_to_end_ms.max() < 1e3 * STALL
    assert len(times.end_to_end_ms) == 25
    assert len(engine.seen) == 25 + times.warmup_frames


def test_a_stalled_frame_shows_in_the_tail_and_not_in_the_median(tmp_path: Path) -> None:
    engine = StallingEngine(seconds=0.0, stall_at=MAX_WARMUP_FRAMES + 5)  # surely after the warm-up
    source = write_folder(tmp_path / "frames", 20)
    found = summary(measure(Segmenter(engine), str(source), MAX_WARMUP_FRAMES + 10).end_to_end_ms)
    assert found["max"] >= 1e3 * STALL
    assert found["p99.9"] == found["max"]
    assert found["p50"] < 100


def test_percentiles_are_measured_values() -> None:
    found = summary(np.arange(1.0, 1001.0))
    assert (found["p50"], found["p90"], found["p99"], found["p99.9"], found["max"]) == (500, 900, 990, 999, 1000)
    assert found["mean"] == 500.5


def test_warm_up_waits_until_latency_is_steady() -> None:
    falling = iter([100.0 / (i + 1) for i in range(40)] + [2.0] * 100)
    steps, steady = warm_up(lambda: next(falling))
    assert steady
    assert 40 < steps <= 40 + 2 * WINDOW


def test_warm_up_gives_up_on_latency_that_never_settles() -> None:
    rising = iter(range(1, 10**6))
    steps, steady = warm_up(lambda: 1.2 ** next(rising))
    assert not steady
    assert steps == MAX_WARMUP_FRAMES


def test_a_source_without_frames_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        measure(Segmenter(BrightEngine()), str(tmp_path / "absent"), 10)


def test_contenders_take_turns_and_slower_ones_come_out_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "SETTLE_SECONDS", 0.0)
    order: list[str] = []

    class Noted(StallingEngine):
        def __init__(self, name: str, seconds: float) -> None:
            super().__init__(seconds)
            self.name = name

        def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            if order[-1:] != [self.name]:
                order.append(self.name)
            return super().infer(frames)

    frames = np.full((2, 1, 64, 64), 200, np.uint8)
    openers = {"slow": lambda: Noted("slow", 0.02), "fast": lambda: Noted("fast", 0.002)}
    slow, fast = compare(openers, BrightEngine, frames, rounds=3, frames_per_turn=4)
    assert order == ["slow", "fast"] * 4  # once for the outputs, then three rounds
    assert len(slow.round_medians_ms) == 3
    value, (low, high) = ratio(slow.round_medians_ms, fast.round_medians_ms)
    assert low <= value <= high
    assert value > 2  # 10 on an idle machine
    assert (slow.max_probability_difference, slow.mask_agreement) == (0.0, 1.0)


def test_a_turn_of_a_slow_contender_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(compare_module, "TURN_SECONDS", 0.02)
    engine = BrightEngine(seconds=0.01)
    frames = np.zeros((1, 1, 64, 64), np.uint8)
    compare({"slow": lambda: engine}, BrightEngine, frames, rounds=3, frames_per_turn=1000)
    assert len(engine.seen) <= 1 + 3 * (2 + 4)


def test_other_outputs_than_the_reference_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "SETTLE_SECONDS", 0.0)

    class Darker(BrightEngine):
        def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            nodule = frames.copy()
            nodule[..., :32] -= 51
            return {"nodule": nodule}

    frames = np.full((1, 1, 64, 64), 153, np.uint8)
    (found,) = compare({"darker": Darker}, BrightEngine, frames, rounds=3, frames_per_turn=1)
    assert found.max_probability_difference == pytest.approx(51 / 255)
    assert found.mask_agreement == pytest.approx(2 / 3)  # half of the mask is lost

    class Wrong(BrightEngine):
        def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            return {"nodule": frames[:, 0]}

    with pytest.raises(EngineError, match=r"wrong returned uint8 \[1, 64, 64\], expected .*\[1, 1, 64, 64\]"):
        compare({"wrong": Wrong}, BrightEngine, frames, rounds=3, frames_per_turn=1)


def test_interval_of_equal_values_is_a_point_and_of_varied_ones_is_not() -> None:
    assert bootstrap_interval(np.full(10, 2.0)) == (2.0, 2.0)
    low, high = bootstrap_interval(np.array([1.0, 1.2, 1.1, 0.9, 1.3]))
    assert 0.9 <= low < 1.1 < high <= 1.3


def test_openvino_gives_the_outputs_of_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = small_graph(tmp_path / "model.onnx")
    frames = np.random.default_rng(1).integers(0, 256, (3, 1, 64, 64), np.uint8)
    with OnnxRuntimePeer(graph, SPEC, 1) as plain, OpenVinoPeer(graph, SPEC, 1) as peer:
        for i in range(3):
            expected, found = (engine.infer(frames[i : i + 1])["nodule"] for engine in (plain, peer))
            assert found.dtype == np.uint8
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_the_reference_graph_goes_before_the_engine_s_own(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no FP32 graph"):
        reference_graph(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert reference_graph(tmp_path).name == "model.onnx"
    (tmp_path / "reference.onnx").touch()
    assert reference_graph(tmp_path).name == "reference.onnx"


def test_report_of_two_engines_and_a_peer(make_engine: Callable[..., Path], tmp_path: Path) -> None:
    engines = [make_engine("one"), make_engine("two", "int8")]
    source = write_folder(tmp_path / "frames", 5)
    report = run_bench(
        engines, source=str(source), versus=["onnxruntime"], frames=12, rounds=3, threads=1, budget_ms=5000
    )
    assert report["schema"] == 1
    assert report["verdict"] == "yes"
    assert [engine["name"] for engine in report["engines"]] == ["one", "two"]
    for engine in report["engines"]:
        assert len(engine["latencies_ms"]) == 12
        assert engine["end_to_end_ms"]["max"] == pytest.approx(max(engine["latencies_ms"]), abs=1e-3)
        assert set(engine["stages_ms"]) == {"decode", "preprocess", "infer", "postprocess"}
        assert (engine["gmac"], engine["gflops"], engine["parameters"]) == (0.25, 0.5, 10)
        assert engine["memory_mib"]["peak"] > 20
    comparison = report["comparison"]
    assert [row["name"] for row in comparison["contenders"]] == ["one", "two", "onnxruntime"]
    assert all(row["max_probability_difference"] == 0 for row in comparison["contenders"])
    assert {(row["engine"], row["against"]) for row in comparison["ratios"]} == {
        ("one", "two"), ("one", "onnxruntime"), ("two", "one"), ("two", "onnxruntime"),
    }  # fmt: skip
    assert comparison["distinct_frames"] == 4  # the first one is left out: decoders start up there

    out = tmp_path / "out"
    out.mkdir()
    (out / "overlay.mp4").touch()
    write_reports(report, out)
    assert sorted(path.name for path in out.iterdir()) == ["overlay.mp4", "report.html", "report.json", "report.md"]
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    html = (out / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)  # one file, no request
    assert html.count("<svg") == 2 * 2 + 2
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html
    assert str(tmp_path) not in html + (out / "report.json").read_text()  # paths tell who the user is
    markdown = (out / "report.md").read_text()
    assert "**Verdict: yes**" in markdown
    assert "| two | end to end |" in markdown


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({}, "none"),
        ({"fps": 0.1}, "yes"),
        ({"fps": 1e6}, "no"),
        ({"budget_ms": 1e-3}, "no"),
        ({"fps": 0.1, "budget_ms": 1e-3}, "no"),
    ],
)
def test_verdict(make_engine: Callable[..., Path], asked: dict[str, float], verdict: str) -> None:
    report = run_bench([make_engine("one")], frames=10, threads=1, **asked)  # type: ignore[arg-type]
    assert report["verdict"] == report["engines"][0]["verdict"] == verdict
    assert report["comparison"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"versus": ["tflite"]}, "expected some of onnxruntime, openvino, torch"),
        ({"versus": ["onnxruntime", "onnxruntime"]}, "twice"),
        ({"versus": ["torch"]}, "--checkpoint"),
        ({"frames": 3}, "--frames 3"),
        ({"rounds": 1}, "--rounds 1"),
        ({"threads": 0}, "--threads 0"),
        ({"fps": -1.0}, "--fps -1"),
        ({"budget_ms": float("nan")}, "--budget-ms nan"),
    ],
)
def test_wrong_options_end_before_anything_is_opened(options: dict[str, Any], message: str) -> None:
    if options.get("versus") == ["torch"] and find_spec("torch") is None:
        pytest.skip("torch is not installed")
    with pytest.raises(UsageError, match=message) as caught:
        run_bench([Path("never-opened")], **options)
    assert caught.value.exit_code == 2


def test_a_missing_peer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'ssmt-edge\[openvino\]'"):
        run_bench([Path("never-opened")], versus=["openvino"])


def test_engines_of_different_weights_are_not_compared(make_engine: Callable[..., Path]) -> None:
    engines = [make_engine("one"), make_engine("other", checkpoint="b" * 64)]
    with pytest.raises(UsageError, match="different checkpoints"):
        run_bench(engines, versus=["onnxruntime"])
    assert run_bench(engines, frames=10, threads=1)["comparison"] is None


def test_a_damaged_reference_graph_ends_in_one_line(make_engine: Callable[..., Path]) -> None:
    folder = make_engine("one")
    (folder / "reference.onnx").write_bytes((folder / "model.onnx").read_bytes()[:100])
    with pytest.raises(SsmtError, match=r"reference\.onnx") as caught:
        run_bench([folder], versus=["onnxruntime"], frames=10, threads=1)
    assert "\n" not in str(caught.value)


def test_reports_need_a_folder_that_can_be_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="--out"):
        check_writable(tmp_path / "file" / "out")
    with pytest.raises(SinkError, match="--out"):
        check_writable(tmp_path / "file")


def test_the_handler_writes_the_reports_before_it_says_no(
    make_engine: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssmt_edge.cli.bench import bench

    with pytest.raises(VerdictNo, match=r"one misses p99 within 0.001 ms") as caught:
        bench([make_engine("one")], tmp_path / "out", frames=10, threads=1, budget_ms=1e-3, as_json=True)
    assert caught.value.exit_code == 3
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "report.json").read_text())
    bench([make_engine("two")], tmp_path / "out", vs="onnxruntime", frames=10, rounds=3, threads=1)
    shown = capsys.readouterr().out
    assert "end to end" in shown
    assert "onnxruntime" in shown


@pytest.mark.parametrize(("given", "message"), [(None, "the shipped weights are others"), ("w", "holds other weights")])
def test_torch_is_compared_with_the_same_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, message: str
) -> None:
    from ssmt_edge.cli.bench import bench

    manifest = EngineManifest(
        SPEC, "fp32", "onnxruntime", "1.0", Device("a processor"), "0.1.0", ("nodule",), 1, {}, "a" * 64, 1, 1.0, 2.0
    )
    monkeypatch.setattr("engines.read_manifest", lambda path: manifest)
    checkpoint = None if given is None else tmp_path / given
    if checkpoint:
        checkpoint.write_bytes(b"other weights")
    with pytest.raises(UsageError, match=f"{message}.*aaaaaaaaaaaa.*--checkpoint"):
        bench([tmp_path / "engine"], tmp_path / "out", vs="torch", checkpoint=checkpoint)


def test_environment_tells_the_machine_and_not_its_user() -> None:
    found = environment()
    assert found["cores"] >= 1
    assert found["logical_cores"] >= found["cores"]
    assert found["packages"]["numpy"] == np.__version__
    json.dumps(found)


def test_the_handler_is_imported_without_numpy_and_opencv() -> None:
    code = "import sys, ssmt_edge.cli.bench; print(sorted({'numpy', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
