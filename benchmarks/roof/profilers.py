"""The profilers of the libraries behind the engines, each asked for the time of every layer; see `layers.Profiler`."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.roof.layers import Timed
from engines import openvino_cpu
from engines.onnxruntime_cpu import MODEL_FILE, session_options
from engines.parity import Frames
from ssmt_edge.spec import EngineManifest

_INTEGERS = {"u8", "i8", "uint8", "int8"}
_RENAMED = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
"""operators of ONNX Runtime that leave the bytes where they are"""
_SHORTER = {"f16": "fp16", "float16": "fp16", "bf16": "bf16", "bfloat16": "bf16"}


def _precision(dtype: str) -> str:
    return "int8" if dtype in _INTEGERS else _SHORTER.get(dtype, "fp32")


def onnxruntime(
    folder: Path, manifest: EngineManifest, threads: int, frames: Frames, warm: int, runs: int
) -> tuple[list[Timed], float]:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as scratch:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(folder / MODEL_FILE), options, ["CPUExecutionProvider"])
        times = []
        for _ in range(warm + runs):
            start = perf_counter()
            session.run(None, {"frame": frames})
            times.append(1e3 * (perf_counter() - start))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["name"].removesuffix("_kernel_time"), event["args"]["node_index"]].append(event)
    timed = []
    for (name, _), seen in nodes.items():
        told = seen[-1]["args"]
        moved = told["op_name"] not in _RENAMED
        size, constants = (
            moved * sum(int(told[key]) for key in keys)
            for keys in (("activation_size", "output_size"), ("parameter_size",))
        )
        dtype = next((key for shape in told["input_type_shape"] for key in shape), "")
        ms = median(event["dur"] for event in seen[-runs:]) / 1e3
        timed.append(Timed(name, told["op_name"], _precision(dtype), ms, (name,), size, constants))
    return timed, median(times[warm:])


def openvino(
    folder: Path, manifest: EngineManifest, threads: int, frames: Frames, warm: int, runs: int
) -> tuple[list[Timed], float]:
    with openvino_cpu.open_model(folder / MODEL_FILE, manifest.spec, manifest.max_batch, threads) as engine:
        request = engine.time_layers()
        seen: dict[str, list[float]] = defaultdict(list)
        times = []
        for i in range(warm + runs):
            start = perf_counter()
            engine.infer(frames)
            times.append(1e3 * (perf_counter() - start))
            for layer in request.get_profiling_info() if i >= warm else ():
                if str(layer.status).endswith(".EXECUTED"):
                    seen[layer.node_name].append(1e3 * layer.real_time.total_seconds())
        nodes = request.get_compiled_model().get_runtime_model().get_ordered_ops()
        timed = []
        for node in nodes:
            name = node.get_friendly_name()
            if name not in seen:
                continue
            told = node.get_rt_info()
            origins = tuple(filter(None, _text(told, "originalLayersNames").split(",")))
            size = sum(_size(port) for port in (*node.outputs(), *node.inputs()))
            constants = sum(_size(port) for port in node.inputs() if _constant(port))
            op, precision = _text(told, "layerType"), _precision(_text(told, "runtimePrecision"))
            ms = median(seen[name])
            timed.append(Timed(name, op, precision, ms, (*origins, name), size - constants, constants))
    return timed, median(times[warm:])


def _text(told: Any, key: str) -> str:
    if key not in told:
        return ""
    return str(getattr(told[key], "value", told[key]))


def _size(port: Any) -> int:
    return int(prod(port.get_shape())) * int(port.get_element_type().size)


def _constant(port: Any) -> bool:
    maker = port.get_source_output().get_node()
    return _text(maker.get_rt_info(), "layerType") == "Const"


def tensorrt(
    folder: Path, manifest: EngineManifest, threads: int, frames: Frames, warm: int, runs: int
) -> tuple[list[Timed], float]:
    from engines import tensorrt_gpu
    from engines.tensorrt_gpu.layer_times import layer_times

    with tensorrt_gpu.open(folder, manifest) as engine:
        seen, whole = layer_times(engine, frames, warm, runs)
    inspected = {layer["Name"]: layer for layer in _inspected(folder)}
    timed = []
    for name, times in seen.items():
        told = inspected.get(name, {})
        origins = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(told.get("Metadata", ""))) or name.split(" + ")
        formats = [str(tensor.get("Format/Datatype", "")) for tensor in told.get("Inputs", [])]
        precision = "int8" if any("Int8" in text for text in formats[:1]) else _format(formats, manifest)
        op = str(told.get("LayerType", "layer"))
        timed.append(Timed(name, op, precision, median(times), tuple(origins), None))
    return timed, median(whole)


def _format(formats: list[str], manifest: EngineManifest) -> str:
    if any("FP32" in text or "Float" in text for text in formats[:1]):
        return "fp32"
    return "fp32" if manifest.precision == "fp32" else "fp16"


def _inspected(folder: Path) -> list[dict[str, Any]]:
    """The layers of `layers.json` that are told in detail, not by name alone."""
    try:
        layers = json.loads((folder / "layers.json").read_text(encoding="utf-8")).get("Layers", [])
    except (OSError, ValueError):
        return []
    return [layer for layer in layers if isinstance(layer, dict) and "Name" in layer]
