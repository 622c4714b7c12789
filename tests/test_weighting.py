"""Adaptive loss weights: on toys whose answer is known, and inside the Lightning module."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from ssmt_edge.errors import UsageError  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.fit import train  # noqa: E402
from trainer.losses import LossWeights  # noqa: E402
from trainer.nets import NETWORKS, build_network  # noqa: E402
from trainer.weighting import GradNorm, Uncertainty, Weighting, build_weighting  # noqa: E402

EQUAL = LossWeights(0.25, 0.25, 0.25, 0.25)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Sums come out alike only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alone(seen: Tensor) -> Tensor:
    """The sum over the processes of a run that has one."""
    return seen


def feed(weighting: Weighting, losses: dict[str, float], steps: int) -> dict[str, float]:
    for _ in range(steps):
        weighting.observe({task: torch.tensor(loss) for task, loss in losses.items()}, 1.0)
        weighting.step(alone)
    return weighting.learned


class Toy(nn.Module):
    """Two regressions on one shared layer; the second one's loss is 100 times as large."""

    shared = "layer"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.nodule, self.gland = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        common = self.layer(x)
        return {
            "nodule": ((self.nodule(common) - x.sum(1, keepdim=True)) ** 2).mean(),
            "gland": 100 * ((self.gland(common) - x[:, :1] + x[:, 1:2]) ** 2).mean(),
        }


def train_toy(weighting: Weighting, steps: int) -> float:
    """Trains the toy; returns the second task's pull at the shared layer over the first one's, in the last steps."""
    toy: Any = Toy()
    optimiser = torch.optim.SGD(toy.parameters(), lr=1e-6)  # slow, so that neither task is done before the weights
    pulls: list[list[float]] = []
    for step in range(steps):
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(step))
        with weighting.watch(toy):
            losses = toy(x)
        weights = weighting.weights
        weighting.observe(losses, 1.0)
        parts = [getattr(weights, task) * loss for task, loss in losses.items()]
        if step >= steps - 50:
            gradients = [torch.autograd.grad(p, toy.layer.weight, retain_graph=True)[0] for p in parts]
            pulls.append([gradient.norm().item() for gradient in gradients])
        optimiser.zero_grad()
        sum(parts).backward()  # type: ignore[union-attr]
        optimiser.step()
        weighting.step(alone)
    first, second = torch.tensor(pulls).mean(dim=0).tolist()
    return second / first


def test_gradnorm_equalises_what_fixed_weights_leave_a_hundredfold() -> None:
    weights = LossWeights(0.5, 0.5, 0.0, 0.0)
    assert train_toy(Weighting(weights), 100) > 50
    balanced = GradNorm(weights, ("nodule", "gland"))
    ratio = train_toy(balanced, 450)
    assert 0.8 < ratio < 1.25, ratio
    assert balanced.learned["nodule"] > 10 * balanced.learned["gland"]
    assert sum(balanced.learned.values()) == pytest.approx(1)


def test_gradnorm_gives_more_to_the_task_that_lags_behind() -> None:
    balanced = GradNorm(EQUAL, ("nodule", "gland"))
    for size in (1.0, *[0.1] * 50):  # the gland's loss falls to a tenth, at the same gradient norms
        shared = torch.zeros(1, requires_grad=True)
        balanced._shared = shared
        balanced.observe({"nodule": shared.sum() + 1, "gland": shared.sum() + size}, 1.0)
        balanced.step(alone)
    assert balanced.learned["nodule"] > 1.2 * balanced.learned["gland"]


def test_gradients_are_taken_at_the_scale_of_half_precision() -> None:
    shared = torch.full((1,), 2.0, requires_grad=True)
    seen = []
    for scale in (1.0, 65536.0):
        weighting = GradNorm(EQUAL, ("nodule", "gland"))
        weighting._shared = shared
        weighting.observe({"nodule": 3 * shared.sum(), "gland": shared.sum()}, scale)
        weighting.step(lambda table: seen.append(table.tolist()) or table)  # type: ignore[func-returns-value]
    assert seen[0] == seen[1] == [[6.0, 3.0, 1.0], [2.0, 1.0, 1.0]]


def test_uncertainty_favours_the_task_of_small_losses() -> None:
    learned = feed(Uncertainty(EQUAL, ("nodule", "gland")), {"nodule": 0.1, "gland": 1.0}, 50)
    assert learned["nodule"] > 0.3 > 0.2 > learned["gland"]
    assert sum(learned.values()) == pytest.approx(0.5)


def test_uncertainty_ends_where_all_tasks_contribute_by_their_likelihood() -> None:
    losses = {"nodule": 0.4, "size": 0.02, "reconstruction": 0.8}
    learned = feed(Uncertainty(EQUAL, tuple(losses)), losses, 700)
    contributions = {task: learned[task] * loss for task, loss in losses.items()}
    assert contributions["reconstruction"] == pytest.approx(contributions["nodule"], rel=0.02)
    assert contributions["size"] == pytest.approx(contributions["nodule"] / 2, rel=0.02)  # a squared error


@pytest.mark.parametrize("method", [Uncertainty, GradNorm])
def test_an_adaptive_run_begins_with_the_fixed_weights(method: Any) -> None:
    tasks = ("nodule", "gland", "size", "reconstruction")
    assert method(LossWeights(), tasks).learned == pytest.approx(vars(LossWeights()))
    # a task that has no data keeps what it had, and takes no part in the sum
    learned = method(LossWeights(), ("nodule", "size"))
    assert learned.learned == pytest.approx({"nodule": 0.8, "size": 0.05})
    assert learned.weights.gland == 0.1


def test_a_task_without_labels_in_a_batch_keeps_its_number() -> None:
    weighting = Uncertainty(EQUAL, ("nodule", "gland"))
    feed(weighting, {"nodule": 0.1, "gland": 1.0}, 20)  # Adam has momentum now
    before = {task: value.item() for task, value in weighting._numbers.items()}
    feed(weighting, {"nodule": 0.1}, 5)
    after = {task: value.item() for task, value in weighting._numbers.items()}
    assert after["gland"] == before["gland"] and after["nodule"] != before["nodule"]
    feed(weighting, {}, 3)
    feed(weighting, {"nodule": math.inf, "gland": math.nan}, 1)  # an overflow
    assert {task: value.item() for task, value in weighting._numbers.items()} == after


def test_accumulated_batches_and_processes_count_as_one_step() -> None:
    once, thrice = Uncertainty(EQUAL, ("nodule", "gland")), Uncertainty(EQUAL, ("nodule", "gland"))
    feed(once, {"nodule": 0.2, "gland": 1.0}, 1)
    for nodule in (0.1, 0.3):
        thrice.observe({"nodule": torch.tensor(nodule)}, 1.0)
    thrice.observe({"gland": torch.tensor(1.0)}, 1.0)
    thrice.step(lambda seen: 2 * seen)  # another process saw the same
    assert thrice.learned == pytest.approx(once.learned)


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_state_goes_through_a_file_exactly(name: str, tmp_path: Path) -> None:
    def advance(weighting: Weighting, start: int) -> dict[str, float]:
        for step in range(start, start + 5):
            shared = torch.ones(1, requires_grad=True)
            weighting._shared = shared  # type: ignore[attr-defined]
            weighting.observe({"nodule": shared.sum() / (step + 1), "gland": 3 * shared.sum()}, 1.0)
            weighting.step(alone)
        return weighting.learned

    weighting = build_weighting(name, LossWeights(), ("nodule", "gland"))
    advance(weighting, 0)
    torch.save(weighting.state_dict(), tmp_path / "state")
    expected = advance(weighting, 5)
    again = build_weighting(name, LossWeights(), ("nodule", "gland"))
    again.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert advance(again, 5) == expected


