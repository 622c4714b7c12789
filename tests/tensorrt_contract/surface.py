"""What a version of TensorRT offers, read from its own Python bindings: classes, members, signatures, enums.

`python surface.py` prints it as JSON. `surface_8_5.json` is what it printed, with Python 3.10, for the wheel tensorrt
8.5.3.1, which is too large (550 MB) for a test to fetch; of INetworkDefinition the methods that add layers are cut.
"""

from __future__ import annotations

import json
import re
import sys
from types import ModuleType
from typing import Any

CLASSES = (
    "Builder", "EngineInspector", "IBuilderConfig", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILayer",
    "ILogger", "INetworkDefinition", "IOptimizationProfile", "IProfiler", "IProgressMonitor", "ITensor",
    "ITimingCache", "OnnxParser", "ParserError", "Runtime",
)  # fmt: skip
ENUMS = (
    "BuilderFlag", "DataType", "DeviceType", "ErrorCode", "HardwareCompatibilityLevel", "LayerInformationFormat",
    "LayerType", "MemoryPoolType", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "TacticSource",
    "TensorIOMode",
)  # fmt: skip
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")

Surface = dict[str, Any]


def read(module: ModuleType) -> Surface:
    """{"version", "classes": {class: {member: "read" | "write" | [[parameters, result], ...]}}, "enums": {enum: [...]}}

    A parameter is [name, type, has a default]; `self` is left out.
    """
    found: Surface = {"version": module.__version__, "classes": {}, "enums": {}}
    for name in CLASSES:
        if (cls := getattr(module, name, None)) is not None:
            found["classes"][name] = {m: kind for m in dir(cls) if (kind := _member(m, getattr(cls, m)))}
    for name in ENUMS:
        if (enum := getattr(module, name, None)) is not None:
            found["enums"][name] = {member: int(value) for member, value in enum.__members__.items()}
    return found


def _member(name: str, value: Any) -> Any:
    if name.startswith("_") and name != "__init__":
        return None
    if isinstance(value, property):
        return "read" if value.fset is None else "write"
    lines = (value.__doc__ or "").splitlines()
    pattern = re.compile(rf"\s*(?:\d+\. )?({re.escape(name)}\(.*\) -> .*)")
    return [signature(match[1]) for line in lines if (match := pattern.match(line))]


def signature(text: str) -> list[Any]:
    """`f(self: A, x: int = 0) -> B` as [[["x", "int", True]], "B"]; types without their module."""
    inner, result = re.match(r"\w+\((.*)\) -> (.*)", text).groups()  # type: ignore[union-attr]
    parameters = []
    for part in _split(inner):
        declared, _, default = part.partition(" = ")
        name, _, kind = declared.partition(": ")
        if name != "self":
            parameters.append([name, _bare(kind), bool(default)])
    return [parameters, _bare(result)]


def _split(text: str) -> list[str]:
    """At the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([<") - (character in ")]>")
        if character == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [part for part in [*parts, text[start:].strip()] if part]


def _bare(kind: str) -> str:
    """`nvinfer1::IEngineInspector` and `tensorrt.tensorrt.EngineInspector` as the class that Python sees."""
    kind = re.sub(r"\b(tensorrt|tensorrt_bindings|typing|typing_extensions|collections\.abc)\.", "", kind)
    kind = re.sub(r"\b(tensorrt|tensorrt_bindings)\.", "", kind)
    kind = re.sub(r"(nvinfer1|nvonnxparser)::", "", kind)
    return {"IParserError": "ParserError", "IEngineInspector": "EngineInspector"}.get(kind, kind.strip())


if __name__ == "__main__":
    import tensorrt  # type: ignore[import-not-found, unused-ignore]

    json.dump(read(tensorrt), sys.stdout, indent=None, separators=(",", ":"))
