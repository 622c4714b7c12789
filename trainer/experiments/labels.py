"""How much is lost with fewer labels: nested shares of the labelled cases."""

from __future__ import annotations

from dataclasses import replace

from ssmt_edge.dataset import Sample, with_labels
from trainer.config import TrainConfig
from trainer.experiments.plan import Cell, Options, Plan, Row, held_out, pretraining
from trainer.fit import read_labelled

FRACTIONS = (0.05, 0.10, 0.15, 0.25, 0.50, 1.0)


def plan(options: Options) -> Plan:
    """Measured on the first data set. Fewer labels get more epochs, so that every run has as many optimiser steps.

    With equal epochs the 5 % run would end after a twentieth of the steps, and the curve would show that instead.
    Within a seed the labelled cases of a smaller share are part of a larger one; reconstruction pretraining, if asked
    for, uses every image in all rows.
    """
    before = pretraining(options)
    supervised = replace(options.config, phase="supervised")
    rows = []
    for fraction in FRACTIONS:
        scored = []
        for repeat in options.repeats:
            config = repeat.of(replace(supervised, label_fraction=fraction))
            config = replace(config, epochs=_epochs(config))
            cell = Cell(f"{round(100 * fraction):03d}-percent/{repeat.name}", config, before[repeat])
            scored.append((cell, held_out(options.config.data[0], repeat)))
        images = len(_training(scored[0][0].config, fraction))
        about = "about " if len(scored) > 1 else ""  # cases have different numbers of images
        rows.append(Row(f"{fraction:.0%} ({about}{images} images)", tuple(scored), x=100 * fraction))
    # compared with all labels, which come first then
    notes = (
        "Shares of labelled cases, nested within a seed; every run has about as many optimiser steps as that with all "
        "labels, hence more epochs to choose the best from.",
    )
    axis = "labelled cases, %"
    return Plan("labels", "Share of labels", tuple(rows[::-1]), notes, axis)


def _epochs(config: TrainConfig) -> int:
    """Epochs that give as many steps as the configuration's with all labels; the sampler leaves out the last part of
    a batch."""
    steps = {}
    for fraction in (1.0, config.label_fraction):
        count = len(_training(config, fraction))
        steps[fraction] = count // min(config.batch_size, count)
    return max(1, round(config.epochs * steps[1.0] / steps[config.label_fraction]))


def _training(config: TrainConfig, fraction: float) -> list[Sample]:
    """The labelled images of a run, as `trainer.fit` chooses them."""
    training = [s for samples in read_labelled(config) for s in samples if s.split == "train"]
    return with_labels(training, fraction, config.seed)
