"""`ssmt-edge data`: data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets: make a synthetic one.")


@app.callback()
def data() -> None:
    """Data sets: make a synthetic one."""
    # a typer application with a single command would drop the command's name without this


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to make; an existing one must be empty.")],
    count: Annotated[int, typer.Option(help="Frames for training and validation, 2 to 9999.")] = 200,
    test_count: Annotated[int, typer.Option(help="Frames of the test split, 0 to 9999.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, or one number; each 64 to 1024.")] = "256x256",
    seed: Annotated[int, typer.Option(help="0 or greater; the same seed gives the same frames.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write synthetic thyroid ultrasound with nodule and gland masks, in TN3K's layout."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from ssmt_edge.dataset import load_samples, summary
    from ssmt_edge.phantom import write_set

    height_width = _size(size)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("phantoms", total=count + test_count)
        write_set(out, count, test_count, height_width, seed, progress=lambda done, _: bar.update(task, completed=done))
    samples = load_samples(out)
    splits = {split: sum(s.split == split for s in samples) for split in ("train", "val", "test")}
    result = {"out": str(out), "splits": splits, **summary(samples)}
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{out}: {len(samples)} synthetic frames of {height_width[1]} x {height_width[0]} "
            f"({', '.join(f'{n} {split}' for split, n in splits.items())}), "
            f"{result['empty_nodule_masks']} without a nodule; layout of TN3K"
        )


def _size(text: str) -> tuple[int, int]:
    """Height and width from `WIDTHxHEIGHT` or one number."""
    import re

    from ssmt_edge.errors import UsageError

    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if not match:
        raise UsageError(f"--size {text!r}, expected WIDTHxHEIGHT in pixels such as 256x256, or one number")
    width, height = match[1], match[2] or match[1]
    return int(height), int(width)
