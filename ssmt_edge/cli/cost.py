"""`ssmt-edge experiment cost`: parameters, arithmetic, latency and memory of the networks, side by side."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmt_edge.packages import needs

if TYPE_CHECKING:
    from engines.graph import Graph


def cost(
    out: Annotated[Path, typer.Option(help="Folder for cost.md, cost.json and cost.png; keeps what is measured.")],
    model: Annotated[
        list[str] | None, typer.Option(help="A network; several times for several. Default: all but the tiny ones.")
    ] = None,
    input_size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the input, pixels.")] = 224,
    rounds: Annotated[int, typer.Option(min=3, help="Turns of each engine.")] = 5,
    frames: Annotated[int, typer.Option(min=1, help="Timed frames a turn.")] = 10,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: the physical cores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """What the networks cost on this machine's CPU, with random weights: only what is missing is measured."""
    from ssmt_edge.cli.terminal import say, table

    with needs("trainer"), needs("engines"), needs("benchmarks"):
        from benchmarks.cost import NOTES, Subject, cost_table
        from trainer.nets import NETWORKS

        names = list(dict.fromkeys(model)) if model else [name for name in NETWORKS if not name.endswith("-tiny")]
        subjects = [Subject(name, _parameters(name, input_size), partial(_graph, name, input_size)) for name in names]
        rows = cost_table(subjects, out, input_size=input_size, rounds=rounds, frames=frames, threads=threads, say=say)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    columns = ["network", "M par.", "deployed", "GMAC", "FP32 ms", "INT8 ms", "peak MiB"]
    table(f"cost at {input_size} x {input_size}, batch 1", columns, [_brief(row) for row in rows])
    for note in NOTES:
        print(note)
    print(f"wrote {out / 'cost.md'}, {out / 'cost.json'} and {out / 'cost.png'}")


def _brief(row: dict[str, Any]) -> list[str]:
    """The columns that fit on a terminal; of memory FP32 / INT8."""
    both = [row["fp32"], row["int8"]]
    return [
        row["name"],
        *(f"{row[name] / 1e6:.2f}" for name in ("training_parameters", "parameters")),
        f"{row['gmac']:.2f}",
        *(f"{p['median_ms']:.1f}" for p in both),
        " / ".join(f"{p['peak_mib']:.0f}" for p in both),
    ]


def _parameters(name: str, input_size: int) -> int:
    """Learnt numbers of a whole network; UsageError for one that does not exist."""
    import torch

    from trainer.nets import build_network

    with torch.device("meta"):  # without filling them
        return sum(p.numel() for p in build_network(name, input_size).parameters())


def _graph(name: str, input_size: int) -> Graph:
    """A network with random weights, exported as it is deployed."""
    with needs("engines"):
        from engines.export import export
    from trainer.counted import random_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        random_checkpoint(name, input_size, path)
        return export(path)
