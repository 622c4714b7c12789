"""What hangs on Lightning's loop: resume files that are whole or absent, metrics, averaging, early stopping, speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

from ssmt_edge.errors import CheckpointError, SsmtError
from ssmt_edge.files import replacing, write_csv, write_json

PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "callbacks", "loops", "epoch", "global_step", "weighting"}
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


def remove_parts(folder: Path) -> None:
    """Deletes what a process that was killed while writing has left below a run folder, see `files.replacing`."""
    for part in folder.rglob(".*.part.*"):
        part.unlink(missing_ok=True)


class Metrics(L.Callback):
    """One row an epoch in `metrics.csv`. The rows travel in the resume file, so a resumed curve has no gap or repeat.

    Args:
        path: of the CSV file, which the first process writes.
        report: called with each new row.
    """

    def __init__(self, path: Path, report: Callable[[dict[str, float]], None]) -> None:
        self.path, self.report = path, report
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in pl_module.parameters()):  # before `last` is saved with them
            raise SsmtError(
                f"the weights are no longer finite after epoch {trainer.current_epoch + 1}: training diverged; lower "
                "--lr and start again elsewhere"
            )
        logged = {k: float(v) for k, v in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": rate, **logged}
        # a task without a label in the whole epoch has no mean
        self.rows.append({name: value for name, value in row.items() if not math.isnan(value) or name == "loss"})
        if not trainer.is_global_zero:
            return
        write_csv(self.path, self.rows)
        self.report(self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])


class Patience(EarlyStopping):
    """Lightning's early stopping on the validation Dice, which also stays stopped when a run is resumed."""

    def __init__(self, patience: int) -> None:
        super().__init__("val_dice", mode="max", patience=patience)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class Average(WeightAveraging):
    """Exponential moving average of weights and batch statistics after every step.

    As `start + (1 - decay) * (end - start)`: a frozen weight stays bit by bit what it is, which the sum of both parts
    in Lightning's own EMAWeightAveraging does not grant.
    """

    def __init__(self, decay: float) -> None:
        def nearer(average: Tensor, current: Tensor, _: Any) -> Tensor:
            return torch.lerp(average, current, 1 - decay) if current.is_floating_point() else current

        super().__init__(avg_fn=nearer)


class Speed(L.Callback):
    """Images a second: of the loader alone (its first `SECONDS`), of the steps alone, and of the first epoch as it was.

    Written once a phase to `speed.json` as {loader, step, epoch} over all processes, with the share of the epoch that
    was spent waiting for images. The first batch is left out: it pays for start and warm-up.
    """

    SECONDS = 2.0

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self._steps = self._started = self._begun = 0.0
        self._images = 0
        self._loader: float | None = None

    def measure(self, loader: DataLoader[Any]) -> None:
        """Runs the loader alone; at the place of its epoch it changes nothing, because items depend on their key.

        Nothing is told of an epoch so short that most of its batches were ready before the clock started.
        """
        ahead = loader.num_workers * (loader.prefetch_factor or 0)
        if len(loader) <= 4 * ahead + 1:
            return
        images, batches = 0, iter(loader)
        next(batches)
        begun = time.perf_counter()
        for batch in batches:
            images += len(batch["image"])
            if time.perf_counter() - begun > self.SECONDS:
                break
        self._loader = images / (time.perf_counter() - begun)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.path.exists():
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        if batch_idx == 0:
            self._begun = now
            self._steps, self._images = 0.0, 0
            return
        self._steps += now - self._started
        self._images += len(batch["image"])
        if batch_idx == trainer.num_training_batches - 1 and trainer.is_global_zero:
            self._write(now - self._begun, trainer.world_size)

    def _write(self, whole: float, processes: int) -> None:
        speed = {
            "loader": _round(self._loader and self._loader * processes),
            "step": _round(self._images / self._steps * processes),
            "epoch": _round(self._images / whole * processes),
            "waiting": round(1 - self._steps / whole, 3),
        }
        write_json(self.path, speed)
        alone = f"loader alone {speed['loader']} images/s, " if speed["loader"] else ""
        self.say(f"{alone}steps {speed['step']} images/s, waiting for images {speed['waiting']:.0%} of the time")


def _round(value: float | None) -> float | None:
    return round(value, 1) if value else None
