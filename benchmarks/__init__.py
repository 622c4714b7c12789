"""Measures engines on frames, compares them with peers in the same run, and writes the report."""

from benchmarks.bench import run_bench
from benchmarks.report import check_writable, write_reports

__all__ = ["check_writable", "run_bench", "write_reports"]
