"""CSV: one row for every nodule of every frame."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext
from ssmt_edge.sinks.records import LinesSink

FRAME = ("frame", "t_source_ms", "latency_ms", "dropped_before", "unlike")
BOX = ("left_px", "top_px", "width_px", "height_px")
SIZES = ("area_px", "area_mm2", "long_mm", "short_mm", "long_px", "short_px")
NODULE = ("identity", *SIZES, *BOX, "probability")
"""all are empty in the row of a frame without a nodule"""


def open_file(path: Path, context: SinkContext) -> TableSink:
    """Raises SinkError if the file cannot be created."""
    return TableSink(path)


class TableSink(LinesSink):
    """The values of `Result.record()`, with the same digits; empty for what is unknown."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, head=_row((*FRAME, *NODULE)))

    def _lines(self, result: Result) -> bytes:
        record = result.record()
        frame = [record[name] for name in FRAME]
        rows = []
        for nodule in record["nodules"]:
            values = {**nodule, **dict(zip(BOX, nodule["bbox"], strict=True))}
            rows.append(_row([*frame, *(values[name] for name in NODULE)]))
        return b"".join(rows) or _row([*frame, *[None] * len(NODULE)])


def _row(values: Any) -> bytes:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue().encode()
