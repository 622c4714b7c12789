"""`ssmt-edge demo`: the whole way from shipped weights to a masked cine and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssmt_edge.packages import needs

ABOUT = (
    "The cine is an echocardiogram that pydicom ships, not a thyroid: masks on it mean nothing clinically. "
    "It shows that every step works on this machine. With --source PATH the demo takes your own."
)


def demo(
    source: Annotated[
        str | None, typer.Option(help="Your own video, DICOM cine or folder of images. Default: pydicom's cine.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for engine, overlay video, records and report.")] = Path("out/demo"),
    frames: Annotated[int, typer.Option(min=10, help="Frames that the bench times.")] = 200,
) -> None:
    """Build an INT8 engine from the shipped weights, run it on a real cine and measure it."""
    from pydicom import examples

    from ssmt_edge import weights
    from ssmt_edge.cli.run import run
    from ssmt_edge.cli.terminal import say

    cine = source or str(examples.get_path("ybr_color"))
    engine, overlay, records = out / "engine", out / "overlay.mp4", out / "records.jsonl"
    say("1 of 3: an INT8 engine for this processor, from the shipped weights and their calibration ranges")
    with needs("engines"), needs("benchmarks"):
        from benchmarks import run_bench, write_reports
        from engines.build import build_engine
        from engines.options import BuildOptions

        build_engine(weights.ONNX, engine, BuildOptions("int8", calib=weights.CALIBRATION), say=say)
        say(f"2 of 3: {Path(cine).name} through the engine")
        run(engine, [cine], sink=[str(overlay), str(records)])
        say("3 of 3: how fast it is here, layer by layer")
        report = run_bench([engine], source=cine, frames=frames)
        reports = write_reports(report, out)
    _close(engine, overlay, records, reports, report)
    if source is None:
        say(ABOUT)


def _close(engine: Path, overlay: Path, records: Path, reports: list[Path], report: dict[str, object]) -> None:
    measured = report["engines"][0]  # type: ignore[index]
    latency = measured["end_to_end_ms"]
    speed = f"p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms a frame"
    rows = [
        ("engine", engine, f"{measured['gmac']:.2f} GMAC, {measured['parameters'] / 1e6:.2f} M parameters"),
        ("overlay video", overlay, "contour, tint and diameters on every frame"),
        ("records", records, "one JSON line a frame"),
        *(("report", path, speed if path.suffix == ".html" else "") for path in reports),
    ]
    # plain lines: a drawn table would break long paths, which are there to be copied
    width = max(len(str(path)) for _, path, _ in rows)
    print("\nssmt-edge demo: research use only")
    for name, path, what in rows:
        print(f"{name:<13}  {path!s:<{width}}  {what}".rstrip())
