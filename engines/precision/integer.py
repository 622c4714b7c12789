"""INT8 emissions: Q/DQ at convolutions and linear layers, from the FP32 graph and measured ranges.

Quantised are convolutions and products with constant weights: they carry the arithmetic. First layers and heads,
residual adds, softmax, normalisation, GELU and the products of attention keep higher precision: they cost little, and
quantised they cost accuracy (quantised residual adds alone ruin a ViT).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_infer_metadata

from engines.graph import Graph
from engines.precision.places import LAYERS, heads, stems
from engines.ranges import Calibration
from engines.tensors import Links, annotated
from ssmt_edge.errors import CalibrationError

# On a CPU, Relu belongs to its layer: the range that counts is the one behind it, without the negative half. Concat,
# Resize and MaxPool only move bytes: quantised, they spare a conversion to float and back between two convolutions.
MOVERS = ("Relu", "Concat", "Resize", "MaxPool")


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that INT8 may take, in the graph's order."""
    constants = {t.name for t in model.graph.initializer}
    ends = heads(model) | stems(model)
    return [n.name for n in model.graph.node if n.op_type in LAYERS and n.input[1] in constants and n.name not in ends]


def quantised_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors whose ranges an emission may use: around layers, and around what moves bytes for them."""
    layers = set(quantisable(model))
    makers = {name for node in model.graph.node for name in node.output}
    around = [n for n in model.graph.node if n.name in layers or n.op_type in MOVERS]
    return sorted({name for n in around for name in (n.input[0], *n.output) if name in makers})


def quantise_for_cpu(graph: Graph, calibration: Calibration, instruction_set: str) -> onnx.ModelProto:
    """The INT8 graph with Q/DQ pairs that CPU kernels run fastest and without saturation.

    Activations are unsigned, weights signed and per channel. Without VNNI, AVX2 adds two 8-bit products in 16 bits,
    which saturates unless weights keep to 7 bits (`reduce_range`).

    Args:
        instruction_set: `vnni`, `avx2` or `neon`, see `engines.device`.

    Raises:
        CalibrationError: the ranges do not cover the graph's tensors.
    """
    return _quantise(
        graph,
        calibration,
        _movers(graph.model, calibration.kept),
        reduce_range=instruction_set == "avx2",
        activations=QuantType.QUInt8,
        # a linear layer's output goes on to float operators: into INT8 and back would only cost
        options={"ActivationSymmetric": False, "OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )


def quantise_for_tensorrt(graph: Graph, calibration: Calibration) -> onnx.ModelProto:
    """The INT8 graph as TensorRT wants it: signed and symmetric, weights per channel behind Q/DQ of their own, Q/DQ at
    the inputs of layers only (TensorRT fuses a layer's output into the next Q by itself), float biases. FP32 elsewhere.

    Raises:
        CalibrationError: the ranges do not cover the graph's tensors.
    """
    return _quantise(
        graph,
        calibration,
        [],
        reduce_range=False,
        activations=QuantType.QInt8,
        options={
            "ActivationSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "DedicatedQDQPair": False,
            "OpTypesToExcludeOutputQuantization": list(LAYERS),
        },
    )


def _movers(model: onnx.ModelProto, kept: Collection[str]) -> list[str]:
    """Names of the nodes that move bytes on to a quantised layer, and of every Relu: it follows its own layer."""
    reached = set(quantisable(model)) - set(kept)
    wanted: set[str] = set()  # tensors that a quantised layer reads, maybe through other movers
    names = []
    for node in reversed(model.graph.node):
        if node.op_type in MOVERS and (node.op_type == "Relu" or wanted & set(node.output)):
            names.append(node.name)
        if node.name in reached or names[-1:] == [node.name]:
            wanted.add(node.input[0])
            if node.op_type == "Concat":
                wanted.update(node.input)
    return names[::-1]


def _quantise(
    graph: Graph,
    calibration: Calibration,
    movers: list[str],
    reduce_range: bool,
    activations: QuantType,
    options: dict[str, Any],
) -> onnx.ModelProto:
    ranges = calibration.chosen()
    may = quantisable(graph.model)
    if foreign := [name for name in calibration.kept if name not in may]:
        raise CalibrationError(
            f"the calibration keeps the layer {foreign[0]!r} out of INT8, which this graph does not have; it was made "
            "for another export; calibrate on frames again"
        )
    layers = [name for name in may if name not in calibration.kept]
    by_name = {n.name: n for n in graph.model.graph.node}
    needed = {t for name in layers for t in (by_name[name].input[0], by_name[name].output[0])}
    if lacking := sorted(needed - set(ranges)):
        raise CalibrationError(
            f"the calibration has no range for {len(lacking)} tensors of the graph (first: {lacking[0]}); it was made "
            "for another export; calibrate on frames again"
        )
    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    model = annotated(graph.model)
    _own_constants(model, set(layers))
    add_infer_metadata(model)  # or the quantizer writes the model to a file and infers shapes once more
    quantiser = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=activations,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[*layers, *movers],
        nodes_to_exclude=[],
        op_types_to_quantize=[*LAYERS, *MOVERS],
        extra_options=options,
    )
    with _quiet():
        quantiser.quantize_model()
    excluded = options["OpTypesToExcludeOutputQuantization"]
    rounding = {name for name in layers if by_name[name].op_type not in excluded} | set(movers)
    _spare_others(quantiser.model.model, {*layers, *movers}, rounding)
    quantiser.model.topological_sort()  # it appends its pairs at the end
    quantised: onnx.ModelProto = quantiser.model.model
    del quantised.metadata_props[:]
    return quantised


def _own_constants(model: onnx.ModelProto, layers: set[str]) -> None:
    """Gives every quantised layer weights of its own: the quantizer changes a tensor for all that read it, and a head
    may share its weights with an earlier layer."""
    constants = {t.name: t for t in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if node.name in layers and place > 0 and name in constants and readers[name] > 1:
                own = TensorProto()
                own.CopyFrom(constants[name])
                own.name = node.input[place] = f"{name}_of_{node.name}"
                model.graph.initializer.append(own)


def _spare_others(model: onnx.ModelProto, quantised: set[str], rounding: set[str]) -> None:
    """Lets nodes that are not quantised read the float tensor itself where one is made: the quantizer gives them the
    rounded one of the pair, too.

    Args:
        rounding: quantised nodes that make bytes: with the pair behind them they become one kernel, without a float
            tensor in between.
    """
    links = Links(model)
    original = {
        output: links.makers[node.input[0]].input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in links.makers
        for output in node.output
    }
    for node in model.graph.node:
        if node.name in quantised or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for place, name in enumerate(node.input):
            source = links.makers.get(original.get(name, ""))
            if source is None:
                continue
            feeder = links.makers.get(source.input[0])  # a Relu behind a float layer computes float
            floating = source.op_type == "Relu" and (feeder is None or feeder.op_type != "DequantizeLinear")
            if floating or source.name not in rounding:
                node.input[place] = original[name]


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
