"""Our count of every network beside PyTorch's: `python -m benchmarks.counts`. Weights do not matter."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.report.files import markdown_table
from engines.count import count
from engines.export import export, export_plain
from ssmt_edge.errors import SsmtError
from ssmt_edge.packages import needs
from ssmt_edge.spec import COUNT_RULE

ALLOWED = 0.01
"""of PyTorch's count; the rest would be an operator that one of both overlooks"""


@dataclass(frozen=True)
class Counts:
    """1e9 multiply-accumulates a frame of one network."""

    name: str
    torch: float
    """by PyTorch's counter, all tasks"""
    plain: float
    """by ours, of the graph as it was trained: all tasks, every input channel"""
    deployed: float
    """by ours, of the graph that engines run: folded and pruned"""

    @property
    def difference(self) -> float:
        """Ours from PyTorch's, as a share of the latter."""
        return self.plain / self.torch - 1


def counts(names: Sequence[str], input_size: int) -> Iterator[Counts]:
    """One network after the other.

    Raises:
        UsageError: unknown network, or a size that it does not take.
        EngineError, ExportError: a graph cannot be exported or counted.
        MissingDependency: without PyTorch.
    """
    with needs("trainer"):
        counted = importlib.import_module("trainer.counted")
    for name in names or counted.NETWORKS:
        of_torch = counted.torch_mac(name, input_size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "random.safetensors"
            counted.random_checkpoint(name, input_size, path)
            plain, deployed = count(export_plain(path).model), count(export(path).model)
        yield Counts(name, of_torch / 1e9, plain.gmac, deployed.gmac)


def main(
    network: Annotated[list[str] | None, typer.Option(help="Several times for several. Default: all.")] = None,
    input_size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the input, pixels.")] = 224,
) -> None:
    """Count every network's arithmetic twice; exit code 3 where the counts differ by more than 1 %."""
    rows = []
    try:
        for row in counts(network or [], input_size):
            print(f"{row.name}: {row.plain:.4f} GMAC, PyTorch {row.torch:.4f}", file=sys.stderr, flush=True)
            rows.append(row)
    except SsmtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    columns = ["network", "PyTorch GMAC", "ours, as trained", "difference", "deployed GMAC"]
    table = [
        [row.name, f"{row.torch:.3f}", f"{row.plain:.3f}", f"{row.difference:+.3%}", f"{row.deployed:.3f}"]
        for row in rows
    ]
    print("\n".join([f"At {input_size} x {input_size}. {COUNT_RULE}.", "", *markdown_table(columns, table)]))
    if any(abs(row.difference) > ALLOWED for row in rows):
        sys.exit(3)


if __name__ == "__main__":
    typer.run(main)
