"""What the pipeline costs: frames a second of `run` against a bare loop of `infer`, on the same frames and threads.

    python -m benchmarks.stream ENGINE SOURCE [--frames 1000] [--rounds 7] [--threads N]

Both take the same file. The bare loop gets network inputs that were prepared before; the run decodes, prepares, infers,
measures and writes records. Rounds alternate, so that both see the same machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.report.files import markdown_table
from benchmarks.timing.measure import warm_up
from benchmarks.versus.compare import ratio
from ssmt_edge.pipeline import stream
from ssmt_edge.segment import Job, load
from ssmt_edge.sources import Frame, Source, open_source
from ssmt_edge.sources.base import BaseSource
from ssmt_edge.sources.playback import Play


def main(
    engine: Path,
    source: str,
    frames: Annotated[int, typer.Option(min=20)] = 1000,
    rounds: Annotated[int, typer.Option(min=3)] = 7,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
) -> None:
    """Frames a second of the pipeline against a bare loop of `infer`."""
    with load(engine, threads) as segmenter, tempfile.TemporaryDirectory() as folder:
        opened = segmenter.engine
        with open_source(source, Play(loop=True)) as looped:
            jobs = (Job(frame, 0.0, {}) for frame in looped)
            prepared = map(segmenter.preprocess, islice(segmenter.locate(jobs), frames))
            inputs = [job.inputs for job in prepared if job.inputs is not None]
        warm_up(lambda: _seconds(lambda: opened.infer(inputs[0])) * 1e3)

        def bare() -> None:
            for array in inputs:
                opened.infer(array)

        def run() -> None:
            with open_source(source, Play(loop=True)) as looped:
                for _ in stream(segmenter, First(looped, frames), sinks=[f"{folder}/{time.time_ns()}.jsonl"]):
                    pass

        bare_s, run_s = [], []
        for _ in range(rounds):
            bare_s.append(_seconds(bare))
            run_s.append(_seconds(run))
    value, (low, high) = ratio(np.array(bare_s), np.array(run_s))
    rows = [
        [name, f"{frames / np.median(seconds):.1f}", f"{1e3 * np.median(seconds) / frames:.2f}"]
        for name, seconds in (("bare infer", bare_s), ("run with records", run_s))
    ]
    print(f"{engine}, {source}, {frames} frames, {rounds} rounds")
    print("\n".join(markdown_table(["", "frames a second", "ms a frame"], rows)))
    print(f"run / bare: {value:.3f} (95 % interval {low:.3f} to {high:.3f})")


class First(BaseSource):
    """The first frames of another source."""

    def __init__(self, source: Source, count: int) -> None:
        super().__init__(source.name)
        self._source, self._count = source, count

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._source, self._count)


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    typer.run(main)
