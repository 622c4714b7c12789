"""From one data set to others: without labels of the target, with few, and what few labels give by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from ssmt_edge.errors import UsageError
from trainer.experiments.plan import Cell, Options, Plan, Row, held_out, name_of, pretraining

FRACTION = 0.2
"""share of the target's labelled cases where the configuration says nothing, as in the paper"""


def plan(options: Options) -> Plan:
    """The first data set is the source, each further one a target. Folds are those of the targets.

    Raises:
        UsageError: fewer than two data sets.
    """
    if len(options.config.data) < 2:
        raise UsageError("transfer needs a source and a target; give --data SOURCE --data TARGET")
    source, *targets = options.config.data
    share = options.config.label_fraction if options.config.label_fraction < 1 else FRACTION
    whole = replace(options.config, data=(source,), label_fraction=1.0)
    # one pretraining and one source run a seed, whatever the folds of the targets
    before, sources = {}, {}
    for repeat, start in pretraining(Options(whole, options.seeds)).items():
        config = repeat.of(replace(whole, phase="supervised"))
        before[repeat.seed] = start
        sources[repeat.seed] = Cell(f"{name_of(source)}/{repeat.name}", config, start)
    itself = tuple((cell, held_out(source)) for cell in sources.values())
    rows = [Row(f"{name_of(source)} on itself", itself, group=name_of(source))]
    for target in targets:
        group = name_of(target)
        part = {repeat: held_out(target, repeat) for repeat in options.repeats}
        zero = tuple((sources[repeat.seed], part[repeat]) for repeat in options.repeats)
        rows.append(Row(f"{name_of(source)}, zero-shot", zero, group))
        few = f"{share:.0%} of {group}"
        for name, folder in (
            (f"then decoders on {few}", "decoders"),
            (f"then all weights on {few}", "all-weights"),
            (f"{few} alone", "alone"),
        ):
            freeze: Literal["encoder", "none"] = "encoder" if folder == "decoders" else "none"
            config = replace(options.config, data=(target,), phase="supervised", label_fraction=share, freeze=freeze)
            scored = []
            for repeat in options.repeats:
                start = before[repeat.seed] if folder == "alone" else sources[repeat.seed]
                cell = Cell(f"{group}/{folder}/{repeat.name}", repeat.of(config), start)
                scored.append((cell, part[repeat]))
            rows.append(Row(name, tuple(scored), group))
    both = options.config.phase == "both"
    alone = "the same reconstruction pretraining as the source run" if both else "random weights"
    notes = (
        f"{share:.0%} of the target's labelled training cases, the same ones in each row of a seed. "
        f"The rows that use the target's labels alone start from {alone}.",
        "Fine-tuning takes as many epochs, and the same learning rate, as training on the source.",
    )
    return Plan("transfer", f"From {name_of(source)} to other data", tuple(rows), notes)
