"""The GPU script, rehearsed on the CPU; and the two processes that it has take turns."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from benchmarks.gpu import __main__ as script
from benchmarks.gpu.measure import _standings, earlier_networks
from benchmarks.gpu.remote import Process
from engines.device import cpu_device
from engines.parity import phantom_frames
from ssmt_edge.errors import BackendUnavailable, EngineError
from ssmt_edge.phantom import write_set
from ssmt_edge.spec import EngineManifest, ModelSpec

# a library that prints on the file descriptor of stdout, as TensorRT does, and an engine that tells its times
NOISY = """
import os
import numpy as np
from ssmt_edge.errors import BackendUnavailable

def version():
    os.write(1, b"noise\\n")
    raise BackendUnavailable("no GPU in this test")

class Engine:
    max_batch, note = 2, "no CUDA graph: in this test"
    last_times_ms = {"h2d": 1.0, "compute": 2.0, "d2h": 3.0}

    def infer(self, frames):
        print("more noise")
        return {"nodule": 255 - frames, "size": np.full(len(frames), 0.25, np.float32)}

    def close(self):
        pass

def open(folder, manifest, threads):
    return Engine()
"""


@pytest.fixture(autouse=True)
def own_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script replaces the entry of TensorRT."""
    monkeypatch.setattr(engines, "BACKENDS", engines.BACKENDS)
    monkeypatch.setitem(engines.BACKENDS, "tensorrt", engines.BACKENDS["tensorrt"])


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """A worker of "another" interpreter, which has the noisy library in TensorRT's place."""
    (tmp_path / "noisy.py").write_text(NOISY)
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from engines import BACKENDS; "
        "BACKENDS['tensorrt'] = 'noisy'; from benchmarks.gpu.worker import main; main()"
    )
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(code)}\n")
    python.chmod(0o755)
    monkeypatch.setenv("PYTHONHOME", "/of/this/interpreter")  # with it the other one would not start
    with Process(python, tmp_path / "worker.log", rehearse=False, caches=tmp_path) as started:
        yield started


def manifest(spec: ModelSpec) -> dict[str, Any]:
    return EngineManifest(
        spec=spec, precision="fp16", backend="tensorrt", backend_version="1", device=cpu_device(),
        product_version="0", outputs=("nodule", "size"), max_batch=2, files={}, checkpoint_sha256="", parameters=0,
        gmac=0.0, gflops=0.0,
    ).to_dict()  # fmt: skip


def test_arrays_errors_and_times_pass_between_two_interpreters(process: Process, tmp_path: Path) -> None:
    from benchmarks.gpu.remote import RemoteEngine

    with pytest.raises(BackendUnavailable, match="no GPU in this test"):
        process.ask("tensorrt")
    spec = ModelSpec("ssmt-lite", 64, 60.0, 0.02, ("nodule", "size"))
    told = process.ask("open", name="a", folder=str(tmp_path), manifest=manifest(spec))
    engine = RemoteEngine(process, "a", spec, told["max_batch"])
    frames = phantom_frames(spec, 2)
    found = engine.infer(frames)
    np.testing.assert_array_equal(found["nodule"], 255 - frames)
    assert found["size"].dtype == np.float32
    with pytest.raises(EngineError, match="batch of 3 frames, expected 1 to 2"):
        engine.infer(phantom_frames(spec, 3))
    np.save(tmp_path / "frames.npy", frames)
    turn = engine.turn(tmp_path / "frames.npy", 2)
    assert set(turn["compute_ms"]) == {2.0} and len(turn["host_ms"]) == len(turn["compute_ms"]) >= 5
    assert turn["note"] == "no CUDA graph: in this test"
    engine.close()
    with pytest.raises(EngineError, match="KeyError"):
        engine.turn(tmp_path / "frames.npy", 2)


def test_a_worker_that_died_is_told_with_its_last_words(process: Process, tmp_path: Path) -> None:
    process._process.kill()
    process._process.wait()
    (tmp_path / "worker.log").write_text("Segmentation fault in libnvinfer\n")
    with pytest.raises(EngineError, match="Segmentation fault in libnvinfer"):
        process.ask("tensorrt")


def test_an_interpreter_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not start"):
        Process(tmp_path / "python", tmp_path / "log", rehearse=False, caches=tmp_path)


