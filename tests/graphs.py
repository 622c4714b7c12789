"""Small ONNX graphs with the contract's input and outputs, and engine folders of them, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from fakes import SPEC
from onnx import TensorProto, helper, numpy_helper

from engines import MANIFEST_FILE, onnxruntime_cpu
from ssmt_edge.files import sha256, write_json
from ssmt_edge.spec import EngineManifest, Precision


def small_graph(path: Path, bias: float = 0.0) -> Path:
    """A convolution, on 64 x 64 frames."""
    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w", "b"], ["logit"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["logit"], ["p"]),
        helper.make_node("Mul", ["p", "full"], ["p255"]),
        helper.make_node("Cast", ["p255"], ["nodule"], to=TensorProto.UINT8),
    ]
    weights = {
        "scale": np.float32(1 / 64),
        "w": np.random.default_rng(0).standard_normal((1, 1, 3, 3)).astype(np.float32),
        "b": np.array([bias], np.float32),
        "full": np.float32(255),
    }
    sizes: list[str | int | None] = ["N", 1, SPEC.input_size, SPEC.input_size]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, sizes)],
        [helper.make_tensor_value_info("nodule", TensorProto.UINT8, sizes)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def small_manifest(precision: Precision = "fp32", checkpoint: str = "a" * 64, digest: str = "") -> EngineManifest:
    """Of an engine folder whose `model.onnx` is such a graph, for this machine."""
    return EngineManifest(
        SPEC, precision, "onnxruntime", onnxruntime_cpu.version(), onnxruntime_cpu.device(), "0.1.0", ("nodule",), 1,
        {"model.onnx": digest}, checkpoint, parameters=10, gmac=0.25, gflops=0.5,
    )  # fmt: skip


def small_engine(folder: Path, precision: Precision = "fp32", checkpoint: str = "a" * 64, bias: float = 0.0) -> Path:
    """Writes an engine folder that opens, whatever its precision is said to be."""
    folder.mkdir()
    digest = sha256(small_graph(folder / "model.onnx", bias))
    write_json(folder / MANIFEST_FILE, small_manifest(precision, checkpoint, digest).to_dict())
    return folder
