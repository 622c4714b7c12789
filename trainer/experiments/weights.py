"""How the loss weights matter, on every data set given and by nodule size: fixed on the simplex, and adaptive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ssmt_edge.dataset import load_samples
from trainer.experiments.plan import (
    Cell,
    Options,
    Plan,
    Row,
    has_gland,
    held_out,
    name_of,
    pretraining,
    require_auxiliary,
)
from trainer.losses import LossWeights

GRID = {
    "paper": LossWeights(0.80, 0.10, 0.05, 0.05),
    "nodule-0.95": LossWeights(0.95, 0.02, 0.015, 0.015),
    "nodule-0.55": LossWeights(0.55, 0.25, 0.10, 0.10),
    # from here on the nodule no longer outweighs the others together
    "equal": LossWeights(0.25, 0.25, 0.25, 0.25),
    "gland-0.6": LossWeights(0.20, 0.60, 0.10, 0.10),
    "size-0.6": LossWeights(0.20, 0.10, 0.60, 0.10),
    "reconstruction-0.6": LossWeights(0.20, 0.10, 0.10, 0.60),
}
ADAPTIVE: tuple[Literal["uncertainty", "gradnorm"], ...] = ("uncertainty", "gradnorm")


def plan(options: Options) -> Plan:
    """One training on all data sets for each weighting, measured on each set that has nodule masks."""
    require_auxiliary(options.config, "weights")
    before = pretraining(options)
    gland = has_gland(options.config.data)
    fixed = replace(options.config, phase="supervised", weighting="fixed")
    configs = {name: replace(fixed, weights=weights) for name, weights in GRID.items()}
    for method in ADAPTIVE:
        configs[method] = replace(fixed, weights=GRID["paper"], weighting=method)
    measured = [data for data in options.config.data if _has_nodule_masks(data)]
    rows = []
    for data in measured:
        # cross-validation is of the first data set; the others have their own split
        parts = {r: held_out(data, r if data == options.config.data[0] else None) for r in options.repeats}
        for name, config in configs.items():
            if name == "gland-0.6" and not gland:
                rows.append(Row(name, group=name_of(data), reason="since no data set has gland masks to learn"))
                continue
            scored = []
            for repeat in options.repeats:
                scored.append((Cell(f"{name}/{repeat.name}", repeat.of(config), before[repeat]), parts[repeat]))
            rows.append(Row(name, tuple(scored), name_of(data)))
    points = ", ".join(f"{name} {_text(weights)}" for name, weights in GRID.items())
    notes = [
        f"Weights are nodule / gland / size / reconstruction: {points}. Adaptive ones start at the paper's and keep "
        "their sum."
    ]
    if not gland:
        notes.append("No data set has gland masks: the gland's weight has no effect, the others count by their ratios.")
    if len(measured) > 1:
        notes.append("One network for all data sets; epoch and threshold are chosen on the first one's val split.")
    return Plan("weights", "Loss weights", tuple(rows), tuple(notes))


def _text(weights: LossWeights) -> str:
    return " / ".join(f"{w:g}" for w in (weights.nodule, weights.gland, weights.size, weights.reconstruction))


def _has_nodule_masks(data: str) -> bool:
    return any(s.nodule is not None for s in load_samples(Path(data)))
