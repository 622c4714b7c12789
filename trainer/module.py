"""The Lightning module: one step of either phase, validation Dice, Adam with cosine annealing."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ssmt_edge.spec import ModelSpec
from trainer.config import TrainConfig
from trainer.losses import total_loss
from trainer.nets.network import Network


def normalise(frames: Tensor, spec: ModelSpec, channels: int) -> Tensor:
    """Gray [N, 1, S, S] in 0..255 to the network's input [N, channels, S, S]: one mean subtracted, then scaled."""
    return ((frames - spec.gray_mean) * spec.gray_scale).expand(-1, channels, -1, -1)


class SsmtModule(L.LightningModule):
    """Trains any network of `trainer.nets`.

    Args:
        network: the network; weights are changed in place.
        spec: geometry and normalisation.
        config: of the run.
        phase: `pretrain` (reconstruction only) or `supervised` (all tasks, each where its label exists).
        tasks: tasks whose labels occur in the training data.
        steps: optimiser steps of the whole phase, for the cosine.
    """

    def __init__(
        self, network: Network, spec: ModelSpec, config: TrainConfig, phase: str, tasks: tuple[str, ...], steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self.spec, self.config, self.phase, self.steps = spec, config, phase, steps
        self.tasks = ("reconstruction",) if phase == "pretrain" else tasks

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        image = normalise(batch["image"], self.spec, 1)
        outputs = self.network(image.expand(-1, self.network.channels, -1, -1), self.tasks)
        total, losses = total_loss(outputs, batch, image, self.config.weights, self.config.cross_entropy)
        count = image.shape[0]
        self.log("loss", total, on_step=False, on_epoch=True, batch_size=count)
        for name, loss in losses.items():
            self.log(f"loss_{name}", loss, on_step=False, on_epoch=True, batch_size=count)
        return total

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        image = normalise(batch["image"], self.spec, 1)
        wanted = self.tasks if self.phase == "pretrain" else ("nodule",)
        outputs = self.network(image.expand(-1, self.network.channels, -1, -1), wanted)
        count = image.shape[0]
        if self.phase == "pretrain":
            total, _losses = total_loss(outputs, batch, image, self.config.weights, 0.0)
            self.log("val_loss", total, batch_size=count)
            return
        present = batch["has_nodule"] > 0
        if present.any():
            found = (outputs["nodule"][present] > 0).float().flatten(1)
            truth = batch["nodule"][present].flatten(1)
            overlap, both = 2 * (found * truth).sum(1), found.sum(1) + truth.sum(1)
            dice = torch.where(both > 0, overlap / both.clamp(min=1), torch.ones_like(both))
            self.log("val_dice", dice.mean(), batch_size=int(present.sum()))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(
            (p for p in self.network.parameters() if p.requires_grad),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, self.config.lr_end)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
