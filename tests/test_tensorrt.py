"""TensorRT's backend without a GPU: what it does with CUDA against a fake of PyCUDA, and the functions of the table.

TensorRT itself is the recorder of `tensorrt_contract/` with the surface of 8.5; `test_tensorrt_contract.py` has the
other versions.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli

from engines import open_engine, tensorrt_gpu
from engines.build import build_engine
from engines.options import BuildOptions, Job, TensorRtOptions
from engines.tensorrt_gpu import bindings, cuda, runtime
from ssmt_edge.errors import BackendUnavailable, EngineError, EngineMismatch, UsageError
from ssmt_edge.files import sha256
from ssmt_edge.spec import Device

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "tests" / "tensorrt_contract"
SIZE = 32
ORIN = Device("Orin (nvgpu)", compute_capability="8.7", driver="540.4.0", cuda="12.6")


class Rig:
    """TensorRT and CUDA as fakes in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, integrated: bool = False) -> None:
        import check
        import fake_cuda
        import network
        import recorder

        self._check, self._network = check, network
        self.cuda = fake_cuda.Cuda(integrated)
        surface = json.loads((CONTRACT / "surface_8_5.json").read_text())
        self.tape = recorder.Tape(surface, {})
        monkeypatch.setitem(sys.modules, "tensorrt", recorder.recorded(recorder.hand_made(surface), self.tape))
        monkeypatch.setitem(sys.modules, "pycuda.driver", self.cuda.pycuda())
        monkeypatch.setitem(sys.modules, "cuda.bindings.driver", self.cuda.bindings())
        self.script()

    def script(self, batch: tuple[int, int, int] = (1, 1, 4), **changes: Any) -> None:
        script = self._network.engine(self.tape, self.cuda, batch)
        self.tape.script.update(script | {key.replace("__", "."): value for key, value in changes.items()})

    def open(self, folder: Path, **given: Any) -> Any:
        return self._check.open_plan(folder, self.tape, **given)

    def manifest(self, **remarks: Any) -> Any:
        return self._check.manifest("8.5.3.1", **remarks)

    def error_of_opening(self, folder: Path, **given: Any) -> str:
        """The error's line, without its traceback, which would keep what `open` made alive."""
        try:
            self.open(folder, **given)
        except EngineError as error:
            return str(error)
        raise AssertionError("it opened")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.syspath_prepend(str(CONTRACT))
    cached = (bindings.logger, cuda.driver, cuda._primary_context)
    for function in cached:
        function.cache_clear()
    yield monkeypatch
    for function in cached:
        function.cache_clear()


@pytest.fixture
def rig(clean: pytest.MonkeyPatch) -> Rig:
    return Rig(clean)


def frames_of(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8)


def right(engine: Any, count: int, seed: int = 0) -> bool:
    frames = frames_of(count, seed)
    found = engine.infer(frames)
    share = (frames > 127).mean(axis=(1, 2, 3), dtype=np.float32)
    return bool((found["nodule"] == frames).all() and np.allclose(found["size"], share))


STEPS = [
    *(("pagelocked_empty", n) for n in (1, 2, 3)), *(("mem_alloc", n) for n in (1, 2, 3)),
    ("Stream", 1), ("Event", 1), ("Event", 4), ("retain_primary_context", 1),
]  # fmt: skip


@pytest.mark.parametrize(("step", "time"), STEPS)
def test_an_error_while_opening_frees_everything(rig: Rig, tmp_path: Path, step: str, time: int) -> None:
    rig.cuda.fail[step] = time
    line = rig.error_of_opening(tmp_path)
    assert f"opening {tmp_path}: {step} failed: injected; rebuild it: ssmt-edge build-engine" in line
    gc.collect()
    assert rig.cuda.held() == {} and rig.cuda.stack == []
    with rig.open(tmp_path) as engine:
        assert right(engine, 2)
    gc.collect()
    assert rig.cuda.held() == {}


def test_plans_that_are_not_ours_are_refused_and_freed(rig: Rig, tmp_path: Path) -> None:
    line = rig.error_of_opening(tmp_path, outputs=("nodule", "gland"))
    assert "gives nodule, size, expected nodule, gland; rebuild it" in line
    rig.script(ICudaEngine__create_execution_context=None)
    assert "does not run" in rig.error_of_opening(tmp_path)
    rig.script(ICudaEngine__get_tensor_shape=lambda self, name: (-1, 1, -1, -1))
    assert "leaves the shape of frame open" in rig.error_of_opening(tmp_path)
    rig.script(ICudaEngine__get_tensor_shape=lambda self, name: (-1, 3, SIZE, SIZE))
    assert f"expected frame uint8 [N, 1, {SIZE}, {SIZE}]" in rig.error_of_opening(tmp_path)
    gc.collect()
    assert rig.cuda.held() == {} and rig.cuda.stack == []


