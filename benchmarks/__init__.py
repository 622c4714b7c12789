"""Measures engines on frames, compares them with peers in the same run, and writes the report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.bench import run_bench
    from benchmarks.report.files import check_writable, write_reports

__all__ = ["check_writable", "run_bench", "write_reports"]

# imported when first asked for: `benchmarks.gpu.worker` runs where streams and ONNX Runtime are not installed
_LAZY = {
    "check_writable": "benchmarks.report.files",
    "run_bench": "benchmarks.bench",
    "write_reports": "benchmarks.report.files",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
