"""Whole training runs on a few phantoms: both phases, resuming, mixed labels, and every refusal in one line."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from ssmt_edge.pictures import TRUTH

torch = pytest.importorskip("torch")

from ssmt_edge.errors import CheckpointError, DataError, MissingDependency, SsmtError, UsageError  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402
from trainer.checkpoint import load_checkpoint, read_weights  # noqa: E402
from trainer.config import TrainConfig, resolve  # noqa: E402
from trainer.fit import train  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PHASES = {"pretrain": 2, "supervised": 4}  # epochs
STEPS = 3  # an epoch: 14 frames in batches of 4, the rest left out


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Sums come out alike only with the same number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def config(phantom_set: Path) -> TrainConfig:
    return TrainConfig(
        "ssmt-lite",
        data=(str(phantom_set),),
        epochs=PHASES["supervised"],
        pretrain_epochs=PHASES["pretrain"],
        batch_size=4,
        input_size=32,
        workers=0,
        precision="32",
        seed=1,
    )


@pytest.fixture(scope="module")
def finished(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(config, out, say=lambda _: None)
    return out


def run(config: TrainConfig, out: Path, resume: bool = False, init: Path | None = None) -> list[str]:
    """Trains and returns the progress lines."""
    lines: list[str] = []
    train(config, out, resume, init, say=lines.append)
    return lines


def curve(out: Path, phase: str) -> list[dict[str, str]]:
    with (out / phase / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_unbroken(out: Path) -> None:
    for phase, epochs in PHASES.items():
        rows = curve(out, phase)
        assert [int(row["epoch"]) for row in rows] == list(range(epochs))
        assert [int(row["step"]) for row in rows] == [STEPS * (i + 1) for i in range(epochs)]


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = read_weights(a)[0], read_weights(b)[0]
    assert first.keys() == second.keys()
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_both_phases_leave_a_complete_run(finished: Path, config: TrainConfig) -> None:
    assert set(digests(finished)) == {
        "config.yaml",
        "run.json",
        "pretrained.safetensors",
        "model.safetensors",
        "result.json",
        "curves.png",
        "sheet.png",
        "pretrain/last.ckpt",
        "pretrain/metrics.csv",
        "pretrain/speed.json",
        "supervised/best.ckpt",
        "supervised/last.ckpt",
        "supervised/metrics.csv",
        "supervised/speed.json",
    }
    assert_unbroken(finished)
    rates = [float(row["lr"]) for row in curve(finished, "supervised")]
    assert rates == sorted(rates, reverse=True) and rates[-1] == pytest.approx(config.lr_end)
    result = json.loads((finished / "result.json").read_text())
    checkpoint = load_checkpoint(finished / "model.safetensors")
    assert checkpoint.spec.outputs == ("nodule", "gland", "size")
    assert checkpoint.spec.trained_on == ("set",)
    assert checkpoint.spec.threshold == result["threshold"]
    assert result["val"]["n"] == 2
    assert result["training"]["images"] == 14
    assert load_checkpoint(finished / "pretrained.safetensors").spec.outputs == ()
    assert resolve(finished / "config.yaml", {}) == config
    made = json.loads((finished / "run.json").read_text())
    assert made["versions"]["torch"] == torch.__version__ and made["devices"] and made["threads"] == 1
    for phase in PHASES:
        speed = result["speed"][phase]
        assert speed["loader"] > 0 and speed["step"] > 0 and 0 <= speed["waiting"] < 1
    assert shows_outlines(finished / "sheet.png")
    assert cv2.imread(str(finished / "curves.png")) is not None


def shows_outlines(path: Path) -> bool:
    """Of the truth, below the head that explains their colours."""
    below_the_legend = cv2.imread(str(path)).astype(int)[60:]
    return bool((abs(below_the_legend - TRUTH[::-1]).sum(axis=2) < 30).any())


def test_tiny_ssmt_net_runs_through_both_phases(config: TrainConfig, tmp_path: Path) -> None:
    lines = run(replace(config, model="ssmt-net-tiny", epochs=1, pretrain_epochs=1), tmp_path / "run")
    assert sum(line.startswith("epoch 1/1, step 3, loss ") for line in lines) == 2
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").spec.model == "ssmt-net-tiny"


def test_resume_file_knows_the_best_score_of_its_own_epoch(config: TrainConfig, tmp_path: Path) -> None:
    # or a worse epoch after resuming would take the place of the best one
    run(replace(config, model="ssmt-net-tiny", phase="supervised", epochs=1), tmp_path / "run")
    states = torch.load(tmp_path / "run" / "supervised" / "last.ckpt", weights_only=True)["callbacks"]
    (best,) = (state for name, state in states.items() if "val_dice" in name)
    (row,) = curve(tmp_path / "run", "supervised")
    assert float(best["best_model_score"]) == float(row["val_dice"])


def test_resuming_a_finished_run_changes_nothing(finished: Path, config: TrainConfig) -> None:
    before = digests(finished)
    lines = run(config, finished, resume=True)
    assert not [line for line in lines if line.startswith("epoch")]
    assert digests(finished) == before


def test_refused_without_training(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    before = digests(finished)
    with pytest.raises(UsageError, match="is not empty; add --resume"):
        run(config, finished)
    changes: dict[str, Any] = {"lr": 0.5, "epochs": 9, "averaging": 0.5, "data": ("elsewhere",)}
    for name, value in changes.items():
        with pytest.raises(UsageError, match=f"was started with {name} = .*, now it is .*; resume unchanged"):
            run(replace(config, **{name: value}), finished, resume=True)
    with pytest.raises(UsageError, match="was started with init = None, now it is"):
        run(config, finished, resume=True, init=finished / "model.safetensors")
    assert digests(finished) == before
    shutil.copytree(finished, tmp_path / "copy")
    for name, content in (("config.yaml", "epocs: 3"), ("config.yaml", "["), ("run.json", "{")):
        whole = (tmp_path / "copy" / name).read_bytes()
        (tmp_path / "copy" / name).write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.yaml or run\.json is damaged"):
            run(config, tmp_path / "copy", resume=True)
        (tmp_path / "copy" / name).write_bytes(whole)
    run(replace(config, workers=1), tmp_path / "copy", resume=True)  # changes no result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "vnet"}, "unknown network 'vnet'"),
        ({"input_size": 40}, "input size 40 is not a multiple of 32"),
        ({"data": ("nowhere",)}, "nowhere is not a folder"),
        ({"data": ()}, "no labelled images"),
        ({"data": (), "phase": "pretrain"}, "nothing to train on"),
        ({"precision": "fp16"}, "precision fp16 needs a GPU"),
        ({"strategy": "dpp"}, "strategy 'dpp', expected auto or one of"),
        ({"nodes": 2}, "2 nodes, but MASTER_ADDR is not set; start the command on every node with torchrun"),
    ],
)
def test_unusable_options_leave_no_folder(
    config: TrainConfig, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SsmtError, match=message):
        run(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "all"}, "phase 'all', expected one of pretrain, supervised, both"),
        ({"crop": "half"}, "crop 'half', expected one of scan-area, none"),
        ({"resize": "zoom"}, "resize 'zoom', expected one of stretch, letterbox"),
        ({"precision": "8"}, "precision '8', expected one of auto, 32, bf16, fp16"),
        ({"lr": float("nan")}, "lr is nan, expected a finite value above 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"pretrain_epochs": -1}, "pretrain_epochs is -1"),
        ({"averaging": 1.0}, "averaging is 1.0"),
        ({"patience": -1}, "patience is -1, expected a finite value of at least 0"),
        ({"devices": 0}, "devices is 0, expected a number above 0 or auto"),
    ],
)
def test_impossible_options_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainConfig(**change)


def test_tensorboard_that_is_not_installed_is_one_line(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else found(name, *a)
    )
    with pytest.raises(
        MissingDependency, match=r"tensorboard is not installed; .* pip install 'ssmt-edge\[tensorboard\]'"
    ):
        run(replace(config, tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Payload:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


def test_foreign_resume_files_are_refused_and_not_executed(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    out, target = tmp_path / "run", tmp_path / "executed"
    shutil.copytree(finished, out)
    (out / "result.json").unlink()  # or nothing would be left to do
    for name in ("last.ckpt", "best.ckpt"):
        path = out / "supervised" / name
        whole = path.read_bytes()
        torch.save({"state_dict": {}, "callbacks": Payload(target)}, path)
        with pytest.raises(CheckpointError, match=rf"{name} cannot be resumed from"):
            run(config, out, resume=True)
        assert not target.exists()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=rf"{name} cannot be resumed from"):
            run(config, out, resume=True)
        path.write_bytes(whole)
    run(config, out, resume=True)


def test_interrupted_run_is_resumable(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def stop(line: str) -> None:
        if line.startswith("epoch 2/4"):
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run", say=stop)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    run(config, tmp_path / "run", resume=True)
    assert_unbroken(tmp_path / "run")
    assert_same_weights(finished / "model.safetensors", tmp_path / "run" / "model.safetensors")


def kill_at(config: TrainConfig, out: Path, phase: str, line: str) -> None:
    """Runs the command in a process of its own and kills it when `line` comes in phase `phase` (`phase 2`)."""
    command = [sys.executable, "-c", "from ssmt_edge.cli import main; main()", "train", "--out", str(out)]
    command += ["--data", config.data[0], "--model", config.model, "--averaging", str(config.averaging)]
    command += ["--epochs", str(config.epochs), "--pretrain-epochs", str(config.pretrain_epochs), "--seed", "1"]
    command += ["--batch-size", "4", "--input-size", "32", "--workers", "0", "--precision", "32"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    reached, seen = False, []
    with process:
        for text in process.stderr:
            seen.append(text)
            reached = reached or text.startswith(phase)
            if reached and text.startswith(line):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, "".join(seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("averaging", "phase", "line"),
    [(0.0, "phase 1", "epoch 1/2"), (0.0, "phase 2", "epoch 2/4"), (0.9, "phase 2", "epoch 2/4")],
)
def test_killed_and_resumed_ends_like_an_uninterrupted_run(
    finished: Path, config: TrainConfig, tmp_path: Path, averaging: float, phase: str, line: str
) -> None:
    config = replace(config, averaging=averaging)
    whole, killed = finished, tmp_path / "killed"
    if averaging:
        whole = tmp_path / "whole"
        run(config, whole)
    kill_at(config, killed, phase, line)
    assert not (killed / "result.json").exists()
    run(config, killed, resume=True)
    assert_unbroken(killed)
    for name in PHASES:
        assert curve(killed, name) == curve(whole, name)
    assert_same_weights(whole / "pretrained.safetensors", killed / "pretrained.safetensors")
    assert_same_weights(whole / "model.safetensors", killed / "model.safetensors")


def test_averaging_gives_other_weights(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    run(replace(config, averaging=0.9), tmp_path / "run")
    assert_same_weights(finished / "pretrained.safetensors", tmp_path / "run" / "pretrained.safetensors")
    with pytest.raises(AssertionError):
        assert_same_weights(finished / "model.safetensors", tmp_path / "run" / "model.safetensors")


def make_tg3k(phantom_set: Path, root: Path) -> Path:
    """The phantoms' images and gland masks in TG3K's layout."""
    for source, folder in (("trainval-image", "thyroid-image"), ("trainval-gland", "thyroid-mask")):
        shutil.copytree(phantom_set / source, root / folder)
    return root


def test_nodule_only_and_gland_only_samples_train_both(config: TrainConfig, phantom_set: Path, tmp_path: Path) -> None:
    nodules = tmp_path / "nodules"
    shutil.copytree(phantom_set, nodules, ignore=shutil.ignore_patterns("*-gland"))
    glands = make_tg3k(phantom_set, tmp_path / "glands")
    mixed = replace(config, data=(str(nodules), str(glands)), phase="supervised", epochs=1)
    run(mixed, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "model.safetensors")
    assert checkpoint.spec.outputs == ("nodule", "gland", "size")
    assert checkpoint.spec.trained_on == ("nodules", "glands")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["training"]["nodule_masks"], result["training"]["gland_masks"]) == (14, 16)
    (row,) = curve(tmp_path / "run", "supervised")
    assert float(row["loss_nodule"]) > 0 and float(row["loss_gland"]) > 0
    # without reconstruction, an image whose label is not learnt serves nothing
    run(replace(mixed, tasks=("nodule",)), tmp_path / "one")
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert (result["training"]["images"], result["training"]["gland_masks"]) == (14, 0)
    # alone, the set of nodules trains no gland
    run(replace(mixed, data=(str(nodules),)), tmp_path / "alone")
    assert load_checkpoint(tmp_path / "alone" / "model.safetensors").spec.outputs == ("nodule", "size")
    assert "loss_gland" not in curve(tmp_path / "alone", "supervised")[0]


def test_a_run_that_diverged_is_one_line_and_no_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    diverging = replace(config, phase="supervised", epochs=1, lr=1e30)
    with pytest.raises(SsmtError, match="no longer finite after epoch 1: training diverged; lower --lr"):
        run(diverging, tmp_path / "run")
    assert not list(tmp_path.rglob("last.ckpt")) and not list(tmp_path.rglob("*.safetensors"))


def test_gland_masks_alone_cannot_validate(config: TrainConfig, phantom_set: Path, tmp_path: Path) -> None:
    glands = make_tg3k(phantom_set, tmp_path / "glands")
    (glands / "tg3k-trainval.json").write_text(json.dumps({"train": list(range(12)), "val": [12, 13, 14, 15]}))
    with pytest.raises(DataError, match="glands has no nodule masks to validate with"):
        run(replace(config, data=(str(glands), *config.data)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pretraining_alone_needs_no_labels(config: TrainConfig, phantom_set: Path, tmp_path: Path) -> None:
    images = str(phantom_set / "trainval-image")
    alone = replace(config, data=(), unlabelled=(images,), phase="pretrain")
    lines = run(alone, tmp_path / "run")
    assert sum(line.startswith("epoch") for line in lines) == PHASES["pretrain"]
    spec = load_checkpoint(tmp_path / "run" / "pretrained.safetensors").spec
    assert spec.outputs == () and spec.gray_mean > 0
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not [line for line in run(alone, tmp_path / "run", resume=True) if line.startswith("epoch")]


def test_init_starts_from_a_checkpoint(finished: Path, config: TrainConfig, tmp_path: Path) -> None:
    # so small a rate that the weights stay those of the checkpoint
    tuned = replace(config, phase="supervised", epochs=1, lr=1e-9, lr_end=1e-9)
    run(tuned, tmp_path / "run", init=finished / "model.safetensors")
    before = dict(load_checkpoint(finished / "model.safetensors").network.named_parameters())
    for name, value in load_checkpoint(tmp_path / "run" / "model.safetensors").network.named_parameters():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)
    with pytest.raises(CheckpointError, match="is a ssmt-lite; expected ssmt-net-tiny, as --model says"):
        run(replace(tuned, model="ssmt-net-tiny"), tmp_path / "other", init=finished / "model.safetensors")
    (tmp_path / "random.safetensors").write_bytes(bytes(range(256)))
    with pytest.raises(CheckpointError, match="is not a checkpoint of ssmt-edge"):
        run(tuned, tmp_path / "other", init=tmp_path / "random.safetensors")
    assert not (tmp_path / "other").exists()


def test_nothing_to_resume_is_said(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run to resume"):
        run(config, tmp_path / "typo", resume=True)
    assert not (tmp_path / "typo").exists()


def test_weights_of_another_input_size_are_refused(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    other = replace(config, input_size=2 * config.input_size)
    with pytest.raises(CheckpointError, match="was trained at input size"):
        run(other, tmp_path / "run", init=finished / "model.safetensors")