def test_two_engines_live_beside_each_other_and_close_twice(rig: Rig, tmp_path: Path) -> None:
    one, two = rig.open(tmp_path), rig.open(tmp_path)
    assert right(one, 2) and right(two, 3) and right(one, 2) and right(two, 3)
    one.close()
    one.close()
    with pytest.raises(EngineError, match="the engine is closed; open it again"):
        one.infer(frames_of(1))
    assert right(two, 3) and rig.cuda.held()["stream"] == 1
    two.close()
    gc.collect()
    assert rig.cuda.held() == {} and rig.cuda.stack == []


def test_an_engine_may_be_used_in_another_thread_than_it_was_opened_in(rig: Rig, tmp_path: Path) -> None:
    found = []
    with rig.open(tmp_path) as engine:
        thread = threading.Thread(target=lambda: found.append(right(engine, 2)))
        thread.start()
        thread.join()
    assert found == [True]


def test_an_engine_that_nobody_closed_is_freed_in_any_thread_and_at_the_end(rig: Rig, tmp_path: Path) -> None:
    dropped = [rig.open(tmp_path)]
    assert right(dropped[0], 2)
    thread = threading.Thread(target=dropped.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert rig.cuda.held() == {}
    left_open = rig.open(tmp_path)
    assert right(left_open, 1)
    runtime._leave()  # what atexit calls
    gc.collect()
    assert rig.cuda.held() == {} and rig.cuda.stack == [] and rig.cuda.detached == 1
    with pytest.raises(EngineError, match="closed"):
        left_open.infer(frames_of(1))


def test_outputs_are_the_callers_own(rig: Rig, tmp_path: Path) -> None:
    with rig.open(tmp_path) as engine:
        first = engine.infer(frames_of(2, 1))
        kept = {name: values.copy() for name, values in first.items()}
        engine.infer(frames_of(2, 2))
    assert all((first[name] == kept[name]).all() for name in kept)


@pytest.mark.parametrize(
    "fails", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "absent", "TensorRT"]
)
def test_without_a_graph_kernels_are_enqueued_one_by_one(
    rig: Rig, tmp_path: Path, clean: pytest.MonkeyPatch, fails: str
) -> None:
    if fails == "absent":
        clean.setitem(sys.modules, "cuda.bindings.driver", None)
    elif fails == "TensorRT":
        run = rig.tape.script["IExecutionContext.execute_async_v3"]
        rig.tape.script["IExecutionContext.execute_async_v3"] = lambda self, stream_handle: (
            rig.cuda.capturing is None and run(self, stream_handle)
        )
    else:
        rig.cuda.fail[fails] = 1
    with rig.open(tmp_path) as engine:
        assert right(engine, 2, 1) and engine.note is None
        assert right(engine, 2, 2) and engine.note.startswith("no CUDA graph: ")
        assert {"absent": "cuda.bindings", "TensorRT": "does not start"}.get(fails, fails) in engine.note
        assert right(engine, 2, 3) and right(engine, 3, 4) and right(engine, 3, 5)
        assert rig.cuda.launches == 0 and rig.cuda.capturing is None
    gc.collect()
    assert rig.cuda.held() == {}


def test_a_graph_is_captured_again_when_the_batch_changes(rig: Rig, tmp_path: Path) -> None:
    with rig.open(tmp_path) as engine:
        for i, count in enumerate((1, 1, 4, 4, 4, 1, 1)):
            assert right(engine, count, i)
            assert rig.cuda.live.get("executable graph", 0) <= 1
        assert rig.cuda.captures == 3 and rig.cuda.launches == 4
    gc.collect()
    assert rig.cuda.held() == {}


