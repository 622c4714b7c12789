"""`ssmt-edge evaluate`: Dice of a checkpoint or an engine on a labelled split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssmt_edge.errors import UsageError
from ssmt_edge.packages import needs

if TYPE_CHECKING:
    from ssmt_edge.spec import Engine


def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_ENGINE", help="Checkpoint file or engine folder.")],
    data: Annotated[Path, typer.Option(help="Labelled data set.")],
    split: Annotated[str, typer.Option(metavar="train|val|test|all", help="Which part of it.")] = "val",
    out: Annotated[Path | None, typer.Option(help="JSON file with every image's figures.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Dice, IoU and HD95 against truth, in the frames' own pixels, as means over images."""
    from rich.progress import Progress

    from ssmt_edge.cli.terminal import errors, table
    from ssmt_edge.dataset import load_samples, parse_split
    from ssmt_edge.evaluate import evaluate as measure
    from ssmt_edge.files import write_json

    samples = load_samples(data, parse_split(split))
    with open_subject(subject, threads) as engine:
        with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
            task = bar.add_task("frames", total=len(samples))
            scores = measure(engine, samples, progress=lambda: bar.advance(task))
    scores["threshold"] = engine.spec.threshold
    if out is not None:
        write_json(out, scores)
    if as_json:
        print(json.dumps(scores, indent=2))
        return
    rows = [("all", scores), *scores["by_size"].items()]
    table(
        f"{subject} on {data.name} {split} (means over images, threshold {engine.spec.threshold})",
        ("nodule size", "n", "Dice", "IoU", "HD95, px"),
        [
            (name, str(s["n"]), *(_figure(s[k], d) for k, d in (("dice", 4), ("iou", 4), ("hd95", 1))))
            for name, s in rows
        ],
    )


def open_subject(path: Path, threads: int | None) -> Engine:
    """An engine folder or a checkpoint file behind the same protocol."""
    if path.is_file() and path.suffix == ".onnx":
        raise UsageError(
            f"{path} is an ONNX file; give the engine folder that build-engine made of it, or a checkpoint"
        )
    if path.suffix == ".safetensors" or path.is_file():
        with needs("trainer"):
            from trainer.deployed import open_checkpoint

            return open_checkpoint(path, threads)
    if path.is_dir() or not path.suffix:
        with needs("engines"):
            from engines import open_engine

            return open_engine(path, threads)
    raise UsageError(f"{path} does not exist; expected an engine folder or a checkpoint (.safetensors)")


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"
