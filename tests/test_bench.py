"""The bench: times land in their stages, tails stay visible, comparisons are fair, reports are whole."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import small_engine
from reports import full_report

from benchmarks import bench as bench_module
from benchmarks import cpu, run_bench
from benchmarks.aims import aims
from benchmarks.machine.environment import environment
from benchmarks.timing import turns
from benchmarks.timing.measure import Latencies
from engines import read_manifest
from ssmt_edge.errors import SourceError, UsageError, VerdictNo


@pytest.fixture
def make_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes engine folders of a small graph."""
    monkeypatch.setattr(turns, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(turns, "WARM_SECONDS", 0.0)
    return lambda name, *how, **more: small_engine(tmp_path / name, *how, **more)


@pytest.mark.parametrize(
    ("asked", "verdict"),
    [
        ({}, "none"),
        ({"budget_ms": 60_000.0}, "yes"),
        ({"budget_ms": 1e-3}, "no"),
        ({"fps": 1e6}, "no"),
    ],
)
def test_verdict(make_engine: Callable[..., Path], asked: dict[str, float], verdict: str) -> None:
    report = run_bench([make_engine("one")], frames=10, threads=1, brief=True, **asked)  # type: ignore[arg-type]
    assert report["verdict"] == report["engines"][0]["verdict"] == verdict
    assert (report["comparisons"], report["aims"]) == ([], [])


def test_the_verdict_turns_at_its_limits() -> None:
    times = Latencies(np.array([5.0] * 99 + [50.0]), {}, 20, True)

    def verdict(recorded: int | None = None, budget_ms: float | None = None) -> str:
        kept = None if recorded is None else {"sent": 200, "recorded": recorded, "latency_ms": {"p99": 20.0}}
        asked = bench_module._Asked(10, 3, 1, None if kept is None else 30.0, budget_ms, (), True)
        return bench_module._verdict(times, kept, asked)

    assert [verdict(198), verdict(197)] == ["yes", "no"]  # 1 % dropped, and more
    assert [verdict(200, 20.0), verdict(200, 19.9), verdict(197, 20.0)] == ["yes", "no", "no"]
    assert [verdict(budget_ms=5.0), verdict(budget_ms=4.9), verdict()] == ["yes", "no", "none"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 3}, "--frames 3"),
        ({"rounds": 1}, "--rounds 1"),
        ({"threads": 0}, "--threads 0"),
        ({"fps": -1.0}, "--fps -1"),
        ({"budget_ms": float("nan")}, "--budget-ms nan"),
    ],
)
def test_wrong_options_end_before_anything_is_opened(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run_bench([Path("never-opened")], **options)
    assert caught.value.exit_code == 2


def test_a_source_that_is_not_there_ends_before_anything_is_measured(
    make_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "Watch", None)
    with pytest.raises(SourceError, match="absent does not exist"):
        run_bench([make_engine("one")], source="absent", frames=10)


def test_names_tell_engines_apart_without_telling_where_they_are() -> None:
    folders = [Path("/home/me/a/lite"), Path("/home/me/b/lite"), Path("/home/me/torch"), Path("/home/me/net")]
    assert bench_module._names(folders) == ["lite 1", "lite 2", "torch 3", "net"]
    with pytest.raises(UsageError, match="net is given twice"):
        bench_module._names([Path("net"), Path("net/../net")])


def test_the_size_is_that_of_the_model_that_runs(make_engine: Callable[..., Path]) -> None:
    folder = make_engine("one", "int8")
    (folder / "reference.onnx").write_bytes(bytes(4096))
    manifest = replace(read_manifest(folder), files={"model.onnx": "", "reference.onnx": ""})
    found = bench_module._described(folder, manifest)
    assert found["size_mib"] == (folder / "model.onnx").stat().st_size / 2**20


def test_the_handler_writes_the_reports_before_it_says_no(
    make_engine: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssmt_edge.cli.bench import bench

    with pytest.raises(VerdictNo, match=r"one misses p99 within 0.001 ms") as caught:
        bench([make_engine("one")], tmp_path / "out", frames=10, threads=1, budget_ms=1e-3, brief=True, as_json=True)
    assert caught.value.exit_code == 3
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "report.json").read_text())
    bench([make_engine("torch")], tmp_path / "out", vs="onnxruntime", frames=10, rounds=3, threads=1, brief=True)
    shown = capsys.readouterr().out
    assert "end to end" in shown
    assert "torch 1" in shown  # an engine must not be taken for a peer
    assert "onnxruntime" in shown
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()


