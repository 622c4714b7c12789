"""Summary of a run, as one page (*.html) and as the same facts for machines (*.json)."""

from __future__ import annotations

import datetime
import json
import math
import tempfile
from pathlib import Path
from typing import Any

from ssmt_edge import __version__
from ssmt_edge.files import replacing
from ssmt_edge.overlay import TEXT, picture
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, writing
from ssmt_edge.sinks.base import BaseSink, make_place
from ssmt_edge.sinks.report_page import page
from ssmt_edge.sinks.summary import Summary
from ssmt_edge.sources import public_name
from ssmt_edge.timing import LatencyHistogram


def open_file(path: Path, context: SinkContext) -> ReportSink:
    """Raises SinkError if the file cannot be created."""
    return ReportSink(path, context)


class ReportSink(BaseSink):
    """Adds the results up and writes them when it is closed; nothing without a result."""

    def __init__(self, path: Path, context: SinkContext) -> None:
        super().__init__(path)
        self._context = context
        self._summary = Summary()
        self._started = _now()
        with writing(path):
            make_place(path)
            with tempfile.TemporaryFile(dir=path.parent):  # said now, not at the end
                pass

    def _add(self, result: Result) -> None:
        self._summary.add(result)

    def _finish(self) -> None:
        if not self._summary.frames:
            return
        self._still_there()
        facts = self._facts()
        if self.path.suffix.lower() == ".html":
            largest = self._summary.largest
            image = picture(largest, self._context.overlay, self._context.uncut) if largest else None
            text = page(facts, image)
        else:
            text = json.dumps(facts, indent=2) + "\n"
        with replacing(self.path) as part:
            part.write_text(text, encoding="utf-8")

    def _facts(self) -> dict[str, Any]:
        summary, source, health = self._summary, self._context.source, self._context.health
        segmenter = self._context.segmenter
        return {
            "note": TEXT,
            "version": __version__,
            "started": self._started,
            "ended": _now(),
            "source": None
            if source is None
            else {"name": public_name(source.name), "live": source.live, "fps": _rounded(source.fps)},
            "engine": None
            if segmenter is None
            else {
                "model": segmenter.engine.spec.model,
                "input_size": segmenter.engine.spec.input_size,
                "trained_on": list(segmenter.engine.spec.trained_on),
                "threshold": round(segmenter.threshold, 4),
            },
            "size_px": summary.size,
            "spacing_mm": summary.spacing_mm and [round(mm, 6) for mm in summary.spacing_mm],
            "t_source_ms": {"first": _rounded(summary.first_ms), "last": _rounded(summary.last_ms)},
            "frames": summary.frames,
            "frames_with_nodule": summary.with_nodule,
            "stream": None
            if health is None
            else {
                "captured": health.captured,
                "done": health.done,
                "dropped": health.dropped,
                "overruns": health.overruns,
            },
            "latency_ms": _latency(health.latency if health and health.latency.count else summary.latency),
            "nodules": [seen.facts() for seen in summary.nodules()],
            "smaller_nodules": summary.forgotten,
        }


def _latency(histogram: LatencyHistogram) -> dict[str, float]:
    return {name: round(value, 3) for name, value in histogram.summary().items() if math.isfinite(value)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
