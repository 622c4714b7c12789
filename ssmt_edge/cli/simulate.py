"""`ssmt-edge simulate`: a source played as a live probe."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import asdict
from typing import Annotated

import typer


def simulate(
    source: Annotated[str, typer.Argument(help="Video file, DICOM file, folder of images, or a URI.")],
    uri: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="URI",
            help="igtl://:18944, rtsp://:8554/probe, mjpeg://:8080 or v4l2:///dev/video10; igtl://0.0.0.0: for all.",
        ),
    ],
    fps: Annotated[
        float | None, typer.Option(metavar="N", help="Frames a second; by default the source's own.")
    ] = None,
    loop: Annotated[bool, typer.Option(help="Begin again at the end.")] = True,
    frames: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many frames.")] = None,
    duration: Annotated[float | None, typer.Option(min=0, metavar="S", help="End after so many seconds.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a client before the first frame.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was sent as JSON.")] = False,
) -> None:
    """Play any source as a live probe, for trying out `run` without a scanner."""
    from ssmt_edge.cli.terminal import say
    from ssmt_edge.simulate import open_probe
    from ssmt_edge.simulate.play import play, rate_of
    from ssmt_edge.sources import open_source

    stop = threading.Event()
    signals: list[int] = []
    with open_source(source) as given:
        rate = rate_of(given, fps)
        probe = open_probe(uri, rate)

        def end(number: int, _: object) -> None:
            signals.append(number)
            stop.set()
            given.interrupt()

        before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            say(f"probe at {probe.address}, {rate:g} frames a second; Ctrl-C ends it")
            played = play(given, probe, fps=fps, loop=loop, frames=frames, seconds=duration, wait=wait, stop=stop)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        for note in given.notes:
            say(f"note: {note}")
    if as_json:
        print(json.dumps({**asdict(played), "fps": played.fps}))
    else:
        print(f"sent {played.sent} frames of {played.frames}, {played.skipped} skipped, {played.fps:.2f} a second")
    if signals:
        raise typer.Exit(128 + signals[0])
