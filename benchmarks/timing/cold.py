"""Cold start of an engine in fresh processes: `python -m benchmarks.timing.cold ENGINE THREADS`, a frame at stdin."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing.fresh import answer, reply

FRAME = (384, 512)
PARTS = ("process", "open", "first_mask")


def cold_start(engine: Path, threads: int, runs: int = 3) -> dict[str, Any]:
    """From nothing to the first mask, in fresh processes one after the other.

    Cold is the process, not the disk: the system keeps in its cache what it has read, Python's byte code and the
    engine's files among them. After a boot the same takes longer by the time to read them.

    Args:
        engine: an engine folder.
        threads: CPU threads of the engine.
        runs: fresh processes, at least 1.

    Returns:
        Milliseconds, each the median over `runs`: `process` (from before the process exists until everything is
        imported, the engine's library too), `open` (with checking the files' SHA-256), `first_mask` (one phantom frame
        of 384 x 512 pixels through all steps, finding its scan area too), `total` (of these three); `totals` of every
        run; and `runs`.

    Raises:
        EngineError: the engine cannot be opened or run.
    """
    from ssmt_edge.phantom import phantom

    frame = phantom(np.random.default_rng(0), size=FRAME).image.tobytes()
    found = []
    for _ in range(runs):
        # the same clock in both processes: time.monotonic is system-wide
        started = time.monotonic()
        times = answer("cold", [str(engine.resolve()), str(threads)], f"cold start of {engine.name}", frame)
        found.append((1e3 * (times["imported"] - started), times["open_ms"], times["first_mask_ms"]))
    parts = np.array(found)
    medians = dict(zip(PARTS, np.median(parts, axis=0).tolist(), strict=True))
    totals = parts.sum(axis=1)
    return {**medians, "total": float(np.median(totals)), "totals": totals.tolist(), "runs": runs}


def _main(folder: str, threads: str) -> dict[str, Any]:
    from engines import backend, open_engine, read_manifest
    from ssmt_edge.segment import Segmenter

    backend(read_manifest(Path(folder)).backend).version()  # some import their library only when asked
    imported = time.monotonic()
    frame = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(FRAME)
    begun = time.monotonic()
    with open_engine(Path(folder), int(threads)) as engine:
        opened = time.monotonic()
        Segmenter(engine)(frame)
        seen = time.monotonic()
    return {"imported": imported, "open_ms": 1e3 * (opened - begun), "first_mask_ms": 1e3 * (seen - opened)}


if __name__ == "__main__":
    reply(_main)
