"""`ssmt-edge run`: an engine on a source, results to sinks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmt_edge.errors import UsageError

if TYPE_CHECKING:
    from ssmt_edge.geometry import Roi
    from ssmt_edge.segment import Result, RoiChoice
    from ssmt_edge.timing import LatencyHistogram


def run(
    engine: Annotated[Path, typer.Argument(help="Engine folder that build-engine wrote.")],
    source: Annotated[str, typer.Argument(help="Video file, DICOM file, image or folder of images.")],
    sink: Annotated[
        list[str] | None,
        typer.Option(help="*.mp4, *.mkv, *.avi: overlay video. *.jsonl: records. DIR/: PNG masks. Repeatable."),
    ] = None,
    roi: Annotated[
        str, typer.Option(metavar="auto|full|X,Y,W,H", help="Region to look at; auto: DICOM's, else the scan area.")
    ] = "auto",
    mm_per_pixel: Annotated[
        float | None, typer.Option(metavar="MM", help="Spacing, where the source does not tell it.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing summary as JSON.")] = False,
) -> None:
    """Run an engine on a video, a DICOM cine or a folder of images."""
    from ssmt_edge.pipeline import stream
    from ssmt_edge.segment import load
    from ssmt_edge.sinks import sink_path
    from ssmt_edge.sources import open_source

    sinks = sink or []
    region = _region(roi)
    with load(engine, threads, region, mm_per_pixel) as segmenter, open_source(source) as frames:
        tally = Tally()
        try:
            with closing(stream(segmenter, frames, sinks=sinks)) as results, _progress(frames.frame_count) as advance:
                for result in results:
                    tally.add(result)
                    advance()
            tally.complete = True
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        finally:
            # also after Ctrl-C or an error: what was done until then is in complete files
            if tally.frames:
                written = [str(path) for path in map(sink_path, sinks) if path.exists()]
                tally.report(written, frames.notes, as_json)


def _region(text: str) -> RoiChoice:
    if text == "auto":
        return "auto"
    if text == "full":
        return "full"
    return _box(text)


def _box(text: str) -> Roi:
    from ssmt_edge.geometry import Roi

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--roi {text!r}, expected auto, full or four whole numbers x,y,width,height") from None
    if width < 1 or height < 1:
        raise UsageError(f"--roi {text!r} is empty; expected width and height of at least 1")
    return Roi(x, y, width, height)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere. Yields what counts one frame."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("frames", total=total)
        yield lambda: bar.advance(task)


class Tally:
    """What a run adds up to, in memory that does not grow with it."""

    def __init__(self) -> None:
        self.frames = 0
        self.complete = False
        self._with_nodule = 0
        self._start = time.perf_counter()
        self._times: dict[str, LatencyHistogram] = {}

    def add(self, result: Result) -> None:
        from ssmt_edge.timing import LatencyHistogram

        self.frames += 1
        self._with_nodule += bool(result.nodules)
        work = sum(result.stages_ms.values())
        for name, ms in {**result.stages_ms, "work": work, "latency": result.latency_ms}.items():
            self._times.setdefault(name, LatencyHistogram()).add(ms)

    def report(self, sinks: list[str], notes: list[str], as_json: bool) -> None:
        """Prints the closing summary on stdout, and notes about the source on stderr."""
        seconds = time.perf_counter() - self._start
        fps = self.frames / seconds
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
        if as_json:
            summary = {
                "frames": self.frames,
                "frames_with_nodule": self._with_nodule,
                "complete": self.complete,
                "seconds": round(seconds, 3),
                "fps": round(fps, 2),
                "times_ms": {
                    name: {key: round(value, 3) for key, value in times.summary().items()}
                    for name, times in self._times.items()
                },
                "sinks": sinks,
                "notes": notes,
            }
            print(json.dumps(summary, indent=2))
            return
        ended = "" if self.complete else ", not to the end of the source"
        print(f"{self.frames} frames in {seconds:.2f} s, {fps:.1f} frames a second{ended}")
        print(f"a nodule was marked in {self._with_nodule} of them (research use only)")
        print(f"{'ms':<12} {'p50':>8} {'p99':>8}")
        for name, times in self._times.items():
            print(f"{name:<12} {times.percentile(50):8.2f} {times.percentile(99):8.2f}")
        print(
            "work: the four steps together; latency: from decoded frame to result, waiting behind earlier ones included"
        )
        for path in sinks:
            print(f"wrote {path}")
