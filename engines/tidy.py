"""Removes what PyTorch's exporter and onnxsim leave in a graph, without changing what it computes.

All of it is exact, but for the scale of attention, which moves into a weight and so rounds elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from engines.editor import Editor, drop_dead, drop_unread, measure_behind_casts
from engines.tensors import attribute, remove_attributes

_POINTWISE = {"Relu", "Gelu", "Sigmoid", "Tanh", "Erf"}


def tidy(model: ModelProto) -> ModelProto:
    """A graph of the same function with fewer nodes.

    - masks of attention that mask nothing, and the guards against rows in which all is masked
    - a transpose hidden between two reshapes, transposes of transposes
    - the square roots of attention's scale on queries and keys: one factor in the queries' weights
    - biases behind the split of a merged projection: into the projection
    - reshapes around a pointwise function
    - sizes computed at run time for a resizing by a whole factor
    - Shape of a uint8 input, which TensorRT does not take: Shape of its float copy

    Args:
        model: left as it is.
    """
    tidied = ModelProto()
    tidied.CopyFrom(model)
    measure_behind_casts(tidied)
    for rule in (
        _empty_masks, _nan_guards, _hidden_transposes, _double_transposes, _biases_behind_splits, _scales,
        _reshapes_around_functions, _computed_sizes,
    ):  # fmt: skip
        rule(Editor(tidied))
        drop_dead(tidied)
    drop_unread(tidied)
    del tidied.graph.value_info[:]
    return tidied


def _empty_masks(edit: Editor) -> None:
    """Where(true everywhere, 0, -max) added to attention's scores."""
    for node in edit.nodes:
        if node.op_type != "Where":
            continue
        expand = edit.maker(node.input[0], "Expand")
        condition = edit.links.constant(expand.input[0] if expand is not None else node.input[0])
        taken = None if condition is None else edit.links.constant(node.input[1])
        if condition is None or taken is None or not condition.all() or np.any(taken):
            continue
        for reader in list(edit.links.readers[node.output[0]]):
            if reader.op_type == "Add":
                other = reader.input[1] if reader.input[0] == node.output[0] else reader.input[0]
                if other != node.output[0] and edit.alike(other, reader.output[0]):
                    edit.redirect(reader.output[0], other)


def _nan_guards(edit: Editor) -> None:
    """Where(IsNaN(s), 0, s) behind a softmax of products: only a row of -inf makes NaN, and only a mask makes -inf."""
    for node in edit.nodes:
        guard = edit.maker(node.input[0], "IsNaN") if node.op_type == "Where" else None
        if guard is None or guard.input[0] != node.input[2]:
            continue
        softmax = edit.maker(node.input[2], "Softmax")
        if softmax is not None and _is_product(edit, softmax.input[0]):
            edit.redirect(node.output[0], node.input[2])


def _is_product(edit: Editor, name: str) -> bool:
    node = edit.maker(name, "MatMul", "Mul", "Div")
    if node is None or node.op_type == "MatMul":
        return node is not None
    factor = edit.links.constant(node.input[1])
    if factor is None or not np.all(np.isfinite(factor)) or not np.all(factor):
        return False
    return _is_product(edit, node.input[0])


def _hidden_transposes(edit: Editor) -> None:
    """[B, H, a, b] seen as [B H, a, b], transposed, seen as [B, H, b, a]."""
    for node in edit.nodes:
        middle = edit.maker(node.input[0], "Transpose") if node.op_type == "Reshape" else None
        first = edit.maker(middle.input[0], "Reshape") if middle is not None else None
        if middle is None or first is None or attribute(middle, "perm") != [0, 2, 1]:
            continue
        source, seen, result = (edit.shapes(n) for n in (first.input[0], first.output[0], node.output[0]))
        if source is None or seen is None or result is None or len(source[0]) < 3:
            continue
        if all(
            flat[1:] == whole[-2:] and turned == (*whole[:-2], whole[-1], whole[-2])
            for whole, flat, turned in zip(source, seen, result, strict=True)
        ):
            rank = len(source[0])
            perm = [*range(rank - 2), rank - 1, rank - 2]
            made = helper.make_node("Transpose", [first.input[0]], [node.output[0]], node.name, perm=perm)
            edit.replace(node, made)


def _double_transposes(edit: Editor) -> None:
    for node in edit.nodes:
        if node.op_type != "Transpose":
            continue
        perm = attribute(node, "perm")
        first = edit.maker(node.input[0], "Transpose")
        if perm is None or first is None or attribute(first, "perm") is None:
            continue
        perm = [attribute(first, "perm")[axis] for axis in perm]
        node.input[0] = first.input[0]
        remove_attributes(node, "perm")
        node.attribute.append(helper.make_attribute("perm", perm))
        if perm == sorted(perm):
            edit.redirect(node.output[0], node.input[0])


