"""The multi-task loss against values computed by hand, and labels that exist for some samples only."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from trainer.losses import LossWeights, charbonnier, mask_loss, task_losses, total_loss  # noqa: E402

Outputs = dict[str, Any]  # tensors, and lists of tensors under `_coarse`


def make_outputs(seed: int = 0, count: int = 3, coarse: int = 2) -> Outputs:
    torch.manual_seed(seed)
    outputs: Outputs = {"size": torch.rand(count), "reconstruction": torch.randn(count, 1, 8, 8)}
    for task in ("nodule", "gland"):
        outputs[task] = torch.randn(count, 1, 8, 8)
        outputs[f"{task}_coarse"] = [torch.randn(count, 1, 4, 4) for _ in range(coarse)]
    return outputs


def make_batch(has_nodule: list[int], has_gland: list[int]) -> dict[str, Tensor]:
    torch.manual_seed(9)
    count = len(has_nodule)
    batch = {task: (torch.rand(count, 1, 8, 8) > 0.6).float() for task in ("nodule", "gland")}
    return {
        **batch,
        "has_nodule": torch.tensor(has_nodule).float(),
        "has_gland": torch.tensor(has_gland).float(),
        "size": batch["nodule"].mean(dim=(1, 2, 3)),
    }


def loss_of(outputs: Outputs, batch: dict[str, Tensor], ce: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
    return total_loss(outputs, batch, torch.zeros(len(batch["size"]), 1, 8, 8), LossWeights(), ce)


def test_processes_with_unequal_labels_weigh_every_label_alike() -> None:
    outputs, batch, image = make_outputs(count=4), make_batch([1, 1, 0, 1], [0, 0, 1, 0]), torch.zeros(4, 1, 8, 8)
    whole, _ = total_loss(outputs, batch, image, LossWeights(), 0.5)
    parts = []
    for half in (slice(0, 2), slice(2, 4)):
        mine = {k: [m[half] for m in v] if isinstance(v, list) else v[half] for k, v in outputs.items()}
        labels = {k: v[half] for k, v in batch.items()}
        shares = {task: 2 * labels[f"has_{task}"].sum() / batch[f"has_{task}"].sum() for task in ("nodule", "gland")}
        parts.append(total_loss(mine, labels, image[half], LossWeights(), 0.5, shares)[0])
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)


def test_charbonnier_by_hand() -> None:
    x, y = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])
    assert charbonnier(x, y, eps=4.0).item() == pytest.approx((5 + 4) / 2)
    assert charbonnier(x, y).item() == pytest.approx(1.5, abs=1e-5)
    same = torch.zeros(2, requires_grad=True)  # where a square root has no slope without eps
    charbonnier(same, y).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(same.grad, torch.zeros(2))


def test_dice_and_cross_entropy_by_hand() -> None:
    truth = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    sure = torch.tensor([[[[40.0, 40.0], [-40.0, -40.0]]]])
    # two pixels found, one true, one common; 1 is added above and below
    assert mask_loss(sure, truth, 0.0).item() == pytest.approx(1 - (2 * 1 + 1) / (2 + 1 + 1))
    unsure = torch.zeros(1, 1, 2, 2)
    dice = 1 - (2 * 0.5 + 1) / (2 + 1 + 1)
    assert mask_loss(unsure, truth, 0.0).item() == pytest.approx(dice)
    assert mask_loss(unsure, truth, 0.5).item() == pytest.approx(dice + 0.5 * math.log(2))


def test_dice_is_a_mean_over_images() -> None:
    truth, logits = torch.zeros(2, 1, 4, 4), torch.full((2, 1, 4, 4), -40.0)
    truth[0, 0, 0] = 1
    logits[0, 0, 0] = 40  # perfect; the other one is empty and found empty
    assert mask_loss(logits, truth, 0.0).item() == pytest.approx(0.0, abs=1e-6)
    logits[1] = 40  # all wrong: 16 found, none true
    assert mask_loss(logits, truth, 0.0).item() == pytest.approx((0 + 1 - 1 / 17) / 2, abs=1e-6)


@pytest.mark.parametrize("level", [-60.0, 0.0, 60.0])
def test_empty_masks_are_legal_and_finite(level: float) -> None:
    batch = make_batch([1, 1, 1], [1, 1, 1])
    for name in ("nodule", "gland", "size"):
        batch[name] = torch.zeros_like(batch[name])
    logits = torch.full((3, 1, 8, 8), level, requires_grad=True)
    total, losses = loss_of({**make_outputs(), "nodule": logits, "gland": logits}, batch, 0.5)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(value.isfinite() for value in losses.values())
    assert logits.grad.isfinite().all()


def test_weights_of_the_paper() -> None:
    assert LossWeights() == LossWeights(nodule=0.8, gland=0.1, size=0.05, reconstruction=0.05)
    outputs, batch = make_outputs(), make_batch([1, 1, 1], [1, 1, 1])
    total, losses = loss_of(outputs, batch)
    assert losses["nodule"].item() == pytest.approx(mask_loss(outputs["nodule"], batch["nodule"], 0.0).item())
    assert losses["size"].item() == pytest.approx(((outputs["size"] - batch["size"]) ** 2).mean().item())
    assert losses["reconstruction"].item() == pytest.approx(outputs["reconstruction"].abs().mean().item(), rel=1e-4)
    by_hand = (
        0.8 * (losses["nodule"] + 0.5 * losses["nodule_coarse"])
        + 0.1 * (losses["gland"] + 0.5 * losses["gland_coarse"])
        + 0.05 * losses["size"]
        + 0.05 * losses["reconstruction"]
    )
    assert total.item() == pytest.approx(by_hand.item())


def test_coarse_masks_are_compared_at_their_own_size() -> None:
    batch = make_batch([1, 1], [0, 0])
    quarters = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).expand(2, 1, 2, 2)
    batch["nodule"] = quarters.repeat_interleave(4, 2).repeat_interleave(4, 3)
    perfect = 80 * quarters - 40
    outputs: Outputs = {"nodule": torch.zeros(2, 1, 8, 8), "nodule_coarse": [perfect, -perfect]}
    _, losses = loss_of(outputs, batch)
    # perfect, and everything wrong: (0 + (1 - 1 / (2 + 2 + 1))) / 2
    assert losses["nodule_coarse"].item() == pytest.approx(0.4, abs=1e-6)


@pytest.mark.parametrize("task", ["nodule", "gland"])
def test_a_sample_without_a_label_changes_nothing(task: str) -> None:
    has = [1, 0, 1]
    batch = make_batch(has if task == "nodule" else [1, 1, 1], has if task == "gland" else [1, 1, 1])
    names = [task, f"{task}_coarse"] + (["size"] if task == "nodule" else [])
    outputs = make_outputs()
    _, before = loss_of(outputs, batch, 0.5)
    for name in names:
        for tensor in outputs[name] if isinstance(outputs[name], list) else [outputs[name]]:
            tensor[1] += 3
    batch[task][1] = 1 - batch[task][1]
    batch["size"][1] = 1 if task == "nodule" else batch["size"][1]
    _, after = loss_of(outputs, batch, 0.5)
    assert all(after[name] == before[name] for name in before)
    outputs[task][0] += 3  # a labelled one does
    assert loss_of(outputs, batch, 0.5)[1][task] != after[task]


def test_the_mean_runs_over_labelled_samples_only() -> None:
    outputs, batch = make_outputs(), make_batch([1, 0, 1], [0, 0, 1])
    _, losses = loss_of(outputs, batch, 0.5)
    two = mask_loss(outputs["nodule"][[0, 2]], batch["nodule"][[0, 2]], 0.5)
    assert losses["nodule"].item() == pytest.approx(two.item())
    assert losses["gland"].item() == pytest.approx(mask_loss(outputs["gland"][2:], batch["gland"][2:], 0.5).item())


def test_batch_without_any_label_of_a_task() -> None:
    total, losses = loss_of(make_outputs(), make_batch([1, 1, 0], [0, 0, 0]))
    assert set(losses) == {"nodule", "nodule_coarse", "size", "reconstruction"}
    total, losses = loss_of(make_outputs(), make_batch([0, 0, 0], [0, 0, 0]))
    assert set(losses) == {"reconstruction"}
    assert total.item() == pytest.approx(0.05 * losses["reconstruction"].item())


def test_one_labelled_sample_of_sixteen_counts_in_full() -> None:
    outputs, batch = make_outputs(count=16), make_batch([1] * 15 + [0], [0] * 15 + [1])
    outputs["gland"].requires_grad_(True)
    total, losses = loss_of(outputs, batch, 0.5)
    assert losses["gland"].item() == pytest.approx(mask_loss(outputs["gland"][15:], batch["gland"][15:], 0.5).item())
    total.backward()  # type: ignore[no-untyped-call]
    pulls = outputs["gland"].grad.flatten(1).abs().sum(dim=1)
    assert (pulls > 0).tolist() == [False] * 15 + [True]
    alone = outputs["gland"].detach()[15:].requires_grad_(True)
    (0.1 * mask_loss(alone, batch["gland"][15:], 0.5)).backward()  # not a sixteenth of it
    torch.testing.assert_close(outputs["gland"].grad[15:], alone.grad)


def test_the_weights_multiply_the_task_losses() -> None:
    total, losses = loss_of(make_outputs(), make_batch([1, 1, 0], [0, 0, 1]), 0.5)
    joined = task_losses(losses)
    assert set(joined) == {"nodule", "gland", "size", "reconstruction"}
    assert total.item() == pytest.approx(sum(getattr(LossWeights(), t) * loss.item() for t, loss in joined.items()))
