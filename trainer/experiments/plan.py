"""What an experiment consists of: cells (runs of the trainer), the parts of data they are measured on, and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ssmt_edge.dataset import Sample, Split, load_folded, load_samples
from ssmt_edge.errors import DataError, UsageError
from ssmt_edge.phantom import README as PHANTOM_README
from trainer.config import TrainConfig
from trainer.nets import build_network


@dataclass(frozen=True)
class Options:
    """What every protocol is given.

    `config` is a run of everything (all tasks, all labels); phase `both` asks for reconstruction pretraining. Its
    `seed` and `fold` are replaced by those of `seeds` and `folds`.
    """

    config: TrainConfig
    seeds: tuple[int, ...] = (0,)
    folds: int | None = None
    """cross-validation by case, every protocol's figures then being over all folds; None for the data's own split"""

    def __post_init__(self) -> None:
        if not self.config.data:
            raise UsageError("an experiment needs labelled images; give --data")
        names = [name_of(data) for data in self.config.data]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(
                f"two data sets are called {twice[0]!r}; tables tell them by the folder's name: rename one"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UsageError(f"seeds {self.seeds}, expected different whole numbers of at least 0, as in 0,1,2")
        if self.folds is not None and self.folds < 2:
            raise UsageError(f"{self.folds} folds, expected at least 2")
        if self.config.phase == "pretrain":
            raise UsageError("phase pretrain learns no masks to measure; give supervised or both")
        if self.config.fold is not None:
            raise UsageError("an experiment runs through all folds; give --folds instead of the setting fold")

    @property
    def repeats(self) -> list[Repeat]:
        """Every row is trained once for each of them."""
        folds = [None] if self.folds is None else list(range(self.folds))
        return [Repeat(seed, fold, self.folds) for seed in self.seeds for fold in folds]


@dataclass(frozen=True)
class Repeat:
    """A seed and, in cross-validation, which of `folds` parts is held out."""

    seed: int
    fold: int | None
    folds: int | None

    @property
    def name(self) -> str:
        return f"seed{self.seed}" + ("" if self.fold is None else f"-fold{self.fold}of{self.folds}")

    def of(self, config: TrainConfig) -> TrainConfig:
        folds = config.folds if self.folds is None else self.folds
        return replace(config, seed=self.seed, fold=self.fold, folds=folds)


@dataclass(frozen=True)
class Part:
    """The images of a data set that a cell is measured on."""

    data: str
    split: Split
    fold: int | None = None
    folds: int | None = None

    @property
    def name(self) -> str:
        where = f"{name_of(self.data)} {self.split}"
        return where if self.fold is None else f"{where}, fold {self.fold} of {self.folds}"

    def samples(self) -> list[Sample]:
        """Those with a nodule mask; DataError if there are none."""
        root = Path(self.data)
        if self.fold is not None and self.folds is not None:
            samples = load_folded(root, self.fold, self.folds)
        else:
            samples = load_samples(root)
        chosen = [s for s in samples if s.nodule is not None and self.split in ("all", s.split)]
        if not chosen:
            raise DataError(
                f"{self.data} has no images with a nodule mask in split {self.split}; give another data set"
            )
        return chosen

    def chose(self, config: TrainConfig) -> bool:
        """Whether these images chose the epoch and the threshold of a run."""
        held = Part(config.data[0], "val", config.fold, None if config.fold is None else config.folds)
        return self == held


def held_out(data: str, repeat: Repeat | None = None) -> Part:
    """Where a data set is measured: its fold in cross-validation, else its `test` split, else its `val` split."""
    if repeat is not None and repeat.fold is not None:
        return Part(data, "val", repeat.fold, repeat.folds)
    tested = any(s.split == "test" and s.nodule is not None for s in load_samples(Path(data)))
    return Part(data, "test" if tested else "val")


@dataclass(frozen=True)
class Cell:
    """One run of the trainer; `name` is its folder below that of the experiment."""

    name: str
    config: TrainConfig
    start: Cell | None = None
    """whose weights it starts from"""

    @property
    def checkpoint(self) -> str:
        """File name in its folder."""
        return "pretrained.safetensors" if self.config.phase == "pretrain" else "model.safetensors"


@dataclass(frozen=True)
class Row:
    """A line of the table: which cell is measured on what, over seeds and folds together."""

    name: str
    scored: tuple[tuple[Cell, Part], ...] = ()
    group: str = ""
    """rows of a group are measured on the same images and are compared with the group's first row"""
    reason: str = ""
    """why nothing was run for it"""
    x: float | None = None
    """place on the axis of the plot"""


@dataclass(frozen=True)
class Plan:
    protocol: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    axis: str = ""
    """what `Row.x` is; without it the plot has bars"""

    @property
    def cells(self) -> list[Cell]:
        """Each once, and after the cell that it starts from."""
        found: dict[Cell, None] = {}
        for row in self.rows:
            for cell, _ in row.scored:
                chain = [cell]
                while chain[0].start is not None:
                    chain.insert(0, chain[0].start)
                found.update(dict.fromkeys(chain))
        return list(found)

    @property
    def measured(self) -> list[str]:
        """Data sets that cells are trained or measured on."""
        trained = [data for cell in self.cells for data in cell.config.data]
        return list(dict.fromkeys([*trained, *(part.data for row in self.rows for _, part in row.scored)]))

    def parts(self, cell: Cell) -> list[Part]:
        """What a cell is measured on."""
        return list(dict.fromkeys(part for row in self.rows for scored, part in row.scored if scored == cell))


def pretraining(options: Options) -> dict[Repeat, Cell | None]:
    """Phase 1 by repeat, which all rows of a table share instead of repeating it.

    None if the phase is `supervised` or the network reconstructs nothing.
    """
    config = replace(options.config, phase="pretrain")
    wanted = options.config.phase == "both" and "reconstruction" in learnable(config)
    return {r: Cell(f"pretraining/{r.name}", r.of(config)) if wanted else None for r in options.repeats}


def learnable(config: TrainConfig) -> tuple[str, ...]:
    """Tasks that the network has parts for. UsageError for an unknown network."""
    with torch.device("meta"):  # no weights: SSMT-Net has 134 million
        return build_network(config.model, config.input_size).tasks


def require_auxiliary(config: TrainConfig, protocol: str) -> None:
    """UsageError for a network that learns the nodule alone."""
    if learnable(config) == ("nodule",):
        raise UsageError(f"{config.model} learns the nodule alone, so {protocol} has nothing to vary; try ssmt-lite")


def name_of(data: str) -> str:
    """A data set's folder name, also of `.`"""
    return Path(data).resolve().name


def has_gland(data: Sequence[str]) -> bool:
    """Whether there is a gland mask to train with."""
    return any(s.gland is not None and s.split == "train" for one in data for s in load_samples(Path(one)))


def is_synthetic(data: str) -> bool:
    """Whether a data set is one of `ssmt-edge data phantom`."""
    readme = Path(data) / "README.txt"
    first = PHANTOM_README.split(",")[0]
    return readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(first)