def test_ratios_are_taken_round_by_round() -> None:
    """The machine is three times as slow in the second round: the ratio does not change."""

    def turns(host: list[float], compute: list[float]) -> list[dict[str, Any]]:
        pairs = zip(host, compute, strict=True)
        return [{"host_ms": [h, h, 99.0], "compute_ms": [c] if c else [], "note": None} for h, c in pairs]

    rows = _standings(
        {"tensorrt fp16": turns([1.0, 3.0, 1.0], [0.5, 1.5, 0.5]), "torch eager": turns([4.0, 12.0, 4.0], [0, 0, 0])}
    )
    assert [row["host_ms"] for row in rows] == [1.0, 4.0]
    assert [row["compute_ms"] for row in rows] == [0.5, None]
    assert rows[0]["times_as_fast_as"] == {"torch eager": {"median": 4.0, "interval": (4.0, 4.0)}}


def test_results_of_a_rehearsal_or_another_gpu_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    terms = {"rehearsal": False, "tensorrt": {"version": "10.3.0", "device": {"name": "Orin"}}}
    said: list[str] = []
    path = tmp_path / "results.json"
    assert earlier_networks(path, terms, said.append) == {}
    path.write_text(json.dumps({**terms, "networks": {"lite": {}}}))
    assert earlier_networks(path, terms, said.append) == {"lite": {}}
    assert said == []
    assert earlier_networks(path, {**terms, "rehearsal": True}, said.append) == {}
    assert said[0].endswith("was measured with another rehearsal")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *map(str, arguments)])
    try:
        script.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--checkpoint and --data are needed"),
        (("--checkpoint", "absent", "--data", "."), "absent is not a file"),
        (("--dry-run", "--peers", "jax"), "'jax', expected some of eager"),
        (("--dry-run", "--precision", "fp8"), "'fp8', expected some of fp32"),
        (("--dry-run", "--batch", "0"), "batch 0"),
    ],
)
def test_wrong_use_ends_in_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call(monkeypatch, "--out", tmp_path, *arguments) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_whole_script(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pytest.importorskip("onnxscript")
    write_set(tmp_path / "data", 40, 0, size=(96, 128), seed=7)
    given: tuple[object, ...] = (
        "--checkpoint", tiny_checkpoint, "--data", tmp_path / "data", "--out", tmp_path / "out", "--dry-run",
        "--trt-python", sys.executable, "--precision", "fp32,int8", "--calib-frames", 24, "--rounds", 3,
        "--batch", "1,2",
    )  # fmt: skip
    assert call(monkeypatch, *given, "--peers", "reduce-overhead") == 3
    # INT8 costs random weights more than the gate allows: that is a row, and an exit code
    assert "int8 engine's masks agree with FP32" in capsys.readouterr().err.splitlines()[-1]

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    ((folder, network),) = results["networks"].items()
    gates = {gate["precision"]: gate for gate in network["gates"]}
    assert not gates["fp32"]["refused"] and gates["fp32"]["dice"] == pytest.approx(gates["fp32"]["reference_dice"])
    assert "required 0.9950" in gates["int8"]["refused"] and gates["int8"]["agreement"] < 0.995
    assert set(network["batches"]) == {"1", "2"}
    for batch, block in network["batches"].items():
        rows = {row["name"]: row for row in block["rows"]}
        assert set(rows) == {"tensorrt fp32", "tensorrt int8", "torch reduce-overhead", "onnxruntime-cuda"}
        assert "skipped" in rows.pop("onnxruntime-cuda")
        for row in rows.values():
            assert set(row["times_as_fast_as"]) == {"torch reduce-overhead"}
            rate = 2 * network["gmac"] * int(batch) / row["host_ms"] / block["matrix"]["tflops"]
            assert row["share_of_rate"] == pytest.approx(rate)
        assert rows["tensorrt fp32"]["agreement"] > 0.99 and rows["torch reduce-overhead"]["agreement"] > 0.99
        assert rows["tensorrt int8"]["agreement"] < 0.995

    made = tmp_path / "out" / folder
    assert {"fp32", "fp32-batch2", "int8", "int8-batch2"} <= {path.name for path in made.iterdir()}
    for name in ("engine.json", "layers.json", "parity.json"):
        assert (made / "int8" / name).is_file()
    assert engines.read_manifest(made / "fp32-batch2").remarks["batch"] == [2, 2, 2]
    text = (tmp_path / "out" / "results.md").read_text()
    assert "A rehearsal" in text and "| int8 | refused: the int8 engine's masks agree" in text
    assert "| TensorRT INT8 |" in text and "- not measured: ONNX Runtime CUDA" in text

    # a second run keeps what is there
    assert call(monkeypatch, *given, "--only", "export", "--only", "build") == 3
    assert capsys.readouterr().err.count(": kept") == 5  # the graph and four engines
