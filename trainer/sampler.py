"""Which samples make a batch, in which process: a function of seed, epoch and the number of processes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from ssmt_edge.dataset import Sample


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) of a training epoch, in an order that gives every task its labels in every batch where possible.

    Data sets of different labels are mixed (nodules, glands, both, none). Each epoch shuffles the samples within each
    kind of labels, then spreads every kind evenly over the epoch: the k-th of the n samples of a kind stands at
    (k + 1/2) / n. So a batch of B holds every kind in its share, and at least one sample of a kind with n samples as
    long as B >= N / n + the number of kinds, N being all samples; rarer kinds come as evenly as they can. No sample
    comes twice in an epoch; the last ones, fewer than a batch, are left out.

    The batches are the same for any number of processes: each takes every `processes`-th sample of every batch.

    Args:
        samples: of the data set that the indices point into.
        seed: of the run.
        batch_size: B, over all processes; a multiple of `processes`.
        process: number of this process, 0..processes - 1.
        processes: how many share the batches.
    """

    def __init__(
        self, samples: Sequence[Sample], seed: int, batch_size: int, process: int = 0, processes: int = 1
    ) -> None:
        kinds: dict[tuple[bool, bool], list[int]] = {}
        for index, sample in enumerate(samples):
            kinds.setdefault((sample.nodule is not None, sample.gland is not None), []).append(index)
        self._kinds = [np.array(indices) for _, indices in sorted(kinds.items())]
        self._used = len(samples) // batch_size * batch_size
        self.seed, self.process, self.processes = seed, process, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it at every epoch's start, also after resuming."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        order = np.concatenate([random.permutation(kind) for kind in self._kinds])
        places = np.concatenate([(np.arange(len(kind)) + 0.5) / len(kind) for kind in self._kinds])
        ties = random.random(len(order))
        order = order[np.lexsort((ties, places))][: self._used]
        return ((self.epoch, index) for index in order[self.process :: self.processes].tolist())

    def __len__(self) -> int:
        return self._used // self.processes


class HeldSampler(Sampler["int | None"]):
    """Every `processes`-th of `count` indices; None pads the processes to equal numbers."""

    def __init__(self, count: int, process: int = 0, processes: int = 1) -> None:
        self.count, self.process, self.processes = count, process, processes

    def __iter__(self) -> Iterator[int | None]:
        mine = range(self.process, len(self) * self.processes, self.processes)
        return (index if index < self.count else None for index in mine)

    def __len__(self) -> int:
        return -(-self.count // self.processes)
