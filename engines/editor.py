"""A graph while rules change it."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from engines.tensors import FreeNames, Links, infer_types

# shapes are compared at two batch sizes that no other axis has, which tells numbers from multiples of the batch
_BATCHES = (9973, 10007)


class Editor:
    """A graph with its links and shapes, and what the rules do to it."""

    def __init__(self, model: ModelProto) -> None:
        self.model, self.links = model, Links(model)
        self._types = [infer_types(model, batch) for batch in _BATCHES]
        self.names = FreeNames(model)

    @property
    def nodes(self) -> list[NodeProto]:
        return list(self.model.graph.node)

    def shapes(self, name: str) -> list[tuple[int, ...]] | None:
        """A tensor's shape at either batch size, None if any of it is unknown."""
        found = []
        for types in self._types:
            shape = types[name].shape if name in types else None
            sizes = tuple(d for d in shape or () if isinstance(d, int))
            if shape is None or len(sizes) < len(shape):
                return None
            found.append(sizes)
        return found

    def alike(self, one: str, other: str) -> bool:
        """Whether two tensors have one shape, whatever the batch."""
        shapes = self.shapes(one)
        return shapes is not None and shapes == self.shapes(other)

    def maker(self, name: str, *ops: str) -> NodeProto | None:
        """The node that makes a tensor, if it is one of these operators."""
        node = self.links.makers.get(name)
        return node if node is not None and node.op_type in ops else None

    def follower(self, name: str, *ops: str) -> NodeProto | None:
        """The node that alone reads a tensor, if it is one of these operators."""
        node = self.links.only_reader(name)
        return node if node is not None and node.op_type in ops else None

    def redirect(self, old: str, new: str) -> bool:
        """Lets all readers of a tensor read another one; not possible for an output of the graph."""
        if old in self.links.outputs:
            return False
        for node in self.links.readers.pop(old, []):
            for i, name in enumerate(node.input):
                if name == old:
                    node.input[i] = new
            self.links.readers[new].append(node)
        return True

    def constant(self, array: NDArray[Any], stem: str) -> str:
        """Adds an initialiser and returns its name."""
        name = self.names.take(stem)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def replace(self, node: NodeProto, *nodes: NodeProto) -> None:
        """Puts nodes where one was; the links know nothing of them."""
        place = next(i for i, n in enumerate(self.model.graph.node) if n.output[0] == node.output[0])
        del self.model.graph.node[place]
        for offset, new in enumerate(nodes):
            self.model.graph.node.insert(place + offset, new)


def measure_behind_casts(model: ModelProto) -> None:
    """Lets Shape nodes read the float copy of a uint8 input: TensorRT takes uint8 for nothing but a Cast."""
    links = Links(model)
    for value in model.graph.input:
        if value.type.tensor_type.elem_type != TensorProto.UINT8:
            continue
        casts = [n for n in links.readers[value.name] if n.op_type == "Cast"]
        shapes = [n for n in links.readers[value.name] if n.op_type == "Shape"]
        if casts and shapes:
            for node in shapes:
                node.input[0] = casts[0].output[0]
            nodes = [casts[0], *(n for n in model.graph.node if n.output[0] != casts[0].output[0])]
            del model.graph.node[:]
            model.graph.node.extend(nodes)


def drop_unread(model: ModelProto) -> None:
    """Removes initialisers that nobody reads."""
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [t for t in model.graph.initializer if t.name in read]
    if len(kept) < len(model.graph.initializer):
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def drop_dead(model: ModelProto) -> None:
    """Removes nodes of which nothing is read."""
    read = {o.name for o in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    kept.reverse()
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)
