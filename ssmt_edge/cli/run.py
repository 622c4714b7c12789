"""`ssmt-edge run`: an engine on one or several sources, results to sinks and to a viewer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssmt_edge.errors import UsageError

if TYPE_CHECKING:
    from ssmt_edge.geometry import Roi
    from ssmt_edge.segment import RoiChoice
    from ssmt_edge.sources import Source
    from ssmt_edge.sources.playback import Play

SINKS = (
    "Overlay video *.mp4, *.mkv, *.avi; records *.jsonl, *.csv; masks DIR/ (PNG), *.dcm (DICOM SEG); summary *.html, "
    "*.json; igtl-out://:18945. Repeatable."
)


def run(
    engine: Annotated[Path, typer.Argument(help="Engine folder that build-engine wrote.")],
    source: Annotated[
        list[str],
        typer.Argument(
            help="Video, DICOM file, image, folder of images, or igtl://, rtsp://, http://, v4l2://, csi://."
        ),
    ],
    sink: Annotated[list[str] | None, typer.Option(help=SINKS)] = None,
    view: Annotated[bool, typer.Option("--view", help="Serve a page with the live stream and its controls.")] = False,
    host: Annotated[str, typer.Option(help="Address of the page; other than loopback asks for a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 8080,
    record_dir: Annotated[Path, typer.Option(help="Where the page saves snapshots and recordings.")] = Path("out/view"),
    roi: Annotated[
        str, typer.Option(metavar="auto|full|X,Y,W,H", help="Region to look at; auto: DICOM's, else the scan area.")
    ] = "auto",
    mm_per_pixel: Annotated[
        float | None, typer.Option(metavar="MM", help="Spacing, where the source does not tell it.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="On the probability; by default the engine's.")] = None,
    smooth: Annotated[bool, typer.Option("--smooth", help="Smooth the masks over time.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="Play a file again and again.")] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="max|native|FPS", help="How fast a file is played; max, with --view native.")
    ] = None,
    start: Annotated[float, typer.Option(metavar="S", help="Begin a file at this second.")] = 0.0,
    stop: Annotated[float | None, typer.Option(metavar="S", help="End a file at this second.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Warn of results that come later after capture, and count them.")
    ] = None,
    overlay: Annotated[Literal["tint", "contour", "side-by-side"], typer.Option(help="How masks are drawn.")] = "tint",
    uncut: Annotated[
        bool, typer.Option("--uncut", help="Pictures show the whole frame, with names that the scanner burned in.")
    ] = False,
    keep_identifiers: Annotated[
        bool, typer.Option("--keep-identifiers", help="DICOM SEG keeps the patient and study of its source.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engine.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing summary as JSON.")] = False,
) -> None:
    """Run an engine on videos, DICOM cines, folders of images or live probes."""
    from ssmt_edge.cli.signals import interruptible
    from ssmt_edge.cli.tally import Tally
    from ssmt_edge.cli.terminal import errors, say
    from ssmt_edge.pipeline import Run, StreamOptions
    from ssmt_edge.segment import load
    from ssmt_edge.sources.playback import Play, parse_rate

    options = StreamOptions(smooth, max_latency_ms, overlay, uncut, keep_identifiers)
    play = Play(parse_rate(rate or ("native" if view else "max")), loop, start, stop)
    sinks: list[Any] = list(sink or [])
    with interruptible() as signals, ExitStack() as opened:
        segmenter = opened.enter_context(load(engine, threads, _region(roi), mm_per_pixel, threshold))
        if view:
            sinks.append(opened.enter_context(_viewer(host, port, record_dir)).sink)
        sources = [opened.enter_context(_open(one, play, view and rate is None)) for one in source]
        started = Run(segmenter, sources, sinks=sinks, options=options, tell=say)
        tally = opened.enter_context(Tally(started.streams, as_json))
        signals.check()
        with closing(started.results()) as results:
            for _ in results:
                tally.show()
        tally.finish()
        if view and errors().is_terminal:
            say("the sources have ended; the page stays until Ctrl-C")
            threading.Event().wait()


def _open(uri: str, play: Play, only_files: bool) -> Source:
    """A source, played as told; `only_files`: a live one is taken as it is, since nobody asked for another rate."""
    from dataclasses import replace

    from ssmt_edge.sources import open_source

    if only_files and "://" in uri and not uri.startswith("file://"):
        play = replace(play, rate="max")
    return open_source(uri, play)


@contextmanager
def _viewer(host: str, port: int, folder: Path) -> Iterator[Any]:
    from ssmt_edge.cli.terminal import say
    from ssmt_edge.viewer import Viewer

    with Viewer(host, port, folder=folder) as viewer:
        say(f"viewer: {viewer.url}")
        yield viewer


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
