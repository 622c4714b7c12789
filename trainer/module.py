"""The Lightning module: one step of either phase, validation Dice, Adam with cosine annealing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from ssmt_edge.spec import ModelSpec
from trainer.config import TrainConfig
from trainer.losses import LossWeights, total_loss
from trainer.nets.network import Network
from trainer.weighting import build_weighting


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
        weights = config.weights
        if phase == "pretrain" and not weights.reconstruction:  # left out of phase 2; here it is all there is
            weights = replace(weights, reconstruction=LossWeights.reconstruction)
        self.weighting = build_weighting(config.weighting, weights, self.tasks)

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        # dropout and the like draw the same after resuming
        draws = (self.config.seed, self.phase == "supervised", self.current_epoch, number, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(draws).generate_state(1)[0]))
        image = normalise(batch["image"], self.spec, 1)
        with self.weighting.watch(self.network):
            outputs = self.network(image.expand(-1, self.network.channels, -1, -1), self.tasks)
        total, losses = total_loss(
            outputs, batch, image, self.weighting.weights, self.config.cross_entropy, self._shares(batch)
        )
        if not losses:  # no label of this batch is learnt: a loss of zero that all processes can derive
            total = total + sum(0 * value.sum() for value in outputs.values() if isinstance(value, Tensor))
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        self.weighting.observe(losses, scaler.get_scale() if scaler else 1.0)
        self._log("loss", total, image.shape[0])
        for task in self.tasks:
            labelled = {"gland": "has_gland", "reconstruction": ""}.get(task, "has_nodule")
            count = int(batch[labelled].sum()) if labelled else image.shape[0]
            for name in (task, f"{task}_coarse") if outputs.get(f"{task}_coarse") else (task,):
                self._log(f"loss_{name}", losses.get(name, total.new_zeros(())), count)
        for task, weight in self.weighting.learned.items():
            self._log(f"weight_{task}", weight, image.shape[0])
        return total

    def _shares(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `total_loss`. Without them a label would count more in a process that has few of its kind."""
        processes = self.trainer.world_size
        if processes == 1:
            return None
        here = torch.stack([batch["has_nodule"].sum(), batch["has_gland"].sum()])
        everywhere = self.trainer.strategy.reduce(here.clone(), reduce_op="sum")  # in place
        shares = processes * here / everywhere.clamp(min=1)
        return {"nodule": shares[0], "gland": shares[1]}

    def _log(self, name: str, value: Any, count: int) -> None:
        """Into the epoch's mean over all processes, `count` samples strong. Called by all of them for the same names,
        whatever their batches hold, or they would wait for each other for ever."""
        # Lightning divides the sum of counts by the number of processes, in whole numbers
        count *= self.trainer.world_size
        self.log(name, value, on_step=False, on_epoch=True, batch_size=count, sync_dist=True)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        reduce = self.trainer.strategy.reduce
        self.weighting.step(lambda seen: reduce(seen.to(self.device), reduce_op="sum"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["weighting"] = self.weighting.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.weighting.load_state_dict(checkpoint["weighting"])

    def on_validation_start(self) -> None:
        if self.trainer.world_size > 1:  # each process has batch statistics of its own; the first one's are saved
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        image = normalise(batch["image"], self.spec, 1)
        wanted = self.tasks if self.phase == "pretrain" else ("nodule",)
        outputs = self.network(image.expand(-1, self.network.channels, -1, -1), wanted)
        count = image.shape[0]
        if self.phase == "pretrain":
            total, _losses = total_loss(outputs, batch, image, self.weighting.weights, 0.0)
            self._log("val_loss", total, count)
            return
        present = batch["has_nodule"] > 0
        found = (outputs["nodule"][present] > 0).float().flatten(1)
        truth = batch["nodule"][present].flatten(1)
        overlap, both = 2 * (found * truth).sum(1), found.sum(1) + truth.sum(1)
        dice = torch.where(both > 0, overlap / both.clamp(min=1), torch.ones_like(both))
        self._log("val_dice", dice.sum() / max(len(dice), 1), len(dice))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(
            (p for p in self.network.parameters() if p.requires_grad),
            lr=self.config.lr,
            weight_decay=self.config.weight_decay,
        )
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps, self.config.lr_end)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}