def _biases_behind_splits(edit: Editor) -> None:
    """MatMul, Split, an Add of a bias to each part: one Gemm, as onnxsim makes of any other MatMul with a bias."""
    for node in edit.nodes:
        if node.op_type != "MatMul" or (split := edit.follower(node.output[0], "Split")) is None:
            continue
        weight, shapes = edit.links.constant(node.input[1]), edit.shapes(node.output[0])
        if weight is None or weight.ndim != 2 or shapes is None or len(shapes[0]) < 3:
            continue
        adds = [add for part in split.output if (add := edit.follower(part, "Add")) is not None]
        biases = [value for add in adds if (value := _constant_input(edit, add)) is not None]
        widths = [(edit.shapes(part) or [()])[0][-1:] for part in split.output]
        if attribute(split, "axis", 0) not in (-1, len(shapes[0]) - 1) or [b.shape for b in biases] != widths:
            continue
        if any(add.output[0] in edit.links.outputs for add in adds):
            continue
        for add, part in zip(adds, split.output, strict=True):
            edit.redirect(add.output[0], part)
        name = node.name or node.output[0]
        bias = edit.constant(np.concatenate(biases), f"{name}/bias")
        flat = edit.constant(np.array([-1, weight.shape[0]], np.int64), f"{name}/flat")
        full = edit.constant(np.array([-1, *shapes[0][1:]], np.int64), f"{name}/full")
        rows, product = edit.names.take(f"{name}/rows"), edit.names.take(f"{name}/product")
        edit.replace(
            node,
            helper.make_node("Reshape", [node.input[0], flat], [rows], rows),
            helper.make_node("Gemm", [rows, node.input[1], bias], [product], name),
            helper.make_node("Reshape", [product, full], [node.output[0]], f"{name}/full"),
        )


def _constant_input(edit: Editor, node: NodeProto) -> NDArray[Any] | None:
    """The constant among a node's two inputs."""
    values = [edit.links.constant(name) for name in node.input[:2]]
    return values[0] if values[0] is not None else values[1]


def _scales(edit: Editor) -> None:
    """(c q)(c k) = (c^2 q) k, and c^2 q comes from c^2 times the weights and bias that make q."""
    for node in edit.nodes:
        if node.op_type != "MatMul" or not edit.follower(node.output[0], "Add", "Softmax"):
            continue
        factor, sides = 1.0, []
        for name in node.input:
            scale = edit.maker(name, "Mul")
            value = edit.links.constant(scale.input[1]) if scale is not None else None
            if scale is not None and value is not None and value.size == 1 and edit.links.only_reader(name) is node:
                factor *= float(value.item())
                sides.append((name, scale.input[0]))
        if sides and _scale_weights(edit, sides[0][1], factor):
            for scaled, plain in sides:
                edit.redirect(scaled, plain)


def _scale_weights(edit: Editor, name: str, factor: float) -> bool:
    """Multiplies a tensor through the weights and biases of the projection that makes it; False, with nothing done,
    where the way back to them is not plain."""
    part: slice | None = None  # of the projection's columns, behind a Split
    scaled: list[tuple[NodeProto, int, NDArray[Any]]] = []
    while (node := edit.links.makers.get(name)) is not None and edit.links.only_reader(name) is not None:
        before, after = edit.shapes(node.input[0]), edit.shapes(name)
        if before is None or after is None:
            return False
        if node.op_type == "Gemm" or (node.op_type == "MatMul" and edit.links.is_constant(node.input[1])):
            for i in range(1, len(node.input)):
                value = edit.links.constant(node.input[i])
                axis = 0 if i == 1 and attribute(node, "transB", 0) else -1
                if value is None or value.ndim == 0 or value.shape[axis] != after[0][-1]:
                    return False
                columns = np.ones(after[0][-1])
                columns[part or slice(None)] = factor
                shaped = columns[:, None] if axis == 0 else columns
                scaled.append((node, i, (value * shaped).astype(value.dtype)))
            for layer, i, value in scaled:
                layer.input[i] = edit.constant(value, f"{layer.input[i]}/scaled")
            return True
        place = 0
        if node.op_type == "Split" and part is None and attribute(node, "axis", 0) in (-1, len(before[0]) - 1):
            widths = [(edit.shapes(output) or [(0,)])[0][-1] for output in node.output]
            start = sum(widths[: list(node.output).index(name)])
            part = slice(start, start + after[0][-1])
        elif node.op_type == "Add" and part is None and (bias := _constant_input(edit, node)) is not None:
            place = 1 if edit.links.is_constant(node.input[0]) else 0
            scaled.append((node, 1 - place, (bias * np.float64(factor)).astype(bias.dtype)))
        elif node.op_type == "Reshape" and part is not None:
            if before[0][-1] != after[0][-1]:
                return False
        elif node.op_type not in ("Reshape", "Transpose") or part is not None:
            return False
        name = node.input[place]
    return False


def _reshapes_around_functions(edit: Editor) -> None:
    for node in edit.nodes:
        before = edit.maker(node.input[0], "Reshape") if node.op_type in _POINTWISE else None
        after = edit.follower(node.output[0], "Reshape")
        if before is None or after is None or edit.links.only_reader(before.output[0]) is None:
            continue
        if edit.alike(before.input[0], after.output[0]):
            node.input[0] = before.input[0]
            edit.redirect(after.output[0], node.output[0])


def _computed_sizes(edit: Editor) -> None:
    """A whole factor says the same as the sizes, and says it when the engine is built."""
    for node in edit.nodes:
        if node.op_type != "Resize" or len(node.input) < 4 or attribute(node, "axes") is not None:
            continue
        before, after = edit.shapes(node.input[0]), edit.shapes(node.output[0])
        if before is None or after is None:
            continue
        factors = [np.array(large) / np.array(small) for small, large in zip(before, after, strict=True)]
        if np.array_equal(*factors) and np.all(factors[0] == np.round(factors[0])):
            del node.input[2:]
            node.input.append(edit.constant(factors[0].astype(np.float32), f"{node.name or node.output[0]}/factors"))