def test_shared_memory_is_not_copied(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rig = Rig(clean, integrated=True)
    for copy in ("memcpy_htod_async", "memcpy_dtoh_async", "mem_alloc"):
        rig.cuda.fail[copy] = 1
    with rig.open(tmp_path) as engine:
        assert right(engine, 2, 1) and right(engine, 2, 2) and right(engine, 4, 3)
        assert rig.cuda.captures == 1
    gc.collect()
    assert rig.cuda.held() == {}


def test_a_failure_while_computing_is_one_error_and_the_engine_closes(rig: Rig, tmp_path: Path) -> None:
    with rig.open(tmp_path) as engine:
        assert right(engine, 1)
        rig.cuda.fail["synchronize"] = 1
        with pytest.raises(EngineError, match="TensorRT failed while computing: synchronize failed: injected"):
            engine.infer(frames_of(1))
        rig.script(IExecutionContext__set_input_shape=False)
        with pytest.raises(EngineError, match="does not take a batch of 3"):
            engine.infer(frames_of(3))
        rig.script(IExecutionContext__execute_async_v3=False)
        with pytest.raises(EngineError, match="does not start"):
            engine.infer(frames_of(1))
    gc.collect()
    assert rig.cuda.held() == {} and rig.cuda.stack == []


def test_a_broken_device_does_not_hide_the_error_behind_that_of_closing(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="while computing: memcpy_dtoh_async failed"), rig.open(tmp_path) as engine:
        rig.cuda.fail |= {"memcpy_dtoh_async": 1, "synchronize": 1}
        engine.infer(frames_of(1))
    gc.collect()
    assert rig.cuda.held().keys() <= {"stream", "event"}  # which the traceback of the error still holds


def test_frames_must_fit_the_profile(rig: Rig, tmp_path: Path) -> None:
    rig.script(batch=(2, 2, 3))
    with rig.open(tmp_path) as engine:
        assert engine.max_batch == 3
        for wrong in (frames_of(1), frames_of(4), frames_of(2).astype(np.float32), frames_of(2)[:, :, :16]):
            with pytest.raises(EngineError, match="expected"):
                engine.infer(wrong)


# ---- the backend


def test_importing_the_package_needs_nothing_of_nvidias() -> None:
    code = """
import sys
for name in ("tensorrt", "pycuda", "cuda"):
    sys.modules[name] = None
import engines.tensorrt_gpu as t
from engines.tensorrt_gpu import builder, runtime
assert not [m for m in sys.modules if m.split(".")[0] in ("torch", "onnx", "onnxruntime")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.fixture
def backend(rig: Rig, clean: pytest.MonkeyPatch) -> Rig:
    """A machine that has everything."""
    clean.setattr(tensorrt_gpu, "missing", list)
    clean.setattr(tensorrt_gpu, "gpus", lambda: [ORIN])
    return rig


def test_missing_parts_are_told_alike_by_build_and_doctor(cli: Cli, tiny_graph: Path, tmp_path: Path) -> None:
    lacks = tensorrt_gpu.missing()
    if not lacks:
        pytest.skip("TensorRT, PyCUDA and a GPU are here")
    answer = cli("build-engine", tiny_graph, "--out", tmp_path / "engine", "--backend", "tensorrt")
    (line,) = answer.err.splitlines()
    assert answer.code == 1 and line.startswith("error: TensorRT needs ") and all(lack in line for lack in lacks)
    assert json.loads(cli("doctor", "--json").out)["backends"]["tensorrt"]["missing"] == lacks
    assert not (tmp_path / "engine").exists()


def test_missing_names_each_part_and_how_to_get_it(clean: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "pycuda", "pycuda.driver"):
        clean.setitem(sys.modules, name, None)
    clean.setattr(tensorrt_gpu, "gpus", list)
    clean.setattr(tensorrt_gpu.importlib.util, "find_spec", lambda name: None)
    package, gpu, pycuda = tensorrt_gpu.missing()
    assert "tensorrt" in package and "JetPack" in package and "pip install 'ssmt-edge[tensorrt]'" in package
    assert "NVIDIA GPU with its driver" in gpu and "--gpus all" in gpu
    assert "PyCUDA" in pycuda and "nvcc" in pycuda
    clean.setattr(tensorrt_gpu, "gpus", lambda: [ORIN])
    assert len(tensorrt_gpu.missing()) == 2
    with pytest.raises(BackendUnavailable, match=r"TensorRT needs the Python package tensorrt .* and PyCUDA"):
        tensorrt_gpu.device()


def test_the_manifest_is_held_against_version_and_device(backend: Rig, clean: pytest.MonkeyPatch) -> None:
    assert tensorrt_gpu.mismatch(backend.manifest()) is None
    other = replace(backend.manifest(), backend_version="8.5.2.2")
    assert tensorrt_gpu.mismatch(other) == "was built with TensorRT 8.5.2.2, here is 8.5.3.1"
    compatible = backend.manifest(version_compatible=True)
    for built, fits in (("8.5.2.2", True), ("8.5.3.1", True), ("8.6.1", False), ("7.2", False)):
        assert (tensorrt_gpu.mismatch(replace(compatible, backend_version=built)) is None) is fits, built
    hopper = Device("NVIDIA H100", compute_capability="9.0")
    clean.setattr(tensorrt_gpu, "gpus", lambda: [hopper])
    line = "was built for Orin (nvgpu) (compute capability 8.7), here is NVIDIA H100 (9.0)"
    assert tensorrt_gpu.mismatch(backend.manifest()) == line
    assert tensorrt_gpu.mismatch(backend.manifest(hardware_compatible=True)) is None
    clean.setattr(tensorrt_gpu, "gpus", lambda: [Device("Xavier", compute_capability="7.2")])
    assert "here is Xavier (7.2)" in str(tensorrt_gpu.mismatch(backend.manifest(hardware_compatible=True)))


def test_a_build_writes_plan_layers_and_remarks(backend: Rig, tiny_graph: Path, tmp_path: Path) -> None:
    """The whole function on an exported network, emitted for 8.5; only TensorRT itself is a recorder."""
    from engines.graph import load_graph

    backend.tape.script.update(backend._network.building(backend.tape))
    options = BuildOptions("fp32", tensorrt=TensorRtOptions(timing_cache=tmp_path / "timings"))
    graph = load_graph(tiny_graph)
    remarks = tensorrt_gpu.build(Job(graph, None, options), tmp_path)
    assert (tmp_path / "model.plan").read_bytes() == b"plan"
    assert json.loads((tmp_path / "layers.json").read_text()) == {"Layers": []}
    assert json.loads(json.dumps(remarks))["batch"] == [1, 1, 4] and remarks["device"]["cuda"] == "12.6"
    assert (tmp_path / "timings" / "orin-nvgpu-sm8.7-tensorrt-8.5.3.1.cache").read_bytes() == b"plan"
    large = replace(options, tensorrt=TensorRtOptions(batch=(1, 1, 8)))
    with pytest.raises(UsageError, match=r"batches of up to 8, .* at most 4; export it with --max-batch 8"):
        tensorrt_gpu.build(Job(graph, None, large), tmp_path)


def test_a_cache_folder_that_cannot_be_written_does_not_fail_the_build(
    backend: Rig, tiny_graph: Path, tmp_path: Path
) -> None:
    from engines.graph import load_graph

    backend.tape.script.update(backend._network.building(backend.tape))
    (tmp_path / "file").write_text("not a folder")
    said: list[str] = []
    options = BuildOptions("fp32", tensorrt=TensorRtOptions(timing_cache=tmp_path / "file"))
    tensorrt_gpu.build(Job(load_graph(tiny_graph), None, options, said.append), tmp_path)
    assert any("cannot be written" in line for line in said)


def test_an_engine_folder_of_another_device_names_both_and_the_command(
    backend: Rig, clean: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan")
    manifest = replace(backend.manifest(), files={"model.plan": sha256(tmp_path / "model.plan")})
    (tmp_path / "engine.json").write_text(json.dumps(manifest.to_dict()))
    with open_engine(tmp_path) as engine:
        assert right(engine, 2)
    clean.setattr(tensorrt_gpu, "gpus", lambda: [Device("NVIDIA H100", compute_capability="9.0")])
    with pytest.raises(EngineMismatch, match=r"Orin .*, here is NVIDIA H100 .*; rebuild it: .* --backend tensorrt"):
        open_engine(tmp_path)


def test_gpus_are_those_of_the_drivers_library(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for a stand-in of libcuda")
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, CONTRACT / "driver.c"], check=True)
    code = "from engines.device import gpus; print([(g.name, g.compute_capability, g.cuda) for g in gpus()])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[('Stand-in 0', '8.7', '12.6'), ('Stand-in 1', '9.0', '12.6')]"


# ---- a real GPU


@pytest.mark.gpu
@pytest.mark.slow
def test_a_fresh_plan_agrees_with_the_reference(tiny_graph: Path, calib_folder: Path, tmp_path: Path) -> None:
    if lacks := tensorrt_gpu.missing():
        pytest.skip(f"this machine lacks {' and '.join(lacks)}")
    from engines.graph import load_graph
    from engines.onnxruntime_cpu import open_graph

    options = BuildOptions("fp16", backend="tensorrt", calib=calib_folder, max_dice_drop=0.05)
    build_engine(tiny_graph, tmp_path / "engine", options)
    frames = np.random.default_rng(0).integers(0, 256, (4, 1, 64, 64), dtype=np.uint8)
    with open_engine(tmp_path / "engine") as engine, open_graph(load_graph(tiny_graph)) as reference:
        for count in (1, 1, 1, 4, 4, 4, 1):
            found, expected = engine.infer(frames[:count]), reference.infer(frames[:count])
            difference = np.abs(found["nodule"].astype(int) - expected["nodule"])
            assert difference.mean() < 3, "of 255"
        assert set(engine.last_times_ms) == {"h2d", "compute", "d2h"}
