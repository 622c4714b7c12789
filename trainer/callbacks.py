"""What a run leaves behind while it goes on: metrics as CSV, and resume files that are whole or absent."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ssmt_edge.errors import CheckpointError
from ssmt_edge.files import replacing

PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step"}
"""what a resume file holds at least"""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Resume files are renamed into place, and read without executing pickled code.

    CheckpointError for a file that is damaged, of another kind, or holds code.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(Path(path)) as part:
            torch.save(checkpoint, part)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        try:
            loaded: Any = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:  # any kind: torch's restricted unpickler trips over bytes that are no pickle
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise _unusable(path, reason) from None
        if not isinstance(loaded, dict) or not loaded.keys() >= PARTS:
            raise _unusable(path, "it is not a resume file of train")
        return loaded


def _unusable(path: str | Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} cannot be resumed from ({reason}); delete it to start the phase again")


class Metrics(L.Callback):
    """One row an epoch in `metrics.csv`. The rows travel in the resume file, so a resumed curve has no gap or repeat.

    Args:
        path: of the CSV file.
        report: called with each new row.
    """

    def __init__(self, path: Path, report: Callable[[dict[str, float]], None]) -> None:
        self.path, self.report = path, report
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": rate, **logged})
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)
        self.report(self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
