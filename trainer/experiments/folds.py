"""Cross-validation by case: what one configuration reaches on every image of a data set, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

from trainer.experiments.plan import Cell, Options, Plan, Row, held_out, pretraining

FOLDS = 5


def plan(options: Options) -> Plan:
    """A row for all folds together, then one a fold; FOLDS folds if the options name no number."""
    options = replace(options, folds=options.folds or FOLDS)
    before = pretraining(options)
    config = replace(options.config, phase="supervised")
    scored = []
    for repeat in options.repeats:
        cell = Cell(f"cells/{repeat.name}", repeat.of(config), before[repeat])
        scored.append((cell, held_out(options.config.data[0], repeat)))
    folds = range(options.folds or FOLDS)
    each = [Row(f"fold {k}", tuple(s for s in scored if s[1].fold == k), group="each fold") for k in folds]
    notes = (
        "Dice and its interval pool the images of all folds. Epoch and threshold of each fold's network are chosen on "
        "the fold itself, which flatters it; the column without choice does not choose.",
    )
    title = f"Cross-validation by case, {options.folds} folds"
    rows = (Row("all folds", tuple(scored)), *each)
    return Plan("folds", title, rows, notes)
