"""The bench: times land in their stages, tails stay visible, comparisons are fair, reports are whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import small_engine

from benchmarks import run_bench
from benchmarks.machine.environment import environment
from benchmarks.timing import turns
from ssmt_edge.errors import UsageError, VerdictNo


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
        ({"fps": 20}, "yes"),
        ({"fps": 1e6}, "no"),
        ({"budget_ms": 1e-3}, "no"),
        ({"fps": 20, "budget_ms": 1e-3}, "no"),
    ],
)
def test_verdict(make_engine: Callable[..., Path], asked: dict[str, float], verdict: str) -> None:
    report = run_bench([make_engine("one")], frames=10, threads=1, brief=True, **asked)  # type: ignore[arg-type]
    assert report["verdict"] == report["engines"][0]["verdict"] == verdict
    assert (report["comparisons"], report["aims"]) == ([], [])


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


def test_the_handler_writes_the_reports_before_it_says_no(
    make_engine: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ssmt_edge.cli.bench import bench

    with pytest.raises(VerdictNo, match=r"one misses p99 within 0.001 ms") as caught:
        bench([make_engine("one")], tmp_path / "out", frames=10, threads=1, budget_ms=1e-3, brief=True, as_json=True)
    assert caught.value.exit_code == 3
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "out" / "report.json").read_text())
    bench([make_engine("two")], tmp_path / "out", vs="onnxruntime", frames=10, rounds=3, threads=1, brief=True)
    shown = capsys.readouterr().out
    assert "end to end" in shown
    assert "onnxruntime" in shown


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
