"""ONNX Runtime on a GPU: IO binding, run here on the CPU provider, and what is said where CUDA is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

from engines import onnxruntime_cuda, open_engine, read_manifest
from engines.auto import candidates
from engines.calibrate import collect, measure_ranges
from engines.graph import load_graph
from engines.onnxruntime_cuda import BoundEngine, missing
from engines.options import BuildOptions, Job
from engines.parity import max_difference, phantom_frames
from ssmt_edge.errors import BackendUnavailable, CalibrationError, EngineError, UsageError
from ssmt_edge.spec import Device

H100 = Device("NVIDIA H100", compute_capability="9.0")


def bound(folder: Path) -> BoundEngine:
    manifest = read_manifest(folder)
    path = folder / "model.onnx"
    return BoundEngine(path, manifest.spec, manifest.max_batch, 1, "CPUExecutionProvider", "cpu", {})


def test_bound_buffers_give_what_a_plain_session_gives(fp32_engine: Path) -> None:
    with open_engine(fp32_engine, threads=1) as plain, bound(fp32_engine) as engine:
        frames = phantom_frames(plain.spec, 4, seed=21)
        assert (engine.spec, engine.max_batch) == (plain.spec, plain.max_batch)
        for batch in (1, 3, 1, 4):
            expected, found = plain.infer(frames[:batch]), engine.infer(frames[:batch])
            assert list(found) == list(expected)
            assert {n: (v.shape, v.dtype) for n, v in found.items()} == {
                n: (v.shape, v.dtype) for n, v in expected.items()
            }
            assert max(max_difference(found, expected).values()) == 0
        turned = np.ascontiguousarray(frames[:2].swapaxes(2, 3)).swapaxes(2, 3)  # the same pixels, not in C order
        assert (engine.infer(turned)["nodule"] == plain.infer(frames[:2])["nodule"]).all()
        # one set of buffers a batch size, allocated once
        sets = dict(engine._sets)
        engine.infer(frames[:3])
        assert sorted(sets) == [1, 2, 3, 4] and all(engine._sets[n] is sets[n] for n in sets)


def test_outputs_outlive_the_next_call_and_the_engine(fp32_engine: Path) -> None:
    with bound(fp32_engine) as engine:
        frames = phantom_frames(engine.spec, 2, seed=22)
        first = engine.infer(frames[:1])
        kept = {name: values.copy() for name, values in first.items()}
        assert (engine.infer(frames[1:])["nodule"] != kept["nodule"]).any()
        with pytest.raises(EngineError, match="expected 1 to 4"):
            engine.infer(np.zeros((5, 1, 64, 64), np.uint8))
    assert all((first[name] == kept[name]).all() for name in kept)
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames[:1])


def test_a_damaged_file_and_a_provider_that_does_not_start(fp32_engine: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a network")
    spec = read_manifest(fp32_engine).spec
    with pytest.raises(EngineError, match=r"cannot be loaded: .*; build the engine again"):
        BoundEngine(tmp_path / "model.onnx", spec, 4, 1, "CPUExecutionProvider", "cpu", {})


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime_cuda.ort.get_available_providers(), reason="CUDA is here")
def test_a_provider_that_does_not_start_is_not_replaced_in_silence(fp32_engine: Path) -> None:
    spec = read_manifest(fp32_engine).spec
    with (
        pytest.warns(UserWarning),
        pytest.raises(BackendUnavailable, match="could not start its CUDAExecutionProvider"),
    ):
        BoundEngine(fp32_engine / "model.onnx", spec, 4, 1, "CUDAExecutionProvider", "cuda", {})


@pytest.mark.parametrize(
    ("providers", "gpus", "expected"),
    [
        (["CPUExecutionProvider"], [], ["pip uninstall onnxruntime, then pip install .*onnxruntime-gpu", "NVIDIA GPU"]),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], [], ["NVIDIA GPU"]),
        (["CPUExecutionProvider"], [H100], ["onnxruntime-gpu"]),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], [H100], []),
    ],
)
def test_what_is_missing(
    providers: list[str], gpus: list[Device], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_cuda.ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime_cuda, "gpus", lambda: gpus)
    lacks = missing()
    assert len(lacks) == len(expected)
    if expected:
        with pytest.raises(BackendUnavailable, match=".*".join(["onnxruntime-cuda needs", *expected])):
            onnxruntime_cuda.version()
    else:
        assert onnxruntime_cuda.device() == H100


def test_int8_is_refused_with_what_to_use_and_fp16_is_half_precision(
    tiny_graph: Path, calib_folder: Path, tmp_path: Path
) -> None:
    import onnx

    graph = load_graph(tiny_graph)

    def build(precision: Any, calibration: Any) -> None:
        onnxruntime_cuda.build(Job(graph, calibration, BuildOptions(precision)), tmp_path)

    with pytest.raises(UsageError, match=r"does not fuse quantisation.*use fp16, or --backend tensorrt"):
        candidates("onnxruntime-cuda", "int8")
    with pytest.raises(CalibrationError, match="fp16 engine needs measured ranges"):
        build("fp16", None)
    assert not list(tmp_path.iterdir())
    build("fp16", measure_ranges(graph, collect(calib_folder, graph.spec), "here"))
    kinds = {t.data_type for t in onnx.load(str(tmp_path / "model.onnx")).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    with BoundEngine(tmp_path / "model.onnx", graph.spec, 4, 1, "CPUExecutionProvider", "cpu", {}) as engine:
        found = engine.infer(phantom_frames(graph.spec, 2))
    assert {n: (v.shape, v.dtype.name) for n, v in found.items()} == {
        "nodule": ((2, 1, 64, 64), "uint8"),
        "size": ((2,), "float32"),
    }


def test_only_the_version_decides_whether_an_engine_fits(fp32_engine: Path) -> None:
    manifest = read_manifest(fp32_engine)
    assert onnxruntime_cuda.mismatch(manifest) is None
    old = type(manifest)(**{**vars(manifest), "backend": "onnxruntime-cuda", "backend_version": "1.2.3"})
    assert str(onnxruntime_cuda.mismatch(old)).startswith("was built with onnxruntime-cuda 1.2.3, here is ")
