"""One phase of training with Lightning, in one process or in each of several."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from ssmt_edge.errors import DataError
from ssmt_edge.spec import ModelSpec
from trainer.callbacks import AtomicCheckpointIO, Average, Metrics, Patience, Speed
from trainer.config import TrainConfig
from trainer.data import Frames
from trainer.module import SsmtModule
from trainer.nets.network import Network
from trainer.sampler import EpochSampler, HeldSampler


@dataclass(frozen=True)
class Place:
    """Where a process trains."""

    hardware: dict[str, Any]
    """options of Lightning's Trainer, see `processes.hardware`"""
    process: int
    """number of this process among all"""
    processes: int


def fit(
    network: Network,
    spec: ModelSpec,
    config: TrainConfig,
    phase: str,
    frames: Frames,
    held: Frames | None,
    out: Path,
    place: Place,
    say: Callable[[str], None],
) -> None:
    """Trains in `out / phase`, from its `last.ckpt` on if there is one.

    On return the network of the first process holds the best weights (with `held`) or the last.

    Args:
        phase: `pretrain` or `supervised`.
        frames: training images.
        held: validation images with nodule masks; None for no validation.

    Raises:
        CheckpointError: a resume file is unusable.
        DataError: fewer images than processes.
    """
    pretraining = phase == "pretrain"
    epochs = config.pretrain_epochs if pretraining else config.epochs
    folder = out / phase
    loader, held_loader = _loaders(frames, held, config, place)
    if config.freeze == "encoder" and not pretraining:
        network.freeze_encoder()
    tasks = (*spec.outputs, "reconstruction") if reconstructs(config, network) else spec.outputs
    steps = math.ceil(len(loader) / config.accumulate) * epochs
    module = SsmtModule(network, spec, config, phase, tasks, steps)

    def report(row: dict[str, float]) -> None:
        dice = f", val Dice {row['val_dice']:.4f}" if "val_dice" in row else ""
        say(f"epoch {int(row['epoch']) + 1}/{epochs}, step {int(row['step'])}, loss {row['loss']:.4f}{dice}")

    speed = Speed(folder / "speed.json", say)
    callbacks: list[L.Callback] = [Metrics(folder / "metrics.csv", report), speed]
    if held and config.patience:
        callbacks.append(Patience(config.patience))
    if config.averaging and not pretraining:
        callbacks.append(Average(config.averaging))
    files: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    if held:  # before `last`, which has to hold the best score so far, this epoch's included
        callbacks.append(ModelCheckpoint(filename="best", monitor="val_dice", mode="max", **files))
    callbacks.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **files))
    warnings.filterwarnings("ignore", module="lightning")
    trainer = L.Trainer(
        **place.hardware,
        max_epochs=epochs,
        accumulate_grad_batches=config.accumulate,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=TensorBoardLogger(out / "tensorboard", name=phase, version="") if config.tensorboard else False,
        gradient_clip_val=1.0,  # transformers from scratch: one bad batch must not undo an epoch
        deterministic=config.deterministic,
        benchmark=not config.deterministic,
        sync_batchnorm=torch.cuda.is_available() and place.processes > 1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=folder,
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs leave it out
    last = folder / "last.ckpt"
    if not speed.path.exists():
        speed.measure(loader)
    try:
        trainer.fit(module, loader, held_loader, ckpt_path=last if last.is_file() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        torch.use_deterministic_algorithms(False)  # Lightning leaves it on
    best = folder / "best.ckpt"
    if held and place.process == 0 and best.is_file():
        state = AtomicCheckpointIO().load_checkpoint(best, map_location="cpu")["state_dict"]
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})


def reconstructs(config: TrainConfig, network: Network) -> bool:
    """Whether phase 2 learns to reconstruct, too."""
    return bool(config.weights.reconstruction) and "reconstruction" in set(config.tasks) & set(network.tasks)


def _loaders(
    frames: Frames, held: Frames | None, config: TrainConfig, place: Place
) -> tuple[DataLoader[Any], DataLoader[Any] | None]:
    process, processes = place.process, place.processes
    batch = min(config.batch_size, len(frames)) // processes * processes
    if not batch:
        raise DataError(f"{len(frames)} training images for {processes} processes; give more images or fewer devices")
    options: dict[str, Any] = {
        "batch_size": batch // processes,
        "num_workers": config.workers,
        "persistent_workers": config.workers > 0,
        "pin_memory": torch.cuda.is_available(),
    }
    sampler = EpochSampler(frames.samples, config.seed, batch, process, processes)
    loader: DataLoader[Any] = DataLoader(frames, sampler=sampler, **options)
    if held is None:
        return loader, None
    return loader, DataLoader(held, sampler=HeldSampler(len(held), process, processes), **options)
