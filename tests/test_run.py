"""`ssmt-edge run`, with an engine that stands in for a real one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes import BrightEngine, record_indices, video_frames, write_folder
from pydicom.examples import get_path
from typer.testing import CliRunner

from ssmt_edge import segment
from ssmt_edge.cli.run import run
from ssmt_edge.errors import SourceError, UsageError
from ssmt_edge.segment import Segmenter

pytestmark = pytest.mark.timeout(60)
HERE = Path(__file__).resolve().parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "frames", 25)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def load(path: Path, threads: int | None, *choices: Any) -> Segmenter:
        return Segmenter(BrightEngine(), *choices)

    monkeypatch.setattr(segment, "load", load)
    app = typer.Typer()
    app.command()(run)
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_run_prints_what_was_done(invoke: Callable[..., Any], tmp_path: Path) -> None:
    done = invoke("engine", get_path("ybr_color"), "--sink", tmp_path / "r.jsonl", "--sink", tmp_path / "o.mp4")
    assert done.exit_code == 0, done.output
    assert "30 frames in" in done.stdout and f"wrote {tmp_path / 'o.mp4'}" in done.stdout
    assert "note: " in done.stderr and "does not fit" in done.stderr
    assert len(record_indices(tmp_path / "r.jsonl")) == video_frames(tmp_path / "o.mp4") == 30


def test_run_for_machines(invoke: Callable[..., Any], folder: Path) -> None:
    done = invoke("engine", folder, "--json", "--roi", "0,0,80,120", "--mm-per-pixel", "0.1")
    summary = json.loads(done.stdout)
    assert summary["frames"] == 25 and summary["complete"] is True
    assert set(summary["times_ms"]) == {"decode", "preprocess", "infer", "postprocess", "work", "latency"}
    assert summary["times_ms"]["infer"]["p50"] <= summary["times_ms"]["infer"]["p99"]


@pytest.mark.parametrize("roi", ["everything", "1,2,3", "0,0,0,5", "1,2,3,x"])
def test_run_refuses_a_region_that_is_none(invoke: Callable[..., Any], folder: Path, roi: str) -> None:
    done = invoke("engine", folder, "--roi", roi)
    assert isinstance(done.exception, UsageError) and "--roi" in str(done.exception)


def test_run_tells_what_was_written_before_an_error(invoke: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    (folder / "9.png").write_text("not an image")
    done = invoke("engine", folder, "--sink", tmp_path / "r.jsonl")
    assert isinstance(done.exception, SourceError)
    assert "9 frames in" in done.stdout and "not to the end" in done.stdout
    assert len(record_indices(tmp_path / "r.jsonl")) == 9


def test_ctrl_c_leaves_complete_files(folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import typer
from fakes import BrightEngine
from ssmt_edge import segment
from ssmt_edge.cli.run import run
segment.load = lambda *_: segment.Segmenter(BrightEngine(seconds=0.05))
app = typer.Typer(); app.command()(run)
app(["engine", {str(folder)!r}, "--sink", {str(tmp_path / "r.jsonl")!r}, "--sink", {str(tmp_path / "o.mp4")!r}])
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a job that a shell put in the background inherits SIGINT ignored, and so would this one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    give_up = time.monotonic() + 30
    while not any(p.stat().st_size for p in tmp_path.glob(".r.*")) and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "not to the end" in out and "Traceback" not in err
    written = record_indices(tmp_path / "r.jsonl")
    assert written == list(range(len(written))) and 0 < len(written) < 25
    assert video_frames(tmp_path / "o.mp4") == len(written)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames", "o.mp4", "r.jsonl"]
