"""Where in a graph a node stands: at the frame, or at the end. Both places keep higher precision."""

from __future__ import annotations

import onnx

from engines.tensors import Links

# between a head and an output: resizing, the sigmoid and what makes bytes of it
_BEHIND_A_HEAD = {"Resize", "Sigmoid", "Mul", "Add", "Cast", "Reshape", "Squeeze", "Gather", "Slice"}
LAYERS = ("Conv", "Gemm", "MatMul")
_BEFORE_A_STEM = {"Cast", "Sub", "Mul"}


def stems(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes that see the frame itself: its own arithmetic, and the first layers.

    First layers are cheap, and an error there grows through all others.
    """
    frame = {model.graph.input[0].name}
    found = set()
    for node in model.graph.node:
        if frame & set(node.input):
            found.add(node.name)
            if node.op_type in _BEFORE_A_STEM:
                frame.update(node.output)
    return found


def heads(model: onnx.ModelProto) -> set[str]:
    """Names of the nodes from which only resizing, sigmoid, scaling and casts lead to an output, and of these.

    The last layer of every task, and all behind it.
    """
    links = Links(model)
    found: set[str] = set()
    passing: set[str] = set()
    for node in reversed(model.graph.node):  # in a sorted graph users come behind their makers
        onward = [user for name in node.output for user in links.readers.get(name, ()) if user.op_type != "Shape"]
        ends = any(name in links.outputs for name in node.output)
        if (ends or onward) and all(user.name in passing for user in onward):
            found.add(node.name)
            if node.op_type in _BEHIND_A_HEAD:
                passing.add(node.name)
    return found
