"""What a graph tells of its tensors: types and shapes, constants, and who makes and who reads them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

Dimension = int | str | None
# constants up to so many elements may be axes or sizes, which shape inference has to read
_SMALL = 1024


@dataclass(frozen=True)
class TensorType:
    dtype: int
    """of `onnx.TensorProto`"""
    shape: tuple[Dimension, ...] | None
    """each a number, a name, or None if unknown; None as a whole if not even the rank is known"""


class Links:
    """Who makes and who reads each tensor of a graph, and the constants; a picture of the moment it was made."""

    def __init__(self, model: ModelProto) -> None:
        self.makers: dict[str, NodeProto] = {o: n for n in model.graph.node for o in n.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)
        self.outputs = {o.name for o in model.graph.output}
        self._constants = {t.name: t for t in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and isinstance(value := attribute(node, "value"), TensorProto):
                self._constants[node.output[0]] = value

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a constant tensor, None if it is computed."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def is_constant(self, name: str) -> bool:
        return name in self._constants

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that alone reads a tensor, None if several do or it is an output of the graph."""
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


class FreeNames:
    """Names for new tensors that no other tensor has."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._taken = {name for node in graph.node for name in node.output}
        self._taken.update(t.name for t in (*graph.initializer, *graph.input))

    def take(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._taken:
            name, number = f"{stem}_{number}", number + 1
        self._taken.add(name)
        return name


def infer_types(model: ModelProto, batch: int | None = None, strict: bool = False) -> dict[str, TensorType]:
    """Type and shape of each tensor, by name.

    Args:
        batch: what to take for the inputs' first axis where it is symbolic; None leaves it so. With a number, the
            shapes that a Reshape hides behind a -1 are numbers, too.
        strict: raise where a node's types disagree, instead of knowing nothing of its outputs.

    Raises:
        onnx.shape_inference.InferenceError: with `strict`, inputs that do not fit a node's operator.
    """
    bare = _without_weights(model)
    if batch is not None:
        for value in bare.graph.input[: len(model.graph.input)]:
            if not value.type.tensor_type.shape.dim[0].HasField("dim_value"):
                value.type.tensor_type.shape.dim[0].dim_value = batch
        for value in bare.graph.output:
            value.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(bare, check_type=strict, strict_mode=strict, data_prop=True).graph
    types = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in model.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.elem_type == TensorProto.UNDEFINED:
            continue
        sizes = [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in tensor.shape.dim]
        types[value.name] = TensorType(tensor.elem_type, tuple(sizes) if tensor.HasField("shape") else None)
    return types


def annotated(model: ModelProto) -> ModelProto:
    """A copy that says type and shape of every inner tensor, as `onnx.shape_inference` finds them."""
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.value_info[:]
    made.graph.value_info.extend(shape_inference.infer_shapes(_without_weights(model)).graph.value_info)
    return made


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, text as str; `default` if it is not there."""
    for a in node.attribute:
        if a.name == name:
            value = helper.get_attribute_value(a)
            return value.decode() if isinstance(value, bytes) else value
    return default


def remove_attributes(node: NodeProto, *names: str) -> None:
    kept = [a for a in node.attribute if a.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def dtype_name(dtype: int) -> str:
    """A tensor type in numpy's words: float32 for FLOAT."""
    name = str(TensorProto.DataType.Name(dtype)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def label(node: NodeProto) -> str:
    """How messages call a node: its name, or its first output, and its operator."""
    return f"{node.name or node.output[0]} ({node.op_type})"


def _without_weights(model: ModelProto) -> ModelProto:
    """A copy whose large constants are inputs of the same type and shape: inference copies its model twice."""
    bare = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims, dtype=np.int64) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare
