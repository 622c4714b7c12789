"""How much each task counts in the loss: fixed weights, learned uncertainties, or balanced gradient norms.

The adaptive methods start at the fixed weights and keep their sum, so that whatever they find is a point on the simplex
that a search over fixed weights would walk. A task of weight 0 stays out. What they learn belongs to the run, not to
the network: it travels in the resume file beside the modules' parameters, where weight averaging does not reach it
(the average of weights that were right for other moments of a run is of no use) and neither does gradient clipping.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trainer.losses import LossWeights, task_losses
from trainer.nets.network import Network

STEP = 0.01
"""step size of Adam on the logarithms: a weight can grow or shrink tenfold within about 230 optimiser steps. With the
network's 1e-4 it would stay where it began"""
ALPHA = 1.5
"""how strongly GradNorm pulls back a task that learns faster than the others; the value of its authors"""


class Weighting:
    """Fixed weights: the paper's method, and the interface of the others."""

    def __init__(self, fixed: LossWeights) -> None:
        self.fixed = fixed

    @property
    def weights(self) -> LossWeights:
        """For the next step."""
        return self.fixed

    @property
    def learned(self) -> dict[str, float]:
        """The weights that this method changes, by task."""
        return {}

    def watch(self, network: Network) -> AbstractContextManager[None]:
        """To be around the forward pass whose losses are given to `observe`."""
        return nullcontext()

    def observe(self, losses: Mapping[str, Tensor], scale: float) -> None:
        """Takes in one batch; no effect on `weights` before `step`.

        Args:
            losses: unweighted, as `total_loss` returns them, with their graph; tasks without labels are absent.
            scale: of the loss in half-precision training, else 1; gradients are taken at it, lest they vanish.
        """

    def step(self, add_up: Callable[[Tensor], Tensor]) -> None:
        """One update from the batches since the last one; once an optimiser step, whatever was accumulated for it.

        Args:
            add_up: sums a tensor over all processes, so that their weights stay equal.
        """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, exactly."""


class _Learned(Weighting):
    """What both adaptive methods share: one learned number a task, Adam on it, and means over the observed batches.

    Tasks that had no label since the last step keep their number.
    """

    def __init__(self, fixed: LossWeights, tasks: Sequence[str]) -> None:
        super().__init__(fixed)
        self.tasks = tuple(tasks)
        self._numbers = {task: nn.Parameter(torch.tensor(0.0, dtype=torch.float64)) for task in self.tasks}
        self._optimiser = torch.optim.Adam(self._numbers.values(), lr=STEP)
        self._seen: Tensor | None = None  # [tasks, 3]: sums of losses and of norms, and number of batches

    @property
    def weights(self) -> LossWeights:
        return replace(self.fixed, **self.learned)

    @property
    def learned(self) -> dict[str, float]:
        shares = {task: self._share(task, float(number.detach())) for task, number in self._numbers.items()}
        scale = sum(getattr(self.fixed, task) for task in self.tasks) / sum(shares.values())
        return {task: scale * share for task, share in shares.items()}

    def observe(self, losses: Mapping[str, Tensor], scale: float) -> None:
        found = {task: loss for task, loss in task_losses(losses).items() if task in self.tasks}
        if not found:
            return
        rows = {task: torch.stack([loss.detach(), self._norm(loss, scale)]) for task, loss in found.items()}
        device = next(iter(rows.values())).device
        if self._seen is None:
            self._seen = torch.zeros(len(self.tasks), 3, device=device)
        for task, row in rows.items():
            self._seen[self.tasks.index(task)] += torch.cat([row, row.new_ones(1)])

    def step(self, add_up: Callable[[Tensor], Tensor]) -> None:
        seen = self._seen if self._seen is not None else torch.zeros(len(self.tasks), 3)
        self._seen = None
        means = {
            task: (loss / count, norm / count)
            for task, (loss, norm, count) in zip(self.tasks, add_up(seen).tolist(), strict=True)
            # one overflow, as half precision has them, must not end the learning
            if count and math.isfinite(loss) and math.isfinite(norm)
        }
        if not means:
            return
        slopes = self._slopes(means)
        for task, number in self._numbers.items():
            number.grad = number.new_tensor(slopes[task]) if task in slopes else None
        self._optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        numbers = {task: number.detach().clone() for task, number in self._numbers.items()}
        return {"numbers": numbers, "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for task, number in self._numbers.items():
            number.data.copy_(state["numbers"][task])
        self._optimiser.load_state_dict(state["optimiser"])

    def _norm(self, loss: Tensor, scale: float) -> Tensor:
        """What besides the loss itself a batch tells of a task, a scalar."""
        return torch.zeros_like(loss)

    @abstractmethod
    def _share(self, task: str, number: float) -> float:
        """A task's weight from its learned number, but for a factor that all tasks have in common; above 0."""

    @abstractmethod
    def _slopes(self, means: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Derivative of the method's own loss by each task's number, from the tasks' mean losses and norms."""


class Uncertainty(_Learned):
    """Weights from learned uncertainties (Kendall, Gal and Cipolla 2018); a task's number is s, the log of its scale.

    Its share is c exp(-s), and s descends c (exp(-s) L + s), whose minimum exp(s) = L makes all tasks contribute
    alike, c each. For the size, a squared error, that is the negative log-likelihood of a Gaussian of variance
    exp(s), c = 1/2. For the reconstruction, nearly an absolute error, that of a Laplace distribution of width exp(s),
    c = 1. Dice is no likelihood: like Kendall's softmax it is taken as an energy at temperature exp(s), c = 1, where
    his log of the normaliser becomes s.
    """

    def __init__(self, fixed: LossWeights, tasks: Sequence[str]) -> None:
        super().__init__(fixed, tasks)
        for task, number in self._numbers.items():
            number.data.fill_(-math.log(getattr(fixed, task) / self._factor(task)))

    def _share(self, task: str, number: float) -> float:
        return self._factor(task) * math.exp(-number)

    def _slopes(self, means: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        if not self._optimiser.state:
            # fixed weights leave the common factor open: put it where half of the pull is up, half down, or the shares
            # would stand still until the first task has found its scale
            ratios = [math.exp(-float(self._numbers[task].detach())) * loss for task, (loss, _) in means.items()]
            for number in self._numbers.values():
                number.data.add_(math.log(max(sum(ratios) / len(ratios), 1e-9)))
        return {
            task: self._factor(task) * (1 - math.exp(-float(self._numbers[task].detach())) * loss)
            for task, (loss, _) in means.items()
        }

    @staticmethod
    def _factor(task: str) -> float:
        return 0.5 if task == "size" else 1.0


class GradNorm(_Learned):
    """Weights that balance how strongly the tasks pull at what they share (Chen et al. 2018).

    G = w times the norm of the gradient of a task's loss is driven to mean(G) r ^ ALPHA, with r the task's loss as a
    part of its first one, over the tasks' mean of that: slow tasks get more. As in the paper the distance is absolute
    and its target held fixed. Two things differ: the gradient is by the last activation that all tasks share
    (`Network.shared`) instead of that layer's parameters, which spares the backward pass through the encoder; and the
    number learned is log w, which keeps w positive.
    """

    def __init__(self, fixed: LossWeights, tasks: Sequence[str]) -> None:
        super().__init__(fixed, tasks)
        for task, number in self._numbers.items():
            number.data.fill_(math.log(getattr(fixed, task)))
        self._first: dict[str, float] = {}
        self._shared: Tensor | None = None

    @contextmanager
    def watch(self, network: Network) -> Iterator[None]:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._shared = output

        hook = network.get_submodule(network.shared).register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()  # or it would be copied with the network, and exported

    def observe(self, losses: Mapping[str, Tensor], scale: float) -> None:
        try:
            super().observe(losses, scale)
        finally:
            self._shared = None  # with it goes the graph

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "first": dict(self._first)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._first = dict(state["first"])

    def _norm(self, loss: Tensor, scale: float) -> Tensor:
        assert self._shared is not None, "observe without watch"
        with torch.autocast(loss.device.type, enabled=False):  # it is for forward passes only
            (gradient,) = torch.autograd.grad(loss * scale, self._shared, retain_graph=True)
        return gradient.float().norm() / scale

    def _share(self, task: str, number: float) -> float:
        return math.exp(number)

    def _slopes(self, means: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        weights = self.learned
        pulls = {task: weights[task] * norm for task, (_, norm) in means.items()}
        parts = {task: loss / self._first.setdefault(task, loss or 1.0) for task, (loss, _) in means.items()}
        mean_pull, mean_part = (sum(values.values()) / len(means) for values in (pulls, parts))
        slopes = {}
        for task, pull in pulls.items():
            target = mean_pull * (parts[task] / mean_part) ** ALPHA if mean_part else mean_pull
            slopes[task] = math.copysign(pull, pull - target) if pull != target else 0.0
        return slopes


METHODS: dict[str, type[_Learned]] = {"uncertainty": Uncertainty, "gradnorm": GradNorm}


def build_weighting(name: str, fixed: LossWeights, tasks: Sequence[str]) -> Weighting:
    """The weighting of a phase.

    Args:
        name: `fixed` or one of `METHODS`.
        fixed: weights that an adaptive method starts from; their sum is kept.
        tasks: what the phase trains. Of a single one (phase 1, most baselines) there is nothing to weigh: it keeps its
            fixed weight.
    """
    weighed = [task for task in tasks if getattr(fixed, task) > 0]
    if name == "fixed" or len(weighed) < 2:
        return Weighting(fixed)
    return METHODS[name](fixed, weighed)
