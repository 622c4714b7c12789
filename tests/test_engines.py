"""Opening engine folders: digests, versions, device; the table of backends; what `infer` takes."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli

import engines
from engines import BACKENDS, backend, open_engine, read_manifest
from engines.options import BuildOptions, TensorRtOptions
from engines.tensorrt_gpu import missing
from ssmt_edge.errors import BackendUnavailable, EngineError, EngineMismatch, UsageError
from ssmt_edge.files import sha256
from ssmt_edge.spec import Device, EngineManifest


@pytest.fixture
def copy(int8_engine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_engine, tmp_path / "engine"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "engine.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_an_engine_opens_and_closes(fp32_engine: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 1, 64, 64), dtype=np.uint8)
    with open_engine(fp32_engine, threads=1) as engine:
        assert engine.spec.input_size == 64 and engine.max_batch == 4
        outputs = engine.infer(frames)
        assert {name: (v.shape, v.dtype.name) for name, v in outputs.items()} == {
            "nodule": ((3, 1, 64, 64), "uint8"),
            "size": ((3,), "float32"),
        }
        assert ((outputs["size"] >= 0) & (outputs["size"] <= 1)).all()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(frames)


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        ((1, 1, 64, 64), np.float32, "expected uint8"),
        ((1, 64, 64), np.uint8, r"expected uint8 \[N, 1, 64, 64\]"),
        ((1, 3, 64, 64), np.uint8, r"expected uint8 \[N, 1, 64, 64\]"),
        ((1, 1, 32, 64), np.uint8, r"expected uint8 \[N, 1, 64, 64\]"),
        ((5, 1, 64, 64), np.uint8, "expected 1 to 4"),
        ((0, 1, 64, 64), np.uint8, "expected 1 to 4"),
    ],
)
def test_other_frames_are_refused(fp32_engine: Path, shape: tuple[int, ...], dtype: type, expected: str) -> None:
    with open_engine(fp32_engine, threads=1) as engine, pytest.raises(EngineError, match=expected):
        engine.infer(np.zeros(shape, dtype))


@pytest.mark.parametrize("name", ["model.onnx", "reference.onnx", "calibration.json", "parity.json"])
def test_every_file_is_checked(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(EngineError, match=f"{name} is not the file that was built.*rebuild it: ssmt-edge build-engine"):
        open_engine(copy)
    (copy / name).unlink()
    with pytest.raises(EngineError, match=f"{name} is missing"):
        open_engine(copy)


def test_a_truncated_model_is_refused(copy: Path) -> None:
    content = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(EngineError, match="SHA-256 differs"):
        open_engine(copy)


def test_a_model_that_matches_its_digest_but_is_no_onnx_is_refused(copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"not a network")
    edit(copy, lambda values: values["files"].update({"model.onnx": sha256(copy / "model.onnx")}))
    with pytest.raises(EngineError, match="cannot be loaded"):
        open_engine(copy)


def test_a_manifest_cannot_reach_out_of_its_folder(copy: Path) -> None:
    edit(copy, lambda values: values["files"].update({"../model.onnx": "0"}))
    with pytest.raises(EngineError, match="is missing"):
        open_engine(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"version": 2}', "\xff"])
def test_a_damaged_manifest_is_one_error(copy: Path, text: str) -> None:
    (copy / "engine.json").write_text(text, encoding="latin-1")
    with pytest.raises(EngineError, match=r"engine\.json"):
        open_engine(copy)


def test_a_manifest_of_another_version_names_both_and_the_command(copy: Path) -> None:
    edit(copy, lambda values: values.update(version=7))
    with pytest.raises(EngineMismatch, match=f"version 7, expected 1; rebuild it: ssmt-edge build-engine .*{copy}"):
        open_engine(copy)


@pytest.mark.parametrize("field", ["device", "spec", "files", "backend"])
def test_a_manifest_without_a_field_names_it(copy: Path, field: str) -> None:
    edit(copy, lambda values: values.pop(field))
    with pytest.raises(EngineMismatch, match=field if field in ("files", "backend") else "expected an object"):
        open_engine(copy)


def test_another_onnxruntime_is_a_mismatch(copy: Path) -> None:
    edit(copy, lambda values: values.update(backend_version="1.2.3"))
    with pytest.raises(
        EngineMismatch, match=r"onnxruntime 1\.2\.3, here is .*rebuild it: .* --precision int8 .*--calib "
    ):
        open_engine(copy)
    here = backend("onnxruntime").version()
    edit(copy, lambda values: values.update(backend_version=".".join([*here.split(".")[:2], "999"])))
    open_engine(copy).close()  # a patch release is the same


def test_int8_for_another_instruction_set_is_a_mismatch(
    int8_engine: Path, fp32_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.device.cpu_device", lambda: Device("another", instruction_set="neon"))
    built = read_manifest(int8_engine).device.instruction_set
    with pytest.raises(EngineMismatch, match=f"INT8 for a CPU with {built}, this one has neon; rebuild it"):
        open_engine(int8_engine)
    open_engine(fp32_engine).close()  # FP32 runs anywhere


def test_a_missing_folder_and_a_folder_that_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        open_engine(tmp_path / "engine")
    with pytest.raises(EngineError, match=r"holds no engine\.json"):
        open_engine(tmp_path)


def test_the_manifest_returns_from_json(int8_engine: Path) -> None:
    manifest = read_manifest(int8_engine)
    assert EngineManifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest


def test_an_unknown_backend_lists_the_known_ones(copy: Path) -> None:
    with pytest.raises(UsageError, match=r"'openvina'.*auto, onnxruntime, openvino, onnxruntime-cuda, tensorrt"):
        backend("openvina")
    edit(copy, lambda values: values.update(backend="openvina"))
    with pytest.raises((UsageError, EngineError), match="'openvina'"):
        open_engine(copy)


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_has_the_six_functions(name: str) -> None:
    module = backend(name)
    functions = ("missing", "version", "device", "mismatch", "build", "open")
    assert all(callable(getattr(module, function)) for function in functions)


@pytest.mark.skipif(not missing(), reason="TensorRT and a GPU are here")
def test_tensorrt_says_what_is_missing() -> None:
    with pytest.raises(BackendUnavailable, match=r"TensorRT needs .*; use --backend onnxruntime"):
        backend("tensorrt").version()


@pytest.mark.parametrize("threads", [0, -3, 9999])
def test_threads_beyond_the_machine_are_refused(fp32_engine: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=rf"threads is {threads}, expected 1 to \d+"):
        open_engine(fp32_engine, threads)


def test_a_manifest_that_names_no_model_is_refused(copy: Path) -> None:
    edit(copy, lambda m: m.update(files={}))
    with pytest.raises(EngineError, match="names no model file"):
        open_engine(copy)


def test_the_command_that_rebuilds_is_one_that_a_shell_takes(int8_engine: Path) -> None:
    words = shlex.split(engines.rebuild_command(Path("my engine"), read_manifest(int8_engine)).partition(": ")[2])
    assert words[:2] == ["ssmt-edge", "build-engine"] and "my engine" in words
    assert words[words.index("--precision") + 1] == "int8" and "--calib" in words and "--max-dice-drop" in words


@pytest.mark.parametrize(
    "options",
    [
        BuildOptions("fp32", "onnxruntime"),
        BuildOptions(
            "int8", "tensorrt", Path("my frames"), 64, 0.01, calib_method="entropy", sensitivity=True,
            tensorrt=TensorRtOptions(
                (1, 2, 8), 512, Path("timings"), 0, version_compatible=True, hardware_compatible=True,
                tactic_sources=(), dla=0,
            ),
        ),
        BuildOptions("fp16", "tensorrt", tensorrt=TensorRtOptions(tactic_sources=("cublas", "jit-convolutions"))),
    ],
)  # fmt: skip
def test_the_command_that_rebuilds_asks_for_the_same(
    cli: Cli, int8_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: BuildOptions
) -> None:
    manifest = replace(
        read_manifest(int8_engine),
        precision=options.precision,
        backend=options.backend,
        options=options.recorded(Path("net.onnx")),
    )
    manifest = EngineManifest.from_dict(json.loads(json.dumps(manifest.to_dict())))  # as it is read from its file
    asked: list[Any] = []
    monkeypatch.setattr("engines.build.build_engine", lambda *given: asked.append(given) or manifest)
    words = shlex.split(engines.rebuild_command(tmp_path / "e", manifest).partition(": ")[2])
    answer = cli(*words[1:])
    assert answer.code == 0, answer.err
    source, out, found, *_ = asked[0]
    assert (source, out, found) == (Path("net.onnx"), tmp_path / "e", options)
