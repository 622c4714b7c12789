"""`ssmt-edge bench`: how fast engines are here, against others, and whether that is fast enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmt_edge.errors import UsageError, VerdictNo
from ssmt_edge.packages import needs

PEERS = (
    "torch, torch-compile, onnxruntime, openvino, each also as NAME:plain (the network as trained); "
    "onnxruntime:same, openvino:same (the INT8 file itself)"
)


def bench(
    engines: Annotated[list[Path], typer.Argument(help="Engine folders that build-engine wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md and report.html.")],
    source: Annotated[
        str | None, typer.Option(help="Video file, DICOM file or folder of images. Default: phantoms in memory.")
    ] = None,
    vs: Annotated[str | None, typer.Option(metavar="NAME,...", help=f"Peers to compare with: {PEERS}.")] = None,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(help="The engines' weights for peers that need them; may be repeated. Default: the shipped ones."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled data set: Dice of all beside their speed.")] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test|all", help="Which part of --data.")] = "val",
    frames: Annotated[int, typer.Option(help="Timed frames an engine, at least 10.")] = 300,
    rounds: Annotated[int, typer.Option(help="Turns of each contender in a comparison, at least 3.")] = 10,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: the physical cores.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frame rate to keep up: at most 1 % of the frames dropped.")] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Latency asked for: 99 % of the frames within it.")] = None,
    streams: Annotated[
        str | None, typer.Option(metavar="N,...", help="Several streams at once, at --fps each (default 30).")
    ] = None,
    brief: Annotated[
        bool, typer.Option("--brief", help="Latency, energy and memory alone: no batches, cold starts, layers.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of tables.")] = False,
) -> None:
    """Measure engines: latency by stage, throughput, memory, cost; with --vs against other libraries."""
    from ssmt_edge.cli.terminal import progress_bar

    with needs("benchmarks"):
        from benchmarks import check_writable, run_bench, write_reports
    check_writable(out)
    with progress_bar() as progress:
        report = run_bench(
            engines,
            source=source,
            versus=[name.strip() for name in (vs or "").split(",") if name.strip()],
            checkpoints=checkpoint or [],
            data=data,
            split=split,
            frames=frames,
            rounds=rounds,
            threads=threads,
            fps=fps,
            budget_ms=budget_ms,
            number_of_streams=_numbers(streams),
            brief=brief,
            progress=progress,
        )
    paths = write_reports(report, out)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report, paths)
    if report["verdict"] == "no":
        from benchmarks.report.words import answer

        raise VerdictNo("; ".join(answer(report, e) for e in report["engines"] if e["verdict"] == "no"))


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(word) for word in text.split(",")] if text else []
    except ValueError:
        raise UsageError(f"--streams {text!r}, expected numbers such as 1,2,4") from None


def _show(report: dict[str, Any], paths: list[Path]) -> None:
    """The gist of the report: latency of every engine, how contenders did, cautions, aims and verdicts."""
    from rich.console import Console

    from benchmarks.report import tables
    from benchmarks.report.words import aim, answer, ratios, warnings
    from ssmt_edge.cli.terminal import table

    console = Console()
    for engine in report["engines"]:
        found = tables.latency(engine)
        memory = f"MiB at most: {tables.number(engine['memory_mib']['peak'], '.0f')}"
        about = f"{engine['model']} {engine['precision'].upper()} on {engine['backend']}"
        cost = f"{engine['gmac']:.3f} GMAC, {engine['parameters'] / 1e6:.2f} M parameters, {memory}"
        table(f"{engine['name']}: {about}; {cost}", found.head, found.rows)
    for comparison in report["comparisons"]:
        found = tables.contenders(comparison)
        columns = [i for i, name in enumerate(found.head) if name != "how"]  # words that no terminal is wide enough for
        rows = [[row[i] for i in columns] for row in found.rows]
        title = f"{comparison['model']}: infer, {comparison['rounds']} rounds in turns"
        table(title, [found.head[i] for i in columns], rows)
        lines = [f"left out: {row['name']}: {row['why']}" for row in comparison["skipped"]]
        for line in [*ratios(comparison), *lines]:
            console.print(line, highlight=False, markup=False)
    for text in warnings(report):
        console.print(f"caution: {text}", style="yellow", highlight=False, markup=False)
    for row in report["aims"]:
        console.print(aim(row), highlight=False, markup=False)
    for engine in report["engines"]:
        console.print(answer(report, engine), style="bold", highlight=False, markup=False)
    for path in paths:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True, markup=False)
