"""Thyroid ultrasound segmentation, from training to a verified engine on a live stream. Research use only.

engine = ssmt_edge.load("engine/")
result = engine(frame)                                   # one frame: mask, measurements, stage times
for result in ssmt_edge.stream(engine, "cine.dcm"): ...  # a video, a DICOM file or a folder of images
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from ssmt_edge.pipeline import stream
    from ssmt_edge.segment import Result, load

__all__ = ["Result", "__version__", "load", "stream"]

# imported when first asked for: they bring numpy and OpenCV along, which `ssmt-edge --help` must not wait for
_LAZY = {
    "load": "ssmt_edge.segment",
    "Result": "ssmt_edge.segment",
    "stream": "ssmt_edge.pipeline",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("ssmt-edge")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0.1.0"
