"""The entry of a Triton model repository: what it says, what it serves, and what it does not overwrite."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import tree

onnxruntime = pytest.importorskip("onnxruntime")

from engines import open_engine, read_manifest  # noqa: E402
from engines.device import physical_cores  # noqa: E402
from engines.parity import phantom_frames  # noqa: E402
from engines.triton import write_triton  # noqa: E402
from ssmt_edge.errors import EngineError, UsageError  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402

BACKENDS = ("onnxruntime", "openvino", "onnxruntime-cuda", "tensorrt")


@pytest.fixture
def engine(fp32_engine: Path, tmp_path: Path) -> Any:
    """Makes an engine folder that says it is of a backend; what a plan holds does not matter here."""

    def make(backend: str) -> Path:
        folder = Path(shutil.copytree(fp32_engine, tmp_path / f"engine-{backend}"))
        values = json.loads((folder / "engine.json").read_text()) | {"backend": backend}
        if backend == "tensorrt":
            (folder / "model.onnx").rename(folder / "model.plan")
            values["files"]["model.plan"] = values["files"].pop("model.onnx")
        (folder / "engine.json").write_text(json.dumps(values))
        return folder

    return make


def config(entry: Path) -> str:
    return (entry / "config.pbtxt").read_text()


def parameters(text: str) -> dict[str, str]:
    found = re.findall(r'^parameters \{ key: (".*?") value: \{ string_value: (".*") \} \}$', text, re.MULTILINE)
    return {json.loads(key): json.loads(value) for key, value in found}


def test_the_served_file_is_the_engine_s_and_gives_the_same_bytes(int8_engine: Path, tmp_path: Path) -> None:
    entry = write_triton(int8_engine, tmp_path / "models", "thyroid")
    assert entry == tmp_path / "models" / "thyroid"
    served = entry / "1" / "model.onnx"
    assert sorted(tree(tmp_path / "models")) == ["thyroid", "thyroid/1", "thyroid/1/model.onnx", "thyroid/config.pbtxt"]
    assert sha256(served) == sha256(int8_engine / "model.onnx") == parameters(config(entry))["ssmt_edge.model_sha256"]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(served), options, providers=["CPUExecutionProvider"])
    with open_engine(int8_engine, threads=1) as engine:
        frames = phantom_frames(engine.spec, 3, seed=31)
        for name, value in zip(
            [o.name for o in session.get_outputs()], session.run(None, {"frame": frames}), strict=True
        ):
            assert value.tobytes() == engine.infer(frames)[name].tobytes()


def test_the_configuration_says_what_the_model_takes_and_gives(fp32_engine: Path, tmp_path: Path) -> None:
    text = config(write_triton(fp32_engine, tmp_path, "thyroid-fp32"))
    for line in (
        'name: "thyroid-fp32"',
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        "max_batch_size: 4",
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        'input [ { name: "frame" data_type: TYPE_UINT8 dims: [ 1, 64, 64 ] } ]',
        '  { name: "nodule" data_type: TYPE_UINT8 dims: [ 1, 64, 64 ] },',
        '  { name: "size" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } }',
    ):
        assert line in text.splitlines()
    manifest = read_manifest(fp32_engine)
    given = parameters(text)
    assert given["intra_op_thread_count"] == str(physical_cores())
    assert ModelSpec.from_json(given["ssmt_edge.spec"]) == manifest.spec
    assert (given["ssmt_edge.precision"], given["ssmt_edge.checkpoint_sha256"]) == ("fp32", manifest.checkpoint_sha256)


def test_openvino_gets_one_frame_of_fixed_shape(engine: Any, tmp_path: Path) -> None:
    text = config(write_triton(engine("openvino"), tmp_path / "models", "m"))
    assert "max_batch_size: 0" in text and "dynamic_batching" not in text and "reshape" not in text
    assert 'name: "frame" data_type: TYPE_UINT8 dims: [ 1, 1, 64, 64 ]' in text
    assert parameters(text)["RESHAPE_IO_LAYERS"] == "YES"


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime-cuda"])
def test_engines_of_a_gpu_are_served_on_one(engine: Any, tmp_path: Path, backend: str) -> None:
    entry = write_triton(engine(backend), tmp_path / "models", "m")
    text, served = config(entry), "model.plan" if backend == "tensorrt" else "model.onnx"
    assert [p.name for p in (entry / "1").iterdir()] == [served] and f'default_model_filename: "{served}"' in text
    assert "kind: KIND_GPU" in text and "thread_count" not in text
    assert ('platform: "tensorrt_plan"' in text, 'key: "use_tf32" value: "0"' in text) == (
        backend == "tensorrt",
        backend != "tensorrt",
    )


def test_our_entry_is_replaced_and_no_other(fp32_engine: Path, int8_engine: Path, tmp_path: Path) -> None:
    entry = write_triton(fp32_engine, tmp_path, "m")
    write_triton(int8_engine, tmp_path, "m")
    assert parameters(config(entry))["ssmt_edge.precision"] == "int8"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    (entry / "2").mkdir()  # a version that somebody added
    foreign = tmp_path / "foreign"
    (foreign / "1").mkdir(parents=True)
    (foreign / "config.pbtxt").write_text('name: "foreign"\n')
    (tmp_path / "file").write_text("")
    before = tree(tmp_path)
    for name in ("m", "foreign", "file"):
        with pytest.raises(UsageError, match=f"{name} exists and was not written by ssmt-edge alone"):
            write_triton(fp32_engine, tmp_path, name)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "näme", 'a"b'])
def test_names_that_triton_cannot_have_are_refused(fp32_engine: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a Triton model"):
        write_triton(fp32_engine, tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_damaged_engine_is_not_served(engine: Any, tmp_path: Path) -> None:
    folder = engine("onnxruntime")
    (folder / "model.onnx").write_bytes(b"changed")
    with pytest.raises(EngineError, match="SHA-256 differs"):
        write_triton(folder, tmp_path / "models", "m")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("backend", BACKENDS)
def test_triton_s_own_schema_reads_it(engine: Any, tmp_path: Path, backend: str) -> None:
    for module in ("grpc", "rapidjson"):  # without them tritonclient raises a RuntimeError
        pytest.importorskip(module, reason="tritonclient[grpc] is not installed")
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient[grpc] is not installed")
    from google.protobuf import text_format

    parsed = text_format.Parse(config(write_triton(engine(backend), tmp_path / "models", "m")), schema.ModelConfig())
    batched = backend != "openvino"
    assert (parsed.name, parsed.max_batch_size) == ("m", 4 if batched else 0)
    assert parsed.backend == backend.partition("-")[0]
    assert [(t.name, list(t.dims), t.data_type) for t in parsed.input] == [
        ("frame", [1, 64, 64] if batched else [1, 1, 64, 64], schema.TYPE_UINT8)
    ]
    nodule, size = parsed.output
    assert (nodule.name, list(nodule.dims), nodule.data_type) == (
        "nodule",
        list(parsed.input[0].dims),
        schema.TYPE_UINT8,
    )
    assert (size.name, list(size.dims), size.data_type) == ("size", [1], schema.TYPE_FP32)
    assert size.HasField("reshape") == batched and list(size.reshape.shape) == []
    (group,) = parsed.instance_group
    gpu = backend in ("tensorrt", "onnxruntime-cuda")
    assert (group.count, group.kind) == (
        1,
        schema.ModelInstanceGroup.KIND_GPU if gpu else schema.ModelInstanceGroup.KIND_CPU,
    )
    assert ModelSpec.from_json(parsed.parameters["ssmt_edge.spec"].string_value).input_size == 64
