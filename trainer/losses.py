"""The multi-task loss: 0.8 nodule + 0.1 gland + 0.05 size + 0.05 reconstruction (arXiv 2512.12662)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

from trainer.nets.network import Outputs

COARSE = 0.5
"""weight of a task's coarse masks beside its final one"""


@dataclass(frozen=True)
class LossWeights:
    """The paper's weights; the nodule outweighs the sum of the others."""

    nodule: float = 0.8
    gland: float = 0.1
    size: float = 0.05
    reconstruction: float = 0.05


def charbonnier(prediction: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean of sqrt(difference^2 + eps^2), a smooth L1 (Charbonnier et al. 1994); any shape."""
    return torch.sqrt((prediction - target) ** 2 + eps**2).mean()


def mask_loss(logits: Tensor, truth: Tensor, cross_entropy: float) -> Tensor:
    """Dice loss per image, plus `cross_entropy` times binary cross-entropy; logits and truth [N, 1, H, W].

    The paper uses Dice alone. Cross-entropy adds gradients where the two masks do not touch yet and gives
    probabilities that deserve the name.
    """
    dice = DiceLoss(sigmoid=True, smooth_nr=1.0, smooth_dr=1.0)(logits, truth)
    if not cross_entropy:
        return dice
    return dice + cross_entropy * F.binary_cross_entropy_with_logits(logits, truth)


def total_loss(
    outputs: Outputs,
    batch: dict[str, Tensor],
    image: Tensor,
    weights: LossWeights,
    cross_entropy: float,
    shares: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over the tasks in `outputs`, and each task's own loss.

    A sample counts in a task only where its label exists (`has_nodule`, `has_gland`). Coarse masks are supervised at
    their own size with the same loss, averaged and at `COARSE` of the weight of the final mask.

    Args:
        outputs: of the network, see `trainer.nets.network`.
        batch: see `trainer.data.Frames`.
        image: normalised gray input [N, 1, S, S], the target of the reconstruction.
        shares: of several processes, for `nodule` and `gland`: this one's labels over the mean of all processes', so
            that the mean of their sums weighs every label alike; scalars, None for a single process.
    """
    losses: dict[str, Tensor] = {}
    for task in ("nodule", "gland"):
        present = batch[f"has_{task}"] > 0
        logits = outputs.get(task)
        if not isinstance(logits, Tensor) or not present.any():
            continue
        truth = batch[task][present]
        losses[task] = mask_loss(logits.float()[present], truth, cross_entropy)
        coarse = outputs[f"{task}_coarse"]
        if coarse:
            at_scale = F.interpolate(truth, size=coarse[0].shape[-2:], mode="area")
            steps = [mask_loss(step.float()[present], at_scale, cross_entropy) for step in coarse]
            losses[f"{task}_coarse"] = torch.stack(steps).mean()
    present = batch["has_nodule"] > 0
    size, reconstruction = outputs.get("size"), outputs.get("reconstruction")
    if isinstance(size, Tensor) and present.any():
        losses["size"] = F.mse_loss(size.float()[present], batch["size"][present])
    if isinstance(reconstruction, Tensor):
        losses["reconstruction"] = charbonnier(reconstruction.float(), image)
    total = torch.zeros((), device=image.device)
    for name, loss in losses.items():
        task, _, coarse_mark = name.partition("_")
        share = (shares or {}).get("nodule" if task == "size" else task, 1.0)
        total = total + getattr(weights, task) * (COARSE if coarse_mark else 1.0) * share * loss
    return total, losses


def task_losses(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each task's weight is multiplied with: the losses of `total_loss`, those of coarse masks joined in."""
    joined: dict[str, Tensor] = {}
    for name, loss in losses.items():
        task, _, coarse_mark = name.partition("_")
        joined[task] = joined[task] + COARSE * loss if coarse_mark else loss
    return joined