def test_environment_tells_the_machine_and_not_its_user() -> None:
    found = environment()
    assert found["cores"] >= 1
    assert found["logical_cores"] >= found["cores"]
    assert found["packages"]["numpy"] == np.__version__
    assert str(Path.home()) not in json.dumps(found)


def test_the_handler_is_imported_without_numpy_and_opencv() -> None:
    code = "import sys, ssmt_edge.cli.bench; print(sorted({'numpy', 'cv2', 'onnxruntime', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# the aims of the project


def ratio(report: dict[str, Any], engine: str, against: str, low: float, high: float) -> None:
    """Puts a contender into the first comparison, and how it compares."""
    found = report["comparisons"][0]
    middle = (low + high) / 2
    median = middle * next(row["median_ms"] for row in found["contenders"] if row["name"] == engine)
    found["contenders"].append({"name": against, "median_ms": median})
    found["ratios"].append({"engine": engine, "against": against, "ratio": middle, "interval": [low, high]})


def test_aims_name_the_peers_that_took_part_and_what_limits_the_engine() -> None:
    report = full_report()
    report["comparisons"] = report["comparisons"][:1]
    (int8,) = (row for row in aims(report) if row["interval"])
    assert (int8["engine"], int8["against"], int8["wanted"], int8["reached"]) == ("lite-int8", "openvino", 2.5, False)
    assert int8["aim"].endswith("at least 2.5 x (of torch, onnxruntime, openvino)")  # torch-compile was left out
    assert "time goes to QLinearConv 80 %" in int8["limit"]
    assert "slowest layers: /encoder/stage0/Conv (QLinearConv) 25 % at 80 % of the roof" in int8["limit"]
    report["environment"]["cpu_flags"] = ["avx2"]
    ratio(report, "lite-fp32", "onnxruntime:plain", 1.09, 1.13)
    int8, fp32 = (row for row in aims(report) if row["interval"])
    assert (int8["wanted"], fp32["against"], fp32["reached"], fp32["limit"]) == (1.6, "onnxruntime:plain", True, None)


@pytest.mark.parametrize(("low", "high", "reached"), [(0.97, 1.01, True), (0.95, 0.98, False)])
def test_not_slower_than_the_same_file_allows_for_noise(low: float, high: float, reached: bool) -> None:
    report = full_report()
    ratio(report, "lite-int8", "onnxruntime:same", low, high)
    (row,) = (row for row in aims(report) if row["against"] == "onnxruntime:same")
    assert row["reached"] == reached


def test_aims_that_are_no_ratio() -> None:
    report = full_report()
    report["engines"][0]["accuracy"]["dice"] = report["engines"][1]["accuracy"]["dice"] - 0.006
    dice, start = (row for row in aims(report) if not row["interval"])
    assert (dice["against"], dice["found"], dice["reached"]) == ("lite-fp32", pytest.approx(0.006), False)
    assert (start["found"], start["reached"]) == (95.0 + 22.0, True)


def test_engines_of_a_gpu_have_other_peers_and_other_aims() -> None:
    report = full_report()
    for engine in report["engines"]:
        engine["backend"] = "tensorrt 10.13.3"
    assert aims(report) == []


# the runs behind the README's figures


def test_peers_that_need_what_is_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    assert cpu._installed("onnxruntime")
    assert not cpu._installed("torch")
    assert not cpu._installed("onnxruntime:plain")  # which PyTorch exports


def test_an_engine_of_other_weights_is_built_again(
    make_engine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = make_engine("kept", checkpoint="a" * 64)
    assert not cpu._fits(kept)
    assert not cpu._fits(tmp_path / "absent")
    monkeypatch.setattr(cpu, "sha256", lambda path: "a" * 64)
    assert cpu._fits(kept)
