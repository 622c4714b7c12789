"""A training run from data folders to `model.safetensors`, read top to bottom. Both phases, resumable at any epoch."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from safetensors import SafetensorError

from ssmt_edge import dataset
from ssmt_edge.errors import CheckpointError, DataError, UsageError
from ssmt_edge.evaluate import evaluate
from ssmt_edge.files import write_json
from ssmt_edge.packages import extra_of
from ssmt_edge.spec import ModelSpec
from ssmt_edge.unlike import learn_usual
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.config import TrainConfig
from trainer.data import Frames
from trainer.decide import decide
from trainer.deployed import Deployed, TorchEngine
from trainer.nets import build_network
from trainer.nets.network import Network
from trainer.phase import Place, fit, reconstructs
from trainer.processes import hardware, in_processes, place, to_start
from trainer.run_folder import check_folder, draw_curves, draw_sheet, start_folder

Say = Callable[[str], None]


def train(
    config: TrainConfig, out: Path, resume: bool = False, init: Path | None = None, say: Say = print
) -> dict[str, Any]:
    """Trains a network and leaves a run folder.

    The folder holds `config.yaml`, `run.json` (versions, devices, command), `pretrained.safetensors` after phase 1,
    `model.safetensors` (the epoch with the best validation Dice, with its temperature and threshold), `result.json`,
    `curves.png`, `sheet.png` (validation pictures), and a folder a phase with `metrics.csv`, `speed.json`, `best.ckpt`
    and the resume file `last.ckpt`.

    With `config.devices` above 1 this process starts as many, and only waits. Where torchrun or SLURM started several,
    each calls this, and the first one writes the files.

    Args:
        config: the run; with `resume` it must equal that of the folder, but for `config.SAME_RESULT`.
        out: run folder; must not exist yet unless `resume`. A finished run is not touched again.
        init: checkpoint to start the weights from (fine-tuning).
        say: receives progress lines.

    Returns:
        Content of `result.json`: scores on `val`, threshold, data summary, speed, path of the checkpoint. After phase
        `pretrain` alone there is no such file: path of `pretrained.safetensors` and number of images. Empty in all but
        the first of several processes that torchrun or SLURM started.

    Raises:
        DataError, CheckpointError, UsageError, MissingDependency: one line each.
    """
    count = to_start(config)
    if count > 1:
        result: dict[str, Any] = in_processes(count, _train, config, out, resume, init, say=say)
        return result
    return _train(config, out, resume, init, say)


def _train(config: TrainConfig, out: Path, resume: bool, init: Path | None, say: Say) -> dict[str, Any]:
    """The run in this process, be it the only one or one of several."""
    options = hardware(config)
    here = Place(options, *place(options))
    first = here.process == 0
    if config.batch_size % here.processes:
        raise UsageError(f"batch_size is {config.batch_size}, expected a multiple of the {here.processes} processes")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise extra_of(ModuleNotFoundError(name="tensorboard"))
    if first:
        check_folder(out, config, init, resume)
    if (out / "result.json").is_file():
        if first:
            say(f"{out} is finished; nothing is left to do")
        return dict(json.loads((out / "result.json").read_text(encoding="utf-8")))
    if not first:
        say = _silent
    L.seed_everything(config.seed, verbose=False)
    labelled = read_labelled(config)
    training = [s for samples in labelled for s in samples if s.split == "train"]
    own = [s for s in labelled[0] if s.split == "train"] if labelled else []
    validation = [s for s in labelled[0] if s.split == "val"] if labelled else []
    pool = [*dataset.load_unlabelled([Path(d) for d in config.unlabelled]), *training]
    training = dataset.with_labels(training, config.label_fraction, config.seed) if training else []
    if config.phase != "pretrain" and not (training and validation):
        raise DataError("no labelled images to train and validate on; give --data with a data set that has both splits")
    if config.phase != "pretrain" and any(s.nodule is None for s in validation):
        raise DataError(f"{config.data[0]} has no nodule masks to validate with; give a data set that has them first")
    if not pool:
        raise DataError("nothing to train on; give --data or --unlabelled")

    network = build_network(config.model, config.input_size)
    if config.phase == "pretrain" and "reconstruction" not in network.tasks:
        raise UsageError(f"{config.model} has no reconstruction decoder to pretrain with; use --phase supervised")
    tasks = tuple(task for task in config.tasks if task in network.tasks)
    spec = ModelSpec(
        config.model,
        config.input_size,
        gray_mean=0.0,
        gray_scale=1.0,
        outputs=_trained_outputs(training, tasks) if config.phase != "pretrain" else (),
        crop=config.crop,
        resize=config.resize,
        trained_on=tuple(Path(d).resolve().name for d in (*config.data, *config.unlabelled)),
    )
    if config.phase != "pretrain" and "nodule" not in spec.outputs:
        raise DataError(
            f"none of the {len(training)} training images has a nodule mask; give --data that has them, or a larger "
            "--label-fraction"
        )
    if not reconstructs(config, network):  # then an image without a label that is learnt serves nothing
        training = [s for s in training if _trained_outputs([s], tasks)]
    learning = Frames(training or pool, spec, config.seed)
    mean, deviation = learning.gray_statistics()
    # a whole gray level, so that an INT8 engine quantises its input without any error
    spec = replace(spec, gray_mean=float(round(mean)), gray_scale=round(1 / max(deviation, 1.0), 6))
    say(f"{len(training)} training and {len(validation)} validation images; gray mean {mean:.1f}")

    if config.pretrained:
        _load_pretrained(network, config.pretrained)
    if init is not None:  # its input scale, too: the weights expect it
        start = _start_from(network, config, init)
        spec = replace(spec, gray_mean=start.gray_mean, gray_scale=start.gray_scale)
    # not earlier, so that unusable options leave no folder behind
    if first:
        start_folder(out, config, init, here.processes)
    stored = out / "pretrained.safetensors"
    if stored.is_file():
        network.load_state_dict(load_checkpoint(stored).network.state_dict())
        say(f"pretraining is done: {stored}")
    elif config.phase != "supervised" and "reconstruction" in network.tasks:
        say(f"phase 1: reconstruction of {len(pool)} images, {config.pretrain_epochs} epochs")
        fit(network, spec, config, "pretrain", Frames(pool, spec, config.seed), None, out, here, say)
        if first:
            save_checkpoint(stored, network, replace(spec, outputs=()), config.to_dict())
            draw_curves(out)
    if config.phase == "pretrain":
        return {"checkpoint": str(stored), "images": len(pool)} if first else {}

    say(f"phase 2: all tasks on {len(training)} images, {config.epochs} epochs")
    fit(network, spec, config, "supervised", learning, Frames(validation, spec), out, here, say)
    if not first:
        return {}
    # what the first data set shows is usual; auxiliary sets may show other organs
    return _finish(network, learn_usual(spec, own or training), config, validation, training, out)


def read_labelled(config: TrainConfig) -> list[list[dataset.Sample]]:
    """The labelled samples of each data set of a run, the first one split by its fold if the run has one."""
    labelled = [dataset.load_samples(Path(d), "all") for d in config.data]
    if config.fold is not None and labelled:
        labelled[0] = dataset.load_folded(Path(config.data[0]), config.fold, config.folds)
    return labelled


def _silent(line: str) -> None:
    """What all processes but the first have to say."""


def _trained_outputs(training: list[dataset.Sample], tasks: tuple[str, ...]) -> tuple[str, ...]:
    nodule = any(s.nodule for s in training)
    present = {"nodule": nodule, "gland": any(s.gland for s in training), "size": nodule}
    return tuple(task for task, labelled in present.items() if labelled and task in tasks)


def _start_from(network: Network, config: TrainConfig, init: Path) -> ModelSpec:
    start = load_checkpoint(init)
    if start.spec.model != config.model:
        raise CheckpointError(f"{init} is a {start.spec.model}; expected {config.model}, as --model says")
    if start.spec.input_size != config.input_size:
        raise CheckpointError(
            f"{init} was trained at input size {start.spec.input_size}, not {config.input_size}; give --input-size "
            f"{start.spec.input_size}"
        )
    network.load_state_dict(start.network.state_dict())
    return start.spec


def _load_pretrained(network: Network, names: tuple[str, str]) -> None:
    try:
        network.load_pretrained(*names)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(
            f"no pretrained weights for {names[0]} and {names[1]}: {reason}; check the names and the network, or give "
            "two local folders in the hub's format"
        ) from None


def _finish(
    network: Network,
    spec: ModelSpec,
    config: TrainConfig,
    validation: list[dataset.Sample],
    training: list[dataset.Sample],
    out: Path,
) -> dict[str, Any]:
    """Decides on `val`, in the frames' own pixels, and writes the checkpoint, the pictures and `result.json`."""
    network.eval()
    spec = decide(network, spec, validation)
    path = out / "model.safetensors"
    save_checkpoint(path, network, spec, config.to_dict())
    engine = TorchEngine(Deployed(network, spec, spec.outputs))
    scores = evaluate(engine, validation)
    draw_curves(out)
    draw_sheet(out, engine, validation, scores["per_image"])
    speeds = {phase: out / phase / "speed.json" for phase in ("pretrain", "supervised")}
    result = {
        "checkpoint": str(path),
        "threshold": spec.threshold,
        "temperature": spec.temperature,
        "val": {k: v for k, v in scores.items() if k != "per_image"},
        "training": dataset.summary(training),
        "validation": dataset.summary(validation),
        "speed": {phase: json.loads(speed.read_text()) for phase, speed in speeds.items() if speed.is_file()},
    }
    write_json(out / "result.json", result)
    return result
