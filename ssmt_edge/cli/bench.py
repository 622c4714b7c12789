"""`ssmt-edge bench`: how fast engines are here, against others, and whether that is fast enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmt_edge.errors import UsageError, VerdictNo
from ssmt_edge.packages import needs

if TYPE_CHECKING:
    from ssmt_edge.spec import Engine


def bench(
    engines: Annotated[list[Path], typer.Argument(help="Engine folders that build-engine wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md and report.html.")],
    source: Annotated[
        str | None, typer.Option(help="Video file, DICOM file or folder of images. Default: phantoms in memory.")
    ] = None,
    vs: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Peers to compare with: onnxruntime, openvino, torch.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights for --vs torch. Default: the shipped ones, if they are the engine's.")
    ] = None,
    frames: Annotated[int, typer.Option(help="Timed frames an engine, at least 10.")] = 300,
    rounds: Annotated[int, typer.Option(help="Turns of each contender in a comparison, at least 3.")] = 10,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: the physical cores.")] = None,
    fps: Annotated[float | None, typer.Option(help="Frames a second asked for.")] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Latency asked for: 99 % of the frames within it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a table.")] = False,
) -> None:
    """Measure engines: latency by stage, throughput, memory, cost; with --vs against other libraries."""
    from ssmt_edge.cli.terminal import progress_bar

    with needs("benchmarks"):
        from benchmarks import check_writable, run_bench, write_reports
    peers = [name.strip() for name in (vs or "").split(",") if name.strip()]
    check_writable(out)
    with progress_bar() as progress:
        report = run_bench(
            engines,
            source=source,
            versus=peers,
            torch=_torch_opener(engines, checkpoint) if "torch" in peers else None,
            frames=frames,
            rounds=rounds,
            threads=threads,
            fps=fps,
            budget_ms=budget_ms,
            progress=progress,
        )
    paths = write_reports(report, out)
    if as_json:
        print(json.dumps(report))
    else:
        _show(report, paths)
    if report["verdict"] == "no":
        from benchmarks.words import answer

        raise VerdictNo("; ".join(answer(report, e) for e in report["engines"] if e["verdict"] == "no"))


def _torch_opener(engines: list[Path], checkpoint: Path | None) -> Callable[[int], Engine]:
    """Opens the PyTorch network behind the first engine; torch is imported only when it is called.

    Raises:
        UsageError: no checkpoint, or not the one that the engine was built from.
    """
    from ssmt_edge.files import sha256
    from ssmt_edge.weights import CHECKPOINT

    with needs("engines"):
        from engines import read_manifest
    wanted = read_manifest(engines[0]).checkpoint_sha256
    path = checkpoint or CHECKPOINT
    if checkpoint is not None and not checkpoint.is_file():
        raise UsageError(f"--checkpoint {checkpoint} does not exist; give the file that {engines[0]} was built from")
    found = sha256(path) if path.is_file() else None
    if found != wanted:
        came = f"--checkpoint {checkpoint} holds other weights" if checkpoint else "the shipped weights are others"
        raise UsageError(
            f"{came}: {engines[0]} was built from a checkpoint with SHA-256 {wanted[:12]}...; give that file as "
            f"--checkpoint"
        )

    def open_network(threads: int) -> Engine:
        with needs("trainer"):
            from trainer.deployed import open_checkpoint
        return open_checkpoint(path, threads)

    return open_network


def _show(report: dict[str, Any], paths: list[Path]) -> None:
    """The gist of the report as tables."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.words import answer, warnings

    console = Console()
    figures = ("p50", "p90", "p99", "p99.9", "max", "mean")
    for engine in report["engines"]:
        about = f"{engine['model']} {engine['precision'].upper()} on {engine['backend']}"
        cost = (
            f"{engine['gmac']:.3f} GMAC = {engine['gflops']:.3f} GFLOPs, {engine['parameters'] / 1e6:.2f} M parameters"
        )
        memory = f"{engine['memory_mib']['peak']:.0f} MiB at most"
        start = f"first mask after {engine['start_ms']['first_mask']:.0f} ms"
        table = Table("ms a frame", title=f"{engine['name']}: {about}", caption=f"{cost}; {memory}, {start}")
        for figure in figures:
            table.add_column(figure, justify="right")
        for stage, values in (engine["stages_ms"] | {"end to end": engine["end_to_end_ms"]}).items():
            table.add_row(stage, *(f"{values[figure]:.2f}" for figure in figures))
        console.print(table)
    if report["comparison"]:
        _show_comparison(report["comparison"], console)
    for text in warnings(report):
        console.print(f"caution: {text}", style="yellow", highlight=False)
    for engine in report["engines"]:
        console.print(answer(report, engine), style="bold", highlight=False)
    for path in paths:
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def _show_comparison(comparison: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    from benchmarks.words import ratios

    table = Table(
        "contender",
        title=f"infer, {comparison['rounds']} rounds in turns",
        caption=f"difference and agreement: against {comparison['reference']}",
    )
    for column in ("median ms", "95 % interval", "largest difference", "mask agreement"):
        table.add_column(column, justify="right")
    for row in comparison["contenders"]:
        low, high = row["interval_ms"]
        difference, agreement = row["max_probability_difference"], row["mask_agreement"]
        figures = (f"{row['median_ms']:.2f}", f"{low:.2f} to {high:.2f}", f"{difference:.4f}", f"{agreement:.4f}")
        table.add_row(row["name"], *figures)
    console.print(table)
    for line in ratios(comparison):
        console.print(line, highlight=False)
