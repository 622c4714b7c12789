"""Precision where networks are not strongly typed: TensorRT 8.5, and a DLA up to TensorRT 10.

The ONNX graph says of every tensor whether it is half or full precision. A strongly typed network takes that as it
stands; here the same is asked of every layer, and TensorRT is told to obey.
"""

from __future__ import annotations

from typing import Any

from ssmt_edge.spec import Precision


def constrain(trt: Any, network: Any, config: Any, precision: Precision) -> None:
    """Sets builder flags, and precision and output types of the layers, as the graph's own types say."""
    if precision == "fp32":
        return
    config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    kind = trt.LayerType
    # constants and shapes compute nothing; Q/DQ and casts carry their types themselves
    free = {kind.CONSTANT, kind.SHAPE, kind.QUANTIZE, kind.DEQUANTIZE, kind.IDENTITY}
    if hasattr(kind, "CAST"):
        free.add(kind.CAST)
    dequantised: set[str] = set()
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        if layer.type == kind.DEQUANTIZE:
            dequantised.update(tensor.name for tensor in outputs)
        if layer.type in free or _takes(layer, dequantised):
            continue
        floats = [
            (k, tensor.dtype)
            for k, tensor in enumerate(outputs)
            if tensor.dtype in (trt.DataType.FLOAT, trt.DataType.HALF) and tensor.is_execution_tensor
        ]
        if floats and layer.type != kind.CONCATENATION:  # which copies, and has no precision of its own
            layer.precision = floats[0][1]
        for k, dtype in floats:
            layer.set_output_type(k, dtype)


def _takes(layer: Any, names: set[str]) -> bool:
    """Whether a layer reads one of these: after a DQ it may run in INT8, which a precision of FP32 would forbid."""
    inputs = [layer.get_input(k) for k in range(layer.num_inputs)]
    return any(tensor is not None and tensor.name in names for tensor in inputs)
