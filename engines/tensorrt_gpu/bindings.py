"""What differs between TensorRT 8.5, 10 and 11, asked of the bindings themselves; and what TensorRT says."""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from ssmt_edge.errors import BackendUnavailable, EngineError, SsmtError, UsageError

_TOLD = 3
"""messages of TensorRT that an error repeats, the last ones"""


def bindings() -> Any:
    """The module `tensorrt`; BackendUnavailable where it cannot be imported."""
    if problem := unusable("tensorrt"):
        raise BackendUnavailable(
            f"TensorRT cannot be used: {problem}; install it with pip install 'ssmt-edge[tensorrt]'"
        )
    return importlib.import_module("tensorrt")


def unusable(module: str) -> str | None:
    """Why a module cannot be imported; None if it can."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        return "it is not installed" if error.name == module.partition(".")[0] else f"it lacks {error.name}"
    except Exception as error:  # a broken installation fails in any way: a missing library, a clash of versions
        return " ".join(f"it is broken: {error}".split())[:200]
    return None


def numbers(version: str) -> tuple[int, int, int, int]:
    """`10.13.3.9` or `8.5.3.1` as numbers, missing ones 0."""
    found = [int(part) for part in re.findall(r"\d+", version)][:4]
    major, minor, patch, build = (found + [0] * 4)[:4]
    return major, minor, patch, build


@cache
def logger() -> Any:
    """The one logger of this process: TensorRT keeps the first that it is given, whoever gives another later.

    It prints nothing; errors are kept until `said` takes them, warnings until `warned` does.
    """
    trt = bindings()

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: deque[str] = deque(maxlen=100)
            self.warnings: deque[str] = deque(maxlen=100)

        def log(self, severity: Any, msg: str) -> None:  # from any of TensorRT's threads
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.messages.append(msg)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(msg)

    return Logger()


def said() -> str:
    """TensorRT's last errors since the last call, as `: a; b`, or nothing."""
    messages = list(dict.fromkeys(logger().messages))
    logger().messages.clear()
    return ": " + "; ".join(messages[-_TOLD:]) if messages else ""


def warned() -> list[str]:
    """TensorRT's warnings since the last call, each once."""
    messages = list(dict.fromkeys(logger().warnings))
    logger().warnings.clear()
    return messages


@contextmanager
def told(doing: str, advice: str = "") -> Iterator[None]:
    """Turns whatever TensorRT, PyCUDA or CUDA raise in the block into one EngineError with TensorRT's own messages."""
    try:
        yield
    except SsmtError:
        raise
    except Exception as error:  # the bindings raise TypeError, RuntimeError or errors of PyCUDA's own
        raise EngineError(f"TensorRT failed while {doing}: {error}{said()}{advice and '; ' + advice}") from error


def is_typed(trt: Any) -> bool:
    """Whether networks can be strongly typed: from 10 on, and in 11 always."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def network_flags(trt: Any, typed: bool) -> int:
    """Flags for `create_network`; 8.5 needs the explicit batch, 11 does not know the word."""
    known = trt.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    if typed:
        flags |= 1 << int(known.STRONGLY_TYPED)
    return flags


def tactic_mask(trt: Any, names: tuple[str, ...]) -> int:
    """Bits for `set_tactic_sources`; UsageError names those that this version has."""
    mask = 0
    for name in names:
        member = getattr(trt.TacticSource, name.upper().replace("-", "_"), None)
        if member is None:
            known = ", ".join(sorted(m.lower().replace("_", "-") for m in trt.TacticSource.__members__))
            raise UsageError(f"TensorRT {trt.__version__} has no tactic source {name!r}; it has {known}")
        mask |= 1 << int(member)
    return mask


def set_level(trt: Any, config: Any, level: int) -> None:
    """Builder optimisation level, 0 to 5; UsageError before 8.6."""
    if not hasattr(config, "builder_optimization_level"):
        raise UsageError(f"TensorRT {trt.__version__} has no optimisation level; leave the option out")
    config.builder_optimization_level = level


def set_version_compatible(trt: Any, config: Any) -> None:
    """The plan also loads in later minor versions; UsageError before 8.6."""
    if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
        raise UsageError(f"TensorRT {trt.__version__} cannot build version-compatible engines; it takes 8.6 or later")
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def set_hardware_compatible(trt: Any, config: Any) -> None:
    """The plan also runs on other GPUs from Ampere on; UsageError before 8.6."""
    if not hasattr(config, "hardware_compatibility_level"):
        raise UsageError(f"TensorRT {trt.__version__} cannot build hardware-compatible engines; it takes 8.6 or later")
    config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def allow_host_code(runtime: Any) -> None:
    """Version-compatible plans hold code for the CPU, which has to be allowed; ours were checked by their digest."""
    if hasattr(runtime, "engine_host_code_allowed"):
        runtime.engine_host_code_allowed = True


def device_memory(engine: Any) -> int:
    """Bytes that one execution context needs on the GPU."""
    newer = hasattr(engine, "device_memory_size_v2")
    return int(engine.device_memory_size_v2 if newer else engine.device_memory_size)


def where(flaw: Any, nodes: tuple[str, ...]) -> str:
    """The name of the ONNX node that a parser error is about; 8.5 only knows its number."""
    if hasattr(flaw, "node_name") and flaw.node_name():
        return f"{flaw.node_operator()} {'/'.join([*flaw.local_function_stack(), flaw.node_name()])}"
    number = flaw.node()
    return nodes[number] if 0 <= number < len(nodes) else "graph"


def numpy_type(trt: Any, dtype: Any) -> np.dtype[Any]:
    """The NumPy type of a tensor at the engine's border (`trt.nptype` of 8.5 does not work with NumPy >= 1.24)."""
    known = {
        trt.DataType.UINT8: np.uint8,
        trt.DataType.FLOAT: np.float32,
        trt.DataType.HALF: np.float16,
        trt.DataType.INT8: np.int8,
        trt.DataType.INT32: np.int32,
        trt.DataType.BOOL: np.bool_,
    }
    if dtype not in known:
        raise EngineError(f"the plan has a tensor of type {dtype}, expected uint8 or float; build the engine again")
    return np.dtype(known[dtype])
