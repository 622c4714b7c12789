"""The paper's tables and open questions as experiments: one file a protocol, and what they share.

A protocol turns a configuration into a `Plan` (`plan.py`): cells to train and rows to read off them. `run.py` trains
the cells that are missing, `figures.py` computes what a row says and how sure that is, `report.py` writes the table.
"""

from __future__ import annotations

from collections.abc import Callable

from trainer.experiments import ablation, folds, labels, transfer, weights
from trainer.experiments.plan import Options, Plan

PROTOCOLS: dict[str, Callable[[Options], Plan]] = {
    "ablation": ablation.plan,
    "transfer": transfer.plan,
    "weights": weights.plan,
    "labels": labels.plan,
    "folds": folds.plan,
}
