"""What `run` prints: a line a stream while it runs (on a terminal), and the closing summary."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ssmt_edge.sources import public_name

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from ssmt_edge.pipeline import Stream
    from ssmt_edge.timing import LatencyHistogram

EXPLAINED = (
    "work: the four steps together; latency: from capture to result, waiting behind earlier frames of a file included; "
    "written: from capture until the sink has it"
)
TOTALS = ("frames", "frames_with_nodule", "captured", "dropped", "overruns")
"""figures of all streams together in the JSON summary"""

REFRESH_S = 0.2
LARGEST = 10
"""nodules listed in the JSON summary"""


class Tally:
    """Adds up a run in memory that does not grow with it; prints the summary when the block ends, however it ends."""

    def __init__(self, streams: Sequence[Stream], as_json: bool) -> None:
        self.complete = False
        self._streams = streams
        self._as_json = as_json
        self._begun = self._shown = time.perf_counter()
        self._ended: float | None = None
        self._opened = ExitStack()
        self._bar: Progress | None = None
        self._rows: dict[int, TaskID] = {}

    def finish(self) -> None:
        """The sources came to their ends."""
        self.complete = True
        self._ended = time.perf_counter()

    def __enter__(self) -> Tally:
        from ssmt_edge.cli.terminal import errors

        if errors().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self._bar = self._opened.enter_context(Progress(*columns, console=errors(), transient=True))
        return self

    def show(self) -> None:
        """Refreshes the lines on the terminal, a few times a second at most."""
        if self._bar is not None and time.perf_counter() - self._shown > REFRESH_S:
            self._shown = time.perf_counter()
            for one in self._streams:
                self._show(self._bar, one)

    def _show(self, bar: Progress, one: Stream) -> None:
        if one.source is None:
            return
        health = one.health
        seconds = time.perf_counter() - self._begun
        line = (
            f"{public_name(one.name)}: " + "LOST, " * (health.state == "lost") + f"{health.done} frames, "
            f"{health.done / seconds:.1f} fps, p99 {health.latency.percentile(99):.0f} ms"
            + (f", {health.dropped} dropped" if one.source.live else "")
        )
        if one.number not in self._rows:
            self._rows[one.number] = bar.add_task("", total=one.source.frame_count)
        bar.update(self._rows[one.number], description=line, completed=health.done)

    def __exit__(self, *_: object) -> None:
        self._opened.close()
        # also after Ctrl-C or an error: what was done until then is in complete files
        if any(one.health.done for one in self._streams):
            self._report((self._ended or time.perf_counter()) - self._begun)

    def _report(self, seconds: float) -> None:
        for note in (note for one in self._streams if one.source for note in one.source.notes):
            print(f"note: {note}", file=sys.stderr)
        found = [self._summary(one, seconds) for one in self._streams]
        if self._as_json:
            totals = {name: sum(one[name] for one in found) for name in TOTALS}
            whole = {"complete": self.complete, "seconds": round(seconds, 3), **totals, "streams": found}
            print(json.dumps(whole, indent=2))
            return
        for summary in found:
            self._print(summary, seconds)
        print(EXPLAINED)

    def _summary(self, one: Stream, seconds: float) -> dict[str, Any]:
        health = one.health
        times = {**health.stages, "latency": health.latency}
        return {
            "source": one.name,
            "live": bool(one.source and one.source.live),
            "frames": health.done,
            "frames_with_nodule": health.with_nodule,
            "captured": health.captured,
            "dropped": health.dropped,
            "overruns": health.overruns,
            "fps": round(health.done / seconds, 2),
            "times_ms": {name: _rounded(histogram) for name, histogram in times.items()},
            "sinks": [
                {
                    "name": outlet.sink_name,
                    "written": outlet.written,
                    "completed": outlet.completed,
                    "missed": outlet.missed,
                    "failure": str(outlet.failure) if outlet.failure else None,
                    "latency_ms": _rounded(outlet.latency),
                }
                for outlet in one.outlets
            ],
            "largest": [
                {**dataclasses.asdict(extent), "long": round(extent.long, 3), "short": round(extent.short, 3)}
                for extent in one.memory.largest.table()[:LARGEST]
            ],
            "region": [one.region.x, one.region.y, one.region.width, one.region.height] if one.region else None,
            "notes": one.source.notes if one.source else [],
        }

    def _print(self, summary: dict[str, Any], seconds: float) -> None:
        if len(self._streams) > 1:
            print(f"{summary['source']}:")
        ended = "" if self.complete or summary["live"] else ", not to the end of the source"
        lost = f", {summary['dropped']} dropped" if summary["live"] else ""
        count = f"{summary['frames']} frame{'s' * (summary['frames'] != 1)}"
        print(f"{count} in {seconds:.2f} s, {summary['fps']:.1f} frames a second{lost}{ended}")
        print(f"a nodule was marked in {summary['frames_with_nodule']} of them (research use only)")
        if summary["region"]:
            x, y, width, height = summary["region"]
            print(f"looked at {width} x {height} pixels of the frame, at ({x}, {y})")
        for extent in summary["largest"][:1]:
            print(
                f"largest: nodule {extent['identity']} in frame {extent['frame']}, {extent['long']:.1f} x "
                f"{extent['short']:.1f} {extent['unit']}"
            )
        if summary["overruns"]:
            print(f"{summary['overruns']} of them came later than was asked for")
        print(f"{'ms':<12} {'p50':>8} {'p99':>8} {'max':>8}")
        for name, times in summary["times_ms"].items() if summary["frames"] else ():
            print(f"{name:<12} {times['p50']:8.2f} {times['p99']:8.2f} {times['max']:8.2f}")
        for sink in summary["sinks"]:
            if sink["written"]:
                missed = f", {sink['missed']} missed" if sink["missed"] else ""
                late = f"written p50 {sink['latency_ms']['p50']:.1f} ms, p99 {sink['latency_ms']['p99']:.1f} ms"
                verb = "shown on" if sink["name"] == "the page" else "wrote"
                verb = verb if sink["completed"] else "left unfinished:"
                print(f"{verb} {sink['name']} ({sink['written']} frames{missed}; {late})")


def _rounded(histogram: LatencyHistogram) -> dict[str, float]:
    return {key: round(value, 3) for key, value in histogram.summary().items()}
