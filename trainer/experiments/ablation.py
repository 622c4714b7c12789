"""What each auxiliary task adds: the five rows of the paper's ablation."""

from __future__ import annotations

from dataclasses import replace

from trainer.experiments.plan import Cell, Options, Plan, Row, has_gland, held_out, pretraining, require_auxiliary

ROWS = {
    "baseline": ("nodule",),
    "+ reconstruction": ("nodule", "reconstruction"),
    "+ gland": ("nodule", "gland", "reconstruction"),
    "+ size": ("nodule", "size", "reconstruction"),
    "all": ("nodule", "gland", "size", "reconstruction"),
}
"""tasks by row, as in arXiv 2512.12662: the gland and the size each with reconstruction, then together"""


def plan(options: Options) -> Plan:
    """Measured on the first data set. Rows with reconstruction start from the pretraining if the phase is `both`.

    Without gland masks the two gland rows are not run: they would repeat their neighbours.
    """
    require_auxiliary(options.config, "ablation")
    first = options.config.data[0]
    before = pretraining(options)
    gland = has_gland(options.config.data)
    rows = []
    for name, tasks in ROWS.items():
        if "gland" in tasks and not gland:
            same = "+ reconstruction" if name == "+ gland" else "+ size"
            rows.append(Row(name, reason=f'since no data set has gland masks to learn: it would repeat "{same}"'))
            continue
        config = replace(options.config, phase="supervised", tasks=tasks)
        folder = name.replace("+ ", "with-")
        scored = []
        for repeat in options.repeats:
            start = before[repeat] if "reconstruction" in tasks else None
            scored.append((Cell(f"{folder}/{repeat.name}", repeat.of(config), start), held_out(first, repeat)))
        rows.append(Row(name, tuple(scored)))
    both = options.config.phase == "both"
    started = "start from the reconstruction pretraining" if both else "learn it beside the masks, without pretraining"
    return Plan(
        "ablation",
        "What each task adds",
        tuple(rows),
        (f"The baseline learns the nodule alone, from random weights; rows with reconstruction {started}.",),
    )
