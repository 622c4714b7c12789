"""The optional halves of ssmt-edge: `trainer`, `engines` and `benchmarks` are imported late, through `needs`.

Those top-level names also exist on package indexes, so a foreign package in the way is told apart from ours, and an
extra that is not installed from a bug.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssmt_edge.errors import MissingDependency

# what a missing module says about the extra to install
EXTRAS = {
    "torch": "train",
    "lightning": "train",
    "monai": "train",
    "transformers": "train",
    "safetensors": "train",
    "onnx": "export",
    "onnxsim": "export",
    "onnxscript": "train",
    "yaml": "train",
    "tensorboard": "tensorboard",
    "matplotlib": "plots",
    "openvino": "openvino",
    "pyigtl": "igtl",
    "fastapi": "view",
    "starlette": "view",
    "uvicorn": "view",
    "websockets": "view",
    "highdicom": "seg",
    "gdcm": "dicom",
    "tensorrt": "tensorrt",
    "pycuda": "tensorrt",
    "cuda": "tensorrt",
}
DISTRIBUTIONS = {"yaml": "pyyaml", "cuda": "cuda-bindings", "gdcm": "python-gdcm"}
"""names on the package index, where they differ from the import's"""


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Guards `from PACKAGE import ...` in a handler: one MissingDependency line instead of an ImportError.

    Args:
        package: `trainer`, `engines` or `benchmarks`.
    """
    found = importlib.util.find_spec(package)
    home = Path(__file__).resolve().parent.parent
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin is None or origin.parent.parent != home:
        where = origin or "nowhere"
        raise MissingDependency(
            f"the package {package!r} found at {where} is not the one of ssmt-edge in {home}; uninstall the foreign "
            f"package, or install ssmt-edge again"
        )
    try:
        yield
    except ModuleNotFoundError as error:
        raise extra_of(error) from None


def extra_of(error: ModuleNotFoundError) -> MissingDependency:
    """The line that names the extra of a module which is not installed; raises `error` itself for any other module."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        raise error
    extra = EXTRAS[module]
    return MissingDependency(
        f"{module} is not installed; it comes with the extra {extra!r}: pip install 'ssmt-edge[{extra}]'"
    )
