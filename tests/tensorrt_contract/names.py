"""The names of TensorRT that our source uses, from its syntax tree, held against the surface of a version."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surface import CLASSES, SEVERITIES, Surface

# what our code calls its TensorRT objects; `self._x` counts as `x`. A variable of another name escapes the static check
# not the recorder
VARIABLES = {
    "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition", "parser": "OnnxParser",
    "flaw": "ParserError", "layer": "ILayer", "tensor": "ITensor", "profile": "IOptimizationProfile",
    "cache": "ITimingCache", "runtime": "Runtime", "engine": "ICudaEngine", "context": "IExecutionContext",
}  # fmt: skip
# only run where there are flags for precision: up to 10
OLD_FILE = "typing85.py"


@dataclass(frozen=True)
class Use:
    owner: str
    """class or enum"""
    name: str
    keywords: tuple[str, ...]
    place: str
    asked: frozenset[str]
    """names that the same function asks for with hasattr; a file for old versions asks for all of its own"""


def uses(folder: Path, surface: Surface) -> list[Use]:
    """Every use in the files of a folder. The types of chained calls come from the surface."""
    return [use for file in sorted(folder.glob("*.py")) for use in _of_file(file, surface)]


def _of_file(file: Path, surface: Surface) -> Iterator[Use]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in tree.body:
        asked = {"FP16"} if file.name == OLD_FILE else set()
        asked |= {
            call.args[1].value
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "hasattr"
            and isinstance(call.args[1], ast.Constant)
        }  # fmt: skip
        calls = {id(c.func): c for c in ast.walk(function) if isinstance(c, ast.Call)}
        for node in ast.walk(function):
            if not isinstance(node, ast.Attribute):
                continue
            owner = owner_of(node.value, surface)
            if owner is None:
                continue
            call = calls.get(id(node))
            keywords = tuple(k.arg for k in call.keywords if k.arg) if call else ()
            yield Use(owner, node.attr, keywords, f"{file.name}:{node.lineno}", frozenset(asked))


def owner_of(node: ast.expr, surface: Surface) -> str | None:
    """The class or enum whose member an attribute of `node` is; None if it is not TensorRT's."""
    match node:
        case ast.Name(id="trt"):
            return "module"
        case ast.Name(id=name):
            return VARIABLES.get(name)
        case ast.Attribute(value=ast.Name(id="trt"), attr=name):
            return name
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id="trt"), attr="ILogger"), attr="Severity"):
            return "Severity"
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return VARIABLES.get(name.lstrip("_"))
        case ast.Call(func=ast.Attribute(value=value, attr=method)):
            owner = owner_of(value, surface)
            signatures = surface["classes"].get(owner, {}).get(method) if owner else None
            result = signatures[0][1] if isinstance(signatures, list) and signatures else None
            return result if result in CLASSES else None
    return None


def problems(found: list[Use], surface: Surface) -> list[str]:
    """One line for every use that this version does not have, though our code does not ask for it before."""
    lines = []
    for use in found:
        if not _known(use, surface) and not _turned_away(use, surface):
            lines.append(f"{use.place}: TensorRT {surface['version']} has no {use.owner}.{use.name}")
        signatures = surface["classes"].get(use.owner, {}).get(use.name)
        if isinstance(signatures, list) and not any(set(use.keywords) <= {p[0] for p in s[0]} for s in signatures):
            lines.append(f"{use.place}: {use.owner}.{use.name} does not take {', '.join(use.keywords)}")
    return lines


def absent(found: list[Use], surface: Surface) -> list[str]:
    """Names that this version lacks, all of them behind a `hasattr`: another version must have them."""
    return sorted({f"{use.owner}.{use.name}" for use in found if not _known(use, surface)})


def _known(use: Use, surface: Surface) -> bool:
    classes, enums = surface["classes"], surface["enums"]
    if use.owner == "module":
        return use.name in {*classes, *enums, "__version__"}
    if use.owner == "Severity":
        return use.name in SEVERITIES
    if use.owner in enums:
        return use.name in {*enums[use.owner], "__members__"}
    return use.name in {*classes.get(use.owner, {})} | ({"Severity", "__init__"} if use.owner == "ILogger" else set())


def _turned_away(use: Use, surface: Surface) -> bool:
    """Whether a function asks for something that this version lacks, so that it goes another way."""
    everything = {*surface["classes"], *surface["enums"]}
    for members in (*surface["classes"].values(), *surface["enums"].values()):
        everything |= set(members)
    return bool(use.asked - everything) or f"{use.name}_v2" in use.asked & everything
