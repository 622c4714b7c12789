"""OpenVINO's own benchmark_app on the graph that the contender `openvino` runs: do others measure what we measure?"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.versus.contenders import openvino_settings
from ssmt_edge.errors import BackendUnavailable, EngineError
from ssmt_edge.files import write_json

TOOL = "benchmark_app"
CONTENDER = "openvino"
"""whose times are compared"""
SECONDS = 2
ROUNDS = 5
PATIENCE = 120.0  # seconds, besides: it imports, compiles and writes
TOLERANCE = 0.05


def cross_check(
    graph: Path, input_size: int, threads: int, ours: Callable[[], float], bare: Callable[[], float]
) -> dict[str, Any]:
    """Our median against that of benchmark_app, in turns: ours, theirs, ours, theirs, ... ours.

    benchmark_app runs alone, with the same settings and shape; random pixels, one after the other (`-api sync`). It
    reports the time inside OpenVINO: that a frame goes in and masks come out is left out.

    Args:
        graph: ONNX file.
        ours: takes a turn, median milliseconds of an inference.
        bare: the same by OpenVINO's clock, without inputs and outputs; called only where the two differ by `TOLERANCE`
            or more.

    Returns:
        `tool`, `theirs_ms`, `ours_ms` (medians over the turns), `difference` (of theirs to the mean of ours before and
        after, as a share of that: the median over the turns), `why` (None below `TOLERANCE`), `method`.

    Raises:
        BackendUnavailable: there is no benchmark_app beside this interpreter.
        EngineError: it failed, or took too long.
    """
    mine, theirs = [ours()], []
    for _ in range(ROUNDS):
        theirs.append(benchmark_app_ms(graph, input_size, threads))
        mine.append(ours())
    around = [(before + after) / 2 for before, after in pairwise(mine)]
    difference = median(their / our - 1 for their, our in zip(theirs, around, strict=True))
    return {
        "tool": TOOL,
        "theirs_ms": median(theirs),
        "ours_ms": median(mine),
        "difference": difference,
        "why": _why(mine, theirs, bare()) if abs(difference) >= TOLERANCE else None,
        "method": f"{ROUNDS} runs of {SECONDS} s with -api sync -hint latency, {threads} threads, FP32, batch 1, "
        f"between {ROUNDS + 1} turns of the contender {CONTENDER}; medians of the medians",
    }


def _why(mine: list[float], theirs: list[float], bare_ms: float) -> str:
    """What the difference comes from, as far as measurements tell."""
    if abs(median(theirs) / bare_ms - 1) < TOLERANCE:
        return (
            f"ours hands in a frame and copies the masks out, which {TOOL} leaves out: without both we measure "
            f"{bare_ms:.2f} ms"
        )
    spread = f"ours {min(mine):.2f} to {max(mine):.2f} ms, theirs {min(theirs):.2f} to {max(theirs):.2f} ms"
    if max(max(mine) / min(mine), max(theirs) / min(theirs)) >= 1 + TOLERANCE:
        return f"the machine was not steady meanwhile: {spread}"
    return f"not explained: {spread}, and {bare_ms:.2f} ms where ours leaves out inputs and outputs, too"


def benchmark_app_ms(graph: Path, input_size: int, threads: int) -> float:
    """Median milliseconds of an inference as benchmark_app reports it; raises what `cross_check` does."""
    tool = shutil.which(TOOL, path=sysconfig.get_path("scripts"))
    if tool is None:
        raise BackendUnavailable(f"there is no {TOOL} beside this Python; pip install openvino brings it")
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings.json"
        write_json(settings, {"CPU": openvino_settings(threads)})  # its own -nthreads excludes -hint
        command = [tool, "-m", str(graph), "-d", "CPU", "-api", "sync", "-hint", "latency", "-t", str(SECONDS)]
        command += ["-load_config", str(settings), "-shape", f"[1,1,{input_size},{input_size}]"]
        command += ["-report_type", "no_counters", "-report_folder", folder, "-json_stats"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + PATIENCE)
        except subprocess.TimeoutExpired:
            raise EngineError(f"{TOOL} did not end within {SECONDS + PATIENCE:g} s") from None
        except OSError as error:
            raise BackendUnavailable(f"{TOOL} does not start ({error.strerror})") from None
        report = Path(folder) / "benchmark_report.json"
        if done.returncode or not report.is_file():
            words = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no reason"]
            raise EngineError(f"{TOOL} failed: {words[0].removeprefix('[ ERROR ]').strip()}")
        try:
            found = json.loads(report.read_text(encoding="utf-8"))
            return float(found["execution_results"]["latency (ms)"])
        except (ValueError, KeyError, TypeError):
            raise EngineError(f"the report of this version of {TOOL} holds no latency") from None
