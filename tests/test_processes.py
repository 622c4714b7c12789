"""Two CPU processes (gloo) that train together from the command line, and what happens when one fails."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from commands import ROOT, RUN, Answer, error_line  # noqa: E402

from ssmt_edge.errors import DataError, SsmtError, UsageError  # noqa: E402
from trainer.checkpoint import read_weights  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.fit import train  # noqa: E402
from trainer.processes import in_processes, to_start  # noqa: E402


@pytest.fixture(scope="module")
def config(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Nodules and glands of different images, so that a process's share of a batch may lack a task's labels."""
    glands = tmp_path_factory.mktemp("glands")
    (glands / "thyroid-image").symlink_to(phantom_set / "trainval-image")
    (glands / "thyroid-mask").symlink_to(phantom_set / "trainval-gland")
    nodules = tmp_path_factory.mktemp("nodules")
    for name in ("trainval-image", "trainval-mask"):
        (nodules / name).symlink_to(phantom_set / name)
    return TrainConfig(
        "ssmt-lite",
        data=(str(nodules), str(glands)),
        phase="supervised",
        epochs=2,
        batch_size=4,
        input_size=32,
        workers=0,
        precision="32",
        devices=2,
    )


def command(config: TrainConfig, out: Path, *arguments: str, code: str = RUN) -> list[str]:
    file = out.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    return [sys.executable, "-c", code, "train", "--config", str(file), "--out", str(out), *arguments]


ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(config: TrainConfig, out: Path, *arguments: str) -> Answer:
    done = subprocess.run(command(config, out, *arguments), env=ENV, capture_output=True, text=True, timeout=280)
    return Answer(done.returncode, done.stdout, done.stderr)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "supervised" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def together(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("together") / "run"
    answer = run(config, out, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == json.loads((out / "result.json").read_text())
    for line in ("epoch 1/2", "epoch 2/2", "phase 2"):  # said once, by the first process
        assert sum(said.startswith(line) for said in answer.err.splitlines()) == 1, answer.err
    return out


def test_two_processes_train_as_one_does(config: TrainConfig, together: Path, tmp_path: Path) -> None:
    train(replace(config, devices=1), tmp_path / "alone", say=lambda _: None)
    assert {p.name for p in together.rglob("*")} == {p.name for p in (tmp_path / "alone").rglob("*")}
    assert json.loads((together / "run.json").read_text())["processes"] == 2
    alone, both = rows(tmp_path / "alone"), rows(together)
    assert [row["step"] for row in both] == [row["step"] for row in alone] == ["7", "14"]
    # the same batches; batch statistics and the means of losses are those of half a batch
    assert "val_dice" in both[0]  # of a single image: the other process has none
    assert alone[0].keys() == both[0].keys()
    for name in ("loss", "loss_nodule", "loss_gland", "loss_size", "loss_reconstruction"):
        assert float(both[0][name]) == pytest.approx(float(alone[0][name]), rel=0.05)
    counted = json.loads((together / "result.json").read_text())["training"]
    assert (counted["nodule_masks"], counted["gland_masks"]) == (15, 16)


@pytest.mark.slow
def test_killed_and_resumed_ends_like_an_uninterrupted_run(config: TrainConfig, together: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = command(config, out)
    with subprocess.Popen(arguments, env=ENV, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("epoch 1/2") for line in process.stderr)
        process.send_signal(signal.SIGKILL)  # the one that waits; the two that train end with it
    assert not (out / "result.json").exists()
    time.sleep(2)
    answer = run(config, out, "--resume")
    assert answer.code == 0, answer.err
    assert rows(out) == rows(together)
    first, second = (read_weights(folder / "model.safetensors")[0] for folder in (out, together))
    assert not [name for name in first if not torch.equal(first[name], second[name])]


def work(how: str, folder: Path, say: Any) -> None:
    """The second process fails while the first one waits for it."""
    rank = os.environ["LOCAL_RANK"]
    (folder / rank).write_text(str(os.getpid()))
    if rank == "0":
        time.sleep(200)
    if how == "data":
        raise DataError("a file is missing")
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "bug":
        raise ZeroDivisionError("a mistake")


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("data", DataError, "^a file is missing$"),
        pytest.param(
            "killed",
            SsmtError,
            "^training process 1 ended with SIGKILL; the others were stopped",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "bug", RuntimeError, "in training process 1:\n(.|\n)*ZeroDivisionError: a mistake", marks=pytest.mark.slow
        ),
    ],
)
def test_one_that_fails_ends_all(tmp_path: Path, how: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        in_processes(2, work, how, tmp_path, say=print)
    for rank in ("0", "1"):
        if (tmp_path / rank).exists():
            with pytest.raises(ProcessLookupError):
                os.kill(int((tmp_path / rank).read_text()), 0)


@pytest.mark.slow
def test_refusals_are_one_line(config: TrainConfig, tmp_path: Path) -> None:
    answer = run(replace(config, batch_size=5), tmp_path / "odd")
    assert "batch_size is 5, expected a multiple of the 2 processes" in error_line(answer, 2)
    assert not (tmp_path / "odd").exists()


def test_how_many_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "SLURM_NTASKS", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert to_start(TrainConfig()) == 1
    assert to_start(TrainConfig(devices=3)) == 3
    if not torch.cuda.is_available():
        assert to_start(TrainConfig(devices="auto")) == 1
    with pytest.raises(UsageError, match="2 nodes, but MASTER_ADDR is not set"):
        to_start(TrainConfig(nodes=2))
    monkeypatch.setenv("LOCAL_RANK", "1")  # torchrun did
    assert to_start(TrainConfig(devices=3, nodes=2)) == 1
