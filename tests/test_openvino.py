"""OpenVINO as a backend: the same masks as ONNX Runtime, and errors in one line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, in_subprocess

onnx = pytest.importorskip("onnx")
openvino = pytest.importorskip("openvino")

from engines import backend, device, open_engine, openvino_cpu, read_manifest  # noqa: E402
from engines.build import build_engine  # noqa: E402
from engines.graph import load_graph  # noqa: E402
from engines.onnxruntime_cpu import open_graph  # noqa: E402
from engines.options import BuildOptions  # noqa: E402
from engines.parity import infer_all, max_difference, phantom_frames  # noqa: E402
from ssmt_edge.errors import BackendUnavailable, EngineError, EngineMismatch, UsageError  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402
from ssmt_edge.spec import Device  # noqa: E402


@pytest.fixture(scope="module")
def fp32(tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("openvino") / "fp32"
    build_engine(tiny_graph, out, BuildOptions("fp32", backend="openvino"))
    return out


@pytest.fixture(scope="module")
def int8(tiny_graph: Path, int8_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("openvino") / "int8"
    ranges = int8_engine / "calibration.json"
    # random weights lose more to rounding than trained ones
    build_engine(tiny_graph, out, BuildOptions("int8", backend="openvino", calib=ranges, max_dice_drop=0.2))
    return out


def test_any_batch_gives_the_reference_s_outputs(fp32: Path, tiny_graph: Path) -> None:
    graph = load_graph(tiny_graph)
    frames = phantom_frames(graph.spec, 4, seed=11)
    with open_graph(graph) as reference, open_engine(fp32, threads=1) as engine:
        assert (engine.spec, engine.max_batch) == (graph.spec, 4)
        expected = infer_all(reference, frames)
        for batch in (1, 3, 1, 4):
            found = engine.infer(frames[:batch])
            assert {n: (v.shape, v.dtype) for n, v in found.items()} == {
                n: (v[:batch].shape, v.dtype) for n, v in expected.items()
            }
            first = {name: values[:batch] for name, values in expected.items()}
            assert max(max_difference(found, first).values()) <= 1.01 / 255
        turned = np.ascontiguousarray(frames[:2].swapaxes(2, 3)).swapaxes(2, 3)  # the same pixels, not in C order
        assert max(max_difference(engine.infer(turned), engine.infer(frames[:2])).values()) == 0


def test_outputs_outlive_the_next_call_and_the_engine(fp32: Path) -> None:
    with open_engine(fp32, threads=1) as engine:
        frames = phantom_frames(engine.spec, 2, seed=12)
        first = engine.infer(frames[:1])
        kept = {name: values.copy() for name, values in first.items()}
        assert (engine.infer(frames[1:])["nodule"] != kept["nodule"]).any()
    assert all((first[name] == kept[name]).all() for name in kept)
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames[:1])


@pytest.mark.parametrize(("shape", "dtype"), [((5, 1, 64, 64), np.uint8), ((1, 1, 64, 64), np.float32)])
def test_other_frames_are_refused(fp32: Path, shape: tuple[int, ...], dtype: type) -> None:
    with open_engine(fp32, threads=1) as engine, pytest.raises(EngineError, match="expected"):
        engine.infer(np.zeros(shape, dtype))


def test_int8_is_the_file_that_onnxruntime_gets(int8: Path, int8_engine: Path) -> None:
    # what `engines.auto` relies on when it builds once for both
    assert read_manifest(int8).files["model.onnx"] == read_manifest(int8_engine).files["model.onnx"]
    parity = json.loads((int8 / "parity.json").read_text())
    assert parity["agreement"] > 0.9
    manifest = read_manifest(int8)
    assert (manifest.backend, manifest.backend_version) == ("openvino", openvino.__version__.partition("-")[0])


def test_int8_belongs_to_its_instruction_set(int8: Path, fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_device", lambda: Device("another", instruction_set="neon"))
    with pytest.raises(EngineMismatch, match=r"this one has neon; rebuild it: .*--backend openvino"):
        open_engine(int8)
    open_engine(fp32, threads=1).close()


def test_another_openvino_is_a_mismatch(fp32: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(fp32, tmp_path / "engine"))
    values = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**values, "backend_version": "1.2.3"}))
    with pytest.raises(EngineMismatch, match=r"openvino 1\.2\.3, here is 20\d\d.*rebuild it"):
        open_engine(folder)


@pytest.mark.parametrize("content", [b"not a network", None], ids=["junk", "truncated"])
def test_a_file_that_is_no_network_is_one_line(fp32: Path, tmp_path: Path, content: bytes | None) -> None:
    folder = Path(shutil.copytree(fp32, tmp_path / "engine"))
    model = folder / "model.onnx"
    model.write_bytes(content or model.read_bytes()[:20000])
    values = json.loads((folder / "engine.json").read_text())
    values["files"]["model.onnx"] = sha256(model)
    (folder / "engine.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match=r"model\.onnx cannot be loaded: (?!Exception from).*build the engine again"):
        open_engine(folder)


def test_fp16_is_refused(tiny_graph: Path, calib_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16 engines are for GPUs"):
        build_engine(tiny_graph, tmp_path / "e", BuildOptions("fp16", backend="openvino", calib=calib_folder))
    assert not (tmp_path / "e").exists()


def test_without_openvino_the_extra_is_named(fp32: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else find(name, *a))
    assert backend("openvino").missing() == ["the Python package openvino (pip install 'ssmt-edge[openvino]')"]
    with pytest.raises(BackendUnavailable, match=r"pip install 'ssmt-edge\[openvino\]'"):
        open_engine(fp32)


def test_an_openvino_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("Exception from somewhere:\nno plugin for CPU")

    monkeypatch.setattr(openvino, "Core", broken)
    with pytest.raises(BackendUnavailable, match=r"does not start \(no plugin for CPU\); install it again"):
        openvino_cpu.core.__wrapped__()


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals of its own")
def test_signals_arrive_after_engines_were_closed(fp32: Path) -> None:
    """Two OpenVINO cores freed in the order in which they came leave no stack for signal handlers."""
    code = f"""
import gc, os, signal
from pathlib import Path
from engines import openvino_cpu, read_manifest
signal.signal(signal.SIGUSR1, lambda *_: print("heard", flush=True))
folder = Path({str(fp32)!r})
engines = [openvino_cpu.open(folder, read_manifest(folder), threads=1) for _ in range(2)]
while engines:
    engines.pop(0).close()
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_the_library_is_imported_when_it_is_needed() -> None:
    before = "import sys, engines.openvino_cpu\nassert 'openvino' not in sys.modules\n"
    assert in_subprocess("--help", before=before).code == 0


@pytest.mark.parametrize("raised", ["ImportError('no libtbb')", "OSError('no libtbb')"])
def test_a_broken_installation_is_told_and_auto_goes_on_without_it(
    raised: str, tiny_graph: Path, tmp_path: Path
) -> None:
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text(f"raise {raised}\n")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    built = in_subprocess("build-engine", tiny_graph, "--out", tmp_path / "e", "--json", before=before)
    assert built.code == 0, built.err
    assert "installed but broken (no libtbb)" in json.loads(built.out)["remarks"]["backend"]["because"]
    doctor = in_subprocess("doctor", "--json", before=before)
    assert "broken (no libtbb)" in json.loads(doctor.out)["backends"]["openvino"]["missing"][0]
