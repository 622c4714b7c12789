"""Measures engines on frames, compares them with peers in the same run, and writes the report."""

from benchmarks.bench import run_bench
from benchmarks.report import prepare_folder, write_reports

__all__ = ["prepare_folder", "run_bench", "write_reports"]