def test_what_cannot_be_weighed_is_left_or_refused() -> None:
    assert type(build_weighting("gradnorm", LossWeights(), ("reconstruction",))) is Weighting
    assert type(build_weighting("uncertainty", LossWeights(gland=0), ("nodule", "gland"))) is Weighting
    with pytest.raises(UsageError, match="freeze = encoder holds still"):
        TrainConfig(weighting="gradnorm", freeze="encoder")
    with pytest.raises(UsageError, match="which strategy fsdp splits"):
        TrainConfig(weighting="gradnorm", strategy="fsdp")


CLASSES: dict[Any, str] = {getattr(make, "func", make): name for name, make in NETWORKS.items()}


@pytest.mark.parametrize("name", [name for network, name in CLASSES.items() if len(network.tasks) > 1])
def test_every_task_pulls_at_the_shared_activation(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 64)
    outputs: dict[str, Tensor] = {}
    weighting = GradNorm(LossWeights(), ("nodule", "gland", "size", "reconstruction"))
    with weighting.watch(network):
        outputs = network(torch.randn(2, network.channels, 64, 64), weighting.tasks)  # type: ignore[assignment]
    weighting.observe({task: outputs[task].float().square().mean() for task in weighting.tasks}, 1.0)
    assert weighting._seen is not None
    norms = weighting._seen[:, 1]
    assert norms.isfinite().all() and (norms > 0).all(), dict(zip(weighting.tasks, norms.tolist(), strict=True))
    assert not network.get_submodule(network.shared)._forward_hooks


@pytest.fixture(scope="module")
def config(phantom_set: Path) -> TrainConfig:
    return TrainConfig(
        "ssmt-lite",
        data=(str(phantom_set),),
        phase="supervised",
        epochs=2,
        batch_size=4,
        input_size=32,
        workers=0,
        precision="32",
        averaging=0.9,
        seed=1,
    )


def curve(out: Path) -> list[dict[str, str]]:
    with (out / "supervised" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm"])
def test_training_learns_and_logs_weights_and_resumes_them(
    name: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, weighting=name)  # type: ignore[arg-type]
    train(config, tmp_path / "whole", say=lambda _: None)
    rows = [{k: float(v) for k, v in row.items() if k.startswith("weight_")} for row in curve(tmp_path / "whole")]
    assert set(rows[0]) == {f"weight_{task}" for task in ("nodule", "gland", "size", "reconstruction")}
    for row in rows:
        assert sum(row.values()) == pytest.approx(1) and min(row.values()) > 0
    assert rows[0] != rows[1]
    if name == "uncertainty":  # whose state is part of the other's
        return

    stop = {"after": 1}

    def say(line: str) -> None:
        if line.startswith(f"epoch {stop['after']}/"):
            stop["after"] = 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "halves", say=say)
    train(config, tmp_path / "halves", resume=True, say=lambda _: None)
    assert curve(tmp_path / "halves") == curve(tmp_path / "whole")
    a, b = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "halves"))
    assert a == b
    assert b"weighting" in a  # as a setting
    assert b"weighting.numbers" not in a and b"_numbers" not in a


def test_fixed_weighting_is_what_was_there_before(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, epochs=1), tmp_path / "run", say=lambda _: None)
    (row,) = curve(tmp_path / "run")
    assert not [name for name in row if name.startswith("weight_")]
    parts = {task: float(row[f"loss_{task}"]) for task in ("nodule", "gland", "size", "reconstruction")}
    total = sum(getattr(LossWeights(), task) * loss for task, loss in parts.items())
    assert float(row["loss"]) == pytest.approx(total, rel=1e-5)  # ssmt-lite has no coarse masks


def test_phase_1_learns_although_phase_2_does_without_reconstruction(config: TrainConfig, tmp_path: Path) -> None:
    weights = LossWeights(reconstruction=0)
    alone = replace(config, phase="pretrain", weights=weights, pretrain_epochs=1, averaging=0)
    train(alone, tmp_path / "run", say=lambda _: None)
    with (tmp_path / "run" / "pretrain" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["loss"]) == pytest.approx(0.05 * float(row["loss_reconstruction"]), rel=1e-4)
