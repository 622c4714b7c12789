"""Precision, ONNX to ONNX: the INT8 graph for the CPU, from the FP32 graph and measured ranges."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from engines.calibrate import Calibration
from engines.graph import Graph
from ssmt_edge.errors import CalibrationError

# Convolutions and linear layers carry the arithmetic. Relu belongs to its convolution: the range that counts is the one
# behind it, without the negative half. Concat and Resize only move bytes: quantised, they spare a conversion to float
# and back between two convolutions. First and last layers, residual adds, softmax, normalisation and the products of
# attention keep float.
QUANTISED = ("Conv", "Gemm", "Relu", "Concat", "Resize", "MaxPool")


def quantise_for_cpu(graph: Graph, calibration: Calibration, instruction_set: str) -> onnx.ModelProto:
    """The INT8 graph with Q/DQ pairs that ONNX Runtime's CPU kernels run fastest and without saturation.

    Activations are unsigned, weights signed and per channel. Without VNNI, AVX2 adds two 8-bit products in 16 bits,
    which saturates unless weights keep to 7 bits (`reduce_range`).

    Args:
        instruction_set: `vnni`, `avx2` or `neon`, see `engines.device`.

    Raises:
        CalibrationError: the ranges do not cover the graph's tensors.
    """
    model = onnx.shape_inference.infer_shapes(graph.model)
    chosen = [
        n
        for n in model.graph.node
        if n.op_type in QUANTISED and not (_reads_frame(n, model) or _ends_in_output(n, model))
    ]
    needed = {t for n in chosen if n.op_type in ("Conv", "Gemm") for t in (n.input[0], n.output[0])}
    inner = needed - {model.graph.input[0].name}
    if lacking := sorted(inner - set(calibration.ranges)):
        raise CalibrationError(
            f"the calibration has no range for {len(lacking)} tensors of the graph (first: {lacking[0]}); it was made "
            "for another export; calibrate on frames again"
        )
    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in calibration.ranges.items()
    }
    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=instruction_set == "avx2",
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
        nodes_to_quantize=[n.name for n in chosen],
        nodes_to_exclude=[],
        op_types_to_quantize=list(QUANTISED),
        extra_options={"ActivationSymmetric": False},
    )
    with _quiet():
        quantiser.quantize_model()
    quantised: onnx.ModelProto = quantiser.model.model
    return quantised


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizer's remarks on the root logger back, and the logger as the application has set it."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _reads_frame(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a layer sees the frame itself. First layers are cheap, and an error there grows through all others."""
    makers = {output: n for n in model.graph.node for output in n.output}
    source = makers.get(node.input[0])
    while source is not None and source.op_type in {"Cast", "Sub", "Mul"}:
        node, source = source, makers.get(source.input[0])
    return source is None and node.input[0] == model.graph.input[0].name


def _ends_in_output(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    """Whether a layer is a head: followed only by resizing, sigmoid, scaling and casts up to an output."""
    passing = {"Resize", "Sigmoid", "Mul", "Add", "Cast", "Reshape", "Squeeze", "Gather", "Slice"}
    outputs = {o.name for o in model.graph.output}
    frontier, steps = list(node.output), 0
    while frontier and steps < 32:
        name = frontier.pop()
        steps += 1
        if name in outputs:
            continue
        for user in (n for n in model.graph.node if name in n.input):
            if user.op_type == "Shape":  # asks for the size only
                continue
            if user.op_type not in passing:
                return False
            frontier.extend(user.output)
    return True
