"""TensorRT: builder and runtime arrive with their own release; here is what this machine lacks for it."""

from __future__ import annotations

import importlib.util
import shutil
from typing import NoReturn

from ssmt_edge.errors import BackendUnavailable


def missing() -> list[str]:
    """What TensorRT needs and this machine lacks, with how to get it; empty if nothing."""
    lacks = []
    if importlib.util.find_spec("tensorrt") is None:
        lacks.append("the Python package tensorrt (pip install 'ssmt-edge[tensorrt]'; on a Jetson part of JetPack)")
    if shutil.which("nvidia-smi") is None and shutil.which("tegrastats") is None:
        lacks.append("an NVIDIA GPU with its driver")
    return lacks


def version() -> NoReturn:
    _refuse()


def device() -> NoReturn:
    _refuse()


def build(*_: object) -> NoReturn:
    _refuse()


def open(*_: object) -> NoReturn:
    _refuse()


def _refuse() -> NoReturn:
    lacks = missing()
    if lacks:
        raise BackendUnavailable(f"TensorRT needs {' and '.join(lacks)}; use --backend onnxruntime until then")
    raise BackendUnavailable("this version of ssmt-edge does not build TensorRT engines yet; use --backend onnxruntime")
