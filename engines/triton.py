"""An entry of a Triton Inference Server model repository that serves an engine's own file.

After Triton's documentation of model repository and model configuration, and its backends' README files. The client
crops and resizes frames as `ssmt_edge.spec.ModelSpec` says, which travels along as a parameter.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from engines import check_files, read_manifest
from engines.device import physical_cores
from ssmt_edge.errors import EngineError, UsageError
from ssmt_edge.files import replacing_folder
from ssmt_edge.spec import EngineManifest

CONFIG_FILE = "config.pbtxt"
VERSION = "1"
MARK = "# Written by ssmt-edge"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def write_triton(folder: Path, out: Path, name: str) -> Path:
    """Writes `OUT/NAME/config.pbtxt` and `OUT/NAME/1/model.onnx` (or `model.plan`), as a whole or not at all.

    Args:
        folder: engine folder.
        out: model repository; made if it does not exist.
        name: of the model in the repository. An entry of that name is replaced if `write_triton` wrote it.

    Returns:
        OUT/NAME.

    Raises:
        UsageError: a name that Triton cannot have, or an entry of that name that is not ours.
        EngineError: the engine folder is damaged.
    """
    check_entry(folder, out, name)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    file = "model.plan" if manifest.backend == "tensorrt" else "model.onnx"
    if file not in manifest.files:
        raise EngineError(f"{folder} holds no {file}, which an engine for {manifest.backend} has; build it again")
    entry = out / name
    with replacing_folder(entry) as part:
        (part / VERSION).mkdir()
        shutil.copyfile(folder / file, part / VERSION / file)
        (part / CONFIG_FILE).write_text(_config(manifest, name, file), encoding="ascii")
    return entry


def check_entry(folder: Path, out: Path, name: str) -> None:
    """UsageError where `write_triton` could not write the entry of an engine folder, told before the build."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a Triton model; expected letters, digits, '_', '-' and '.'")
    if (out / name).resolve() == folder.resolve() or out.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"the Triton repository {out} would lie in the engine {folder}, which a rebuild replaces")
    if (out / name).exists() and not _is_ours(out / name):
        raise UsageError(
            f"{out / name} exists and was not written by ssmt-edge alone; give another name or move it away"
        )


def _is_ours(entry: Path) -> bool:
    """Whether nothing would be lost: our mark, and no version or file that we never write."""
    config = entry / CONFIG_FILE
    if {path.name for path in entry.iterdir()} != {CONFIG_FILE, VERSION} if entry.is_dir() else True:
        return False
    return config.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def _config(manifest: EngineManifest, name: str, file: str) -> str:
    """The text of a ModelConfig message, https://github.com/triton-inference-server/common, model_config.proto."""
    return "\n".join(
        [
            f"{MARK} {manifest.product_version}: {manifest.spec.model}, {manifest.precision}.",
            f"name: {_quoted(name)}",
            *_platform(manifest, file),
            *_tensors(manifest),
            *_parameters(manifest, file),
            "",
        ]
    )


def _platform(manifest: EngineManifest, file: str) -> list[str]:
    """Which of Triton's backends runs the file, on what, and how requests are batched."""
    kind = "KIND_GPU" if manifest.backend in ("tensorrt", "onnxruntime-cuda") else "KIND_CPU"
    lines = [f"default_model_filename: {_quoted(file)}"]
    if manifest.backend == "tensorrt":
        lines += ['backend: "tensorrt"', 'platform: "tensorrt_plan"']
    elif manifest.backend == "openvino":
        # that backend takes no batch smaller than the largest: one frame a request, and fixed shapes, which are faster
        return [*lines, 'backend: "openvino"', "max_batch_size: 0", _instances(kind)]
    else:
        lines += ['backend: "onnxruntime"']
    if manifest.backend == "onnxruntime-cuda":
        lines += [
            "# TF32 keeps 10 bits of an FP32 product: other masks than the engine's",
            "optimization { execution_accelerators { gpu_execution_accelerator: [",
            '  { name: "cuda" parameters { key: "use_tf32" value: "0" } }',
            "] } }",
        ]
    return [
        *lines,
        f"max_batch_size: {manifest.max_batch}",
        _instances(kind),
        "# requests that wait anyway share a run; none waits for others, so that a single stream loses nothing",
        "dynamic_batching { max_queue_delay_microseconds: 0 }",
    ]


def _instances(kind: str) -> str:
    """One: two on a CPU, some backends' default, would fight for the same cores."""
    return f"instance_group [ {{ count: 1 kind: {kind} }} ]"


def _tensors(manifest: EngineManifest) -> list[str]:
    size = manifest.spec.input_size
    batched = manifest.backend != "openvino"
    dims = f"dims: [ 1, {size}, {size} ]" if batched else f"dims: [ 1, 1, {size}, {size} ]"
    plane = f"data_type: TYPE_UINT8 {dims}"
    # [N] is a shape of the batch alone, which Triton cannot name: clients see [N, 1]
    number = "data_type: TYPE_FP32 dims: [ 1 ]" + (" reshape: { shape: [ ] }" if batched else "")
    lines = [f'input [ {{ name: "frame" {plane} }} ]', "output ["]
    lines += [f"  {{ name: {_quoted(o)} {number if o == 'size' else plane} }}," for o in manifest.outputs]
    return [*lines[:-1], lines[-1].rstrip(","), "]"]


def _parameters(manifest: EngineManifest, file: str) -> list[str]:
    """What the backend is told, and what a client must know: the spec holds threshold, crop and resizing."""
    values: dict[str, str] = {}
    comments = []
    if manifest.backend in ("onnxruntime", "openvino"):
        comments = ["# threads: physical cores of the machine that wrote this; change it to what the server may use"]
    if manifest.backend == "onnxruntime":
        values |= {"intra_op_thread_count": str(physical_cores()), "inter_op_thread_count": "1"}
    if manifest.backend == "openvino":
        values |= {
            "INFERENCE_NUM_THREADS": str(physical_cores()),
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "RESHAPE_IO_LAYERS": "YES",
        }
    values |= {
        "ssmt_edge.spec": manifest.spec.to_json(),
        "ssmt_edge.precision": manifest.precision,
        "ssmt_edge.checkpoint_sha256": manifest.checkpoint_sha256,
        "ssmt_edge.model_sha256": manifest.files[file],
    }
    return comments + [
        f"parameters {{ key: {_quoted(key)} value: {{ string_value: {_quoted(value)} }} }}"
        for key, value in values.items()
    ]


def _quoted(text: str) -> str:
    """A string of protobuf's text format; JSON's escapes of ASCII are among those that it knows."""
    return json.dumps(text)
