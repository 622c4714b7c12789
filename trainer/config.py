"""What a training run is made of. Saved with the run and inside the checkpoint."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ssmt_edge.errors import UsageError
from ssmt_edge.spec import Crop, Resize
from trainer.losses import LossWeights
from trainer.nets.network import TASKS

Phase = Literal["pretrain", "supervised", "both"]


@dataclass(frozen=True)
class TrainConfig:
    """Defaults follow the authors' code where it says (learning rate, decay, cosine end) and are ours elsewhere."""

    model: str = "ssmt-net"
    data: tuple[str, ...] = ()
    """labelled data sets; the first one's `val` split chooses the epoch and the threshold"""
    unlabelled: tuple[str, ...] = ()
    phase: Phase = "both"
    epochs: int = 60
    """supervised epochs (the authors' page: 300)"""
    pretrain_epochs: int = 20
    batch_size: int = 16
    lr: float = 1e-4
    lr_end: float = 1e-6
    weight_decay: float = 1e-4
    cross_entropy: float = 0.5
    """weight of cross-entropy beside Dice; 0 is the paper's loss"""
    tasks: tuple[str, ...] = TASKS
    """what is learnt; a task without labels is left out by itself"""
    fold: int | None = None
    """which of `folds` parts of the first data set, dealt by case, validates; None for the set's own split"""
    folds: int = 5
    label_fraction: float = 1.0
    """share of the training cases that are used with their labels, 0..1; the others serve reconstruction only"""
    freeze: Literal["none", "encoder"] = "none"
    """`encoder` trains decoders and heads only: fine-tuning on little data"""
    averaging: float = 0.0
    """decay per step of the exponential moving average of weights; 0 for none"""
    weights: LossWeights = field(default_factory=LossWeights)
    input_size: int = 224
    crop: str = "scan-area"
    resize: str = "stretch"
    seed: int = 0
    workers: int = 2
    precision: str = "auto"
    """auto, 32 or bf16; auto takes bf16 where the processor has instructions for it"""
    pretrained: tuple[str, str] | None = None
    """ResNet-50 and ViT-B/16 weights: hub names or folders in the hub's format"""

    def __post_init__(self) -> None:
        if self.phase not in get_args(Phase):
            raise UsageError(f"phase {self.phase!r}, expected one of {', '.join(get_args(Phase))}")
        for name in ("epochs", "pretrain_epochs", "batch_size", "lr"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # also refuses NaN
                raise UsageError(f"{name} is {value}, expected a finite value above 0")
        for name, choices in (("crop", Crop), ("resize", Resize)):
            if getattr(self, name) not in get_args(choices):
                raise UsageError(f"{name} {getattr(self, name)!r}, expected one of {', '.join(get_args(choices))}")
        if unknown := set(self.tasks) - set(TASKS):
            raise UsageError(f"task {sorted(unknown)[0]!r}, expected some of {', '.join(TASKS)}")
        if self.freeze not in ("none", "encoder"):
            raise UsageError(f"freeze {self.freeze!r}, expected none or encoder")
        if not 0 < self.label_fraction <= 1:
            raise UsageError(f"label_fraction is {self.label_fraction}, expected 0 < fraction <= 1")
        if not 0 <= self.averaging < 1:
            raise UsageError(f"averaging is {self.averaging}, expected 0 <= decay < 1")
        if self.precision not in ("auto", "32", "bf16"):
            raise UsageError(f"precision {self.precision!r}, expected auto, 32 or bf16")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
