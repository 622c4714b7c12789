"""Precision, ONNX to ONNX: one FP32 graph, one set of measured ranges, one emission per target.

    emit_half(graph, calibration)                       half precision with FP32 islands, for GPUs
    quantise_for_cpu(graph, calibration, set)           INT8 as CPUs run it fastest and safely
    emit_for_tensorrt(graph, precision, ..., version)   any precision as that TensorRT takes it, rules checked

Which layers are INT8, and why these: `integer`. Which nodes keep FP32 in half precision: `half`.
"""

from __future__ import annotations

import onnx

from engines.graph import Graph
from engines.lower import lower
from engines.precision.half import islands, to_half
from engines.precision.integer import quantise_for_cpu, quantise_for_tensorrt
from engines.ranges import Calibration
from engines.rules import check_rules
from ssmt_edge.errors import CalibrationError
from ssmt_edge.spec import Precision

__all__ = ["emit_for_tensorrt", "emit_half", "quantise_for_cpu"]

TYPED = (10, 0)
"""first TensorRT with strongly typed networks; older: opset 17, FP32 scales, and FP32 beside INT8"""


def emit_half(graph: Graph, calibration: Calibration) -> onnx.ModelProto:
    """The FP16 graph: half precision but for the islands that `half.islands` names."""
    return to_half(graph.model, islands(graph.model, calibration.ranges))


def emit_for_tensorrt(
    graph: Graph, precision: Precision, calibration: Calibration | None, version: tuple[int, int]
) -> onnx.ModelProto:
    """The graph as a TensorRT of this version takes it: typed, lowered where it is old, and checked against its rules.

    Args:
        calibration: needed for fp16 (where values grow large) and int8; fp32 ignores it.
        version: major and minor.

    Raises:
        CalibrationError: ranges are missing or belong to another graph.
        ExportError: the emitted graph breaks a rule of this version.
    """
    model = graph.model
    if precision != "fp32":
        if calibration is None:
            raise CalibrationError(f"{precision} for TensorRT needs measured ranges; give frames of ultrasound")
        kept = islands(model, calibration.ranges)
        if precision == "int8":
            model = quantise_for_tensorrt(graph, calibration)
        if precision == "fp16" or version >= TYPED:
            model = to_half(model, kept)
    if version < TYPED:
        model = lower(model)
    check_rules(model, version)
    return model
