"""A training run from data folders to `model.safetensors`, read top to bottom. Both phases, resumable at any epoch."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from ssmt_edge import dataset
from ssmt_edge.errors import CheckpointError, DataError, UsageError
from ssmt_edge.evaluate import choose_threshold, evaluate
from ssmt_edge.files import write_json
from ssmt_edge.spec import Crop, ModelSpec, Resize
from trainer.callbacks import AtomicCheckpointIO, Metrics
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrainConfig
from trainer.data import EpochSampler, Frames
from trainer.deployed import Deployed, TorchEngine
from trainer.module import SsmtModule
from trainer.nets import build_network
from trainer.nets.network import Network

Say = Callable[[str], None]


def train(
    config: TrainConfig, out: Path, resume: bool = False, init: Path | None = None, say: Say = print
) -> dict[str, Any]:
    """Trains a network and leaves a run folder.

    The folder holds `config.json`, `pretrained.safetensors` after phase 1, `model.safetensors` (the epoch with the
    best validation Dice, with its decision threshold), `result.json`, and a folder a phase with `metrics.csv` and the
    resume file `last.ckpt`.

    Args:
        config: the run; with `resume` it must equal that of the folder.
        out: run folder; must not exist yet unless `resume`.
        init: checkpoint to start the weights from (fine-tuning).
        say: receives progress lines.

    Returns:
        Content of `result.json`: Dice on `val` with its n, threshold, data summary, path of the checkpoint. After phase
        `pretrain` alone there is no such file: path of `pretrained.safetensors` and number of images.

    Raises:
        DataError, CheckpointError, UsageError: one line each.
    """
    record = {**json.loads(json.dumps(config.to_dict())), "init": str(init) if init else None}
    _check_folder(out, record, resume)
    L.seed_everything(config.seed, verbose=False)
    labelled = [dataset.load_samples(Path(d), "all") for d in config.data]
    if config.fold is not None and labelled:
        labelled[0] = dataset.in_fold(labelled[0], config.fold, config.folds)
    training = [s for samples in labelled for s in samples if s.split == "train"]
    validation = [s for s in labelled[0] if s.split == "val"] if labelled else []
    pool = [*dataset.load_unlabelled([Path(d) for d in config.unlabelled]), *training]
    training = dataset.with_labels(training, config.label_fraction, config.seed) if training else []
    if config.phase != "pretrain" and not (training and validation):
        raise DataError("no labelled images to train and validate on; give --data with a data set that has both splits")
    if config.phase != "pretrain" and any(s.nodule is None for s in validation):
        raise DataError(f"{config.data[0]} has no nodule masks to validate with; give a data set that has them first")
    if not pool:
        raise DataError("nothing to train on; give --data or --unlabelled")

    spec = ModelSpec(
        config.model,
        config.input_size,
        gray_mean=0.0,
        gray_scale=1.0,
        outputs=_trained_outputs(training, config.tasks) if config.phase != "pretrain" else (),
        crop=cast(Crop, config.crop),
        resize=cast(Resize, config.resize),
        trained_on=tuple(Path(d).name for d in (*config.data, *config.unlabelled)),
    )
    reference = Frames(training or pool, spec)
    mean, deviation = reference.gray_statistics()
    # a whole gray level, so that an INT8 engine quantises its input without any error
    spec = replace(spec, gray_mean=float(round(mean)), gray_scale=round(1 / max(deviation, 1.0), 6))
    say(f"{len(training)} training, {len(validation)} validation and {len(pool)} images in all; gray mean {mean:.1f}")

    network = build_network(config.model, config.input_size)
    if config.pretrained:
        _load_pretrained(network, config.pretrained)
    if init is not None:
        start = load_checkpoint(init)
        if start.spec.model != config.model:
            raise CheckpointError(f"{init} is a {start.spec.model}; expected {config.model}, as --model says")
        if start.spec.input_size != config.input_size:
            raise CheckpointError(
                f"{init} was trained at input size {start.spec.input_size}, not {config.input_size}; give --input-size "
                f"{start.spec.input_size}"
            )
        network.load_state_dict(start.network.state_dict())

    # not earlier, so that unusable options leave no folder behind
    if not (out / "config.json").is_file():
        write_json(out / "config.json", record)
    stored = out / "pretrained.safetensors"
    if stored.is_file():
        network.load_state_dict(load_checkpoint(stored).network.state_dict())
        say(f"pretraining is done: {stored}")
    elif config.phase in ("pretrain", "both"):
        say(f"phase 1: reconstruction of {len(pool)} images, {config.pretrain_epochs} epochs")
        _fit(network, spec, config, "pretrain", Frames(pool, spec, config.seed), None, out, say)
        save_checkpoint(stored, network, replace(spec, outputs=()), config.to_dict())
    if config.phase == "pretrain":
        return {"checkpoint": str(stored), "images": len(pool)}

    say(f"phase 2: all tasks on {len(training)} images, {config.epochs} epochs")
    held = Frames(validation, spec)
    _fit(network, spec, config, "supervised", Frames(training, spec, config.seed), held, out, say)
    return _finish(network, spec, config, validation, training, out)


def _check_folder(out: Path, record: dict[str, Any], resume: bool) -> None:
    """UsageError for a run folder in use or, with `resume`, for one that was started with other options."""
    stored = out / "config.json"
    if not resume:
        if out.exists() and any(out.iterdir()):
            raise UsageError(f"{out} is not empty; add --resume to go on with it, or give another folder")
        return
    if not stored.is_file():
        raise UsageError(f"{out} holds no run to resume (no config.json); leave --resume out to start one there")
    try:
        before = dict(json.loads(stored.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{stored} is damaged ({error}); start again in another folder") from None
    for name, now in record.items():
        if name != "workers" and before.get(name) != now:
            raise UsageError(f"{out} was started with {name} = {before.get(name)}, now it is {now}; resume unchanged")


def _trained_outputs(training: list[dataset.Sample], tasks: tuple[str, ...]) -> tuple[str, ...]:
    nodule = any(s.nodule for s in training)
    present = {"nodule": nodule, "gland": any(s.gland for s in training), "size": nodule}
    return tuple(task for task, labelled in present.items() if labelled and task in tasks)


def _load_pretrained(network: Network, names: tuple[str, str]) -> None:
    try:
        network.load_pretrained(*names)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"no pretrained weights for {names[0]} and {names[1]}: {reason}; check the names and the network, or give "
            "two local folders in the hub's format"
        ) from None


def _fit(
    network: Network,
    spec: ModelSpec,
    config: TrainConfig,
    phase: str,
    frames: Frames,
    held: Frames | None,
    out: Path,
    say: Say,
) -> None:
    """One phase with Lightning; on return the network holds the best weights (phase 2) or the last (phase 1)."""
    epochs = config.pretrain_epochs if phase == "pretrain" else config.epochs
    folder = out / phase
    batch = min(config.batch_size, len(frames))
    options: dict[str, Any] = {"batch_size": batch, "num_workers": config.workers}
    loader = DataLoader(frames, sampler=EpochSampler(frames, config.seed), drop_last=True, **options)
    held_loader = DataLoader(held, **options) if held else None
    reconstruct = config.weights.reconstruction and "reconstruction" in config.tasks
    tasks = (*spec.outputs, "reconstruction") if reconstruct else spec.outputs
    if config.freeze == "encoder" and phase == "supervised":
        network.freeze_encoder()
    module = SsmtModule(network, spec, config, phase, tasks, steps=len(loader) * epochs)

    def report(row: dict[str, float]) -> None:
        dice = f", val Dice {row['val_dice']:.4f}" if "val_dice" in row else ""
        say(f"epoch {int(row['epoch']) + 1}/{epochs}, step {int(row['step'])}, loss {row['loss']:.4f}{dice}")

    files: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    callbacks: list[L.Callback] = [Metrics(folder / "metrics.csv", report)]
    if held:  # before `last`, which has to hold the best score so far, this epoch's included
        callbacks.append(ModelCheckpoint(filename="best", monitor="val_dice", mode="max", **files))
    callbacks.append(ModelCheckpoint(filename="last", save_on_train_epoch_end=True, **files))
    if config.averaging and phase == "supervised":
        callbacks.append(EMAWeightAveraging(decay=config.averaging))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="auto",
        devices=1,
        precision="bf16-mixed" if _use_bf16(config.precision) else "32-true",
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        logger=False,
        gradient_clip_val=1.0,  # transformers from scratch: one bad batch must not undo an epoch
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        default_root_dir=folder,
    )
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs leave it out
    last = folder / "last.ckpt"
    try:
        trainer.fit(module, loader, held_loader, ckpt_path=last if last.is_file() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    best = folder / "best.ckpt"
    if held and best.is_file():
        state = AtomicCheckpointIO().load_checkpoint(best, map_location="cpu")["state_dict"]
        network.load_state_dict({k.removeprefix("network."): v for k, v in state.items()})


def _use_bf16(precision: str) -> bool:
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _finish(
    network: Network,
    spec: ModelSpec,
    config: TrainConfig,
    validation: list[dataset.Sample],
    training: list[dataset.Sample],
    out: Path,
) -> dict[str, Any]:
    """Chooses the threshold on `val`, in the frames' own pixels, and writes the checkpoint and `result.json`."""
    network.eval()
    undecided = TorchEngine(Deployed(network, spec, ("nodule",)))
    spec = replace(spec, threshold=choose_threshold(undecided, validation))
    path = out / "model.safetensors"
    save_checkpoint(path, network, spec, config.to_dict())
    scores = evaluate(TorchEngine(Deployed(network, spec, ("nodule",))), validation)
    result = {
        "checkpoint": str(path),
        "threshold": spec.threshold,
        "val": {k: v for k, v in scores.items() if k != "per_image"},
        "training": dataset.summary(training),
        "validation": dataset.summary(validation),
    }
    write_json(out / "result.json", result)
    return result
