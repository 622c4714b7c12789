"""What a stop may not change: dropout, early stopping, frozen weights, and the file being written when it came."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from commands import ROOT  # noqa: E402

from trainer.callbacks import AtomicCheckpointIO  # noqa: E402
from trainer.checkpoint import read_weights  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.fit import train  # noqa: E402
from trainer.nets import NETWORKS, build_network  # noqa: E402


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
        phase="supervised",
        epochs=2,
        batch_size=4,
        lr=1e-3,
        input_size=32,
        workers=0,
        precision="32",
        deterministic=True,
    )


def epochs(out: Path) -> list[int]:
    with (out / "supervised" / "metrics.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def differing(a: Path, b: Path) -> list[str]:
    first, second = read_weights(a / "model.safetensors")[0], read_weights(b / "model.safetensors")[0]
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


def interrupted(config: TrainConfig, out: Path, line: str) -> None:
    """Trains, is interrupted after the line that starts so, and goes on."""
    handler = signal.getsignal(signal.SIGINT)

    def stop(said: str) -> None:
        if said.startswith(line):
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, out, say=stop)
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    torch.rand(3)  # whatever else the process draws
    train(config, out, resume=True, say=lambda _: None)


def test_dropout_draws_the_same_after_a_stop(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_dropout(**options: Any) -> Any:
        network = plain(**options)
        network.fuse_dropout = torch.nn.Dropout2d(0.2)
        network.nodule.register_forward_pre_hook(lambda _, given: (network.fuse_dropout(given[0]), *given[1:]))
        return network

    plain = NETWORKS["ssmt-lite"]
    monkeypatch.setitem(NETWORKS, "ssmt-lite", with_dropout)
    train(config, tmp_path / "whole", say=lambda _: None)
    interrupted(config, tmp_path / "stopped", "epoch 1/2")
    assert epochs(tmp_path / "stopped") == epochs(tmp_path / "whole") == [0, 1]
    assert differing(tmp_path / "whole", tmp_path / "stopped") == []
    assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setitem(NETWORKS, "ssmt-lite", plain)  # the draws do matter
    train(config, tmp_path / "plain", say=lambda _: None)
    assert differing(tmp_path / "whole", tmp_path / "plain")


def test_early_stopping_stays_stopped(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanging(**options: Any) -> Any:
        network = plain(**options)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.0
        return network

    plain = NETWORKS["ssmt-lite"]
    monkeypatch.setitem(NETWORKS, "ssmt-lite", unchanging)
    still = replace(config, epochs=9, patience=2, lr=1e-12, lr_end=0.0)
    interrupted(still, tmp_path / "run", "epoch 2/9")
    # the first epoch is the best one; one later epoch was seen before the stop, another after it
    assert epochs(tmp_path / "run") == [0, 1, 2]
    (tmp_path / "run" / "result.json").unlink()
    train(still, tmp_path / "run", resume=True, say=lambda _: None)
    assert epochs(tmp_path / "run") == [0, 1, 2]


def test_a_frozen_encoder_does_not_move(config: TrainConfig, phantom_set: Path, tmp_path: Path) -> None:
    network, other = build_network("ssmt-lite", 32), {"weight_decay": 0.5, "averaging": 0.9, "epochs": 1, "lr": 1e-2}
    train(replace(config, epochs=1), tmp_path / "first", say=lambda _: None)
    start = tmp_path / "first" / "model.safetensors"
    train(replace(config, freeze="encoder", **other), tmp_path / "tuned", init=start, say=lambda _: None)
    moved = set(differing(tmp_path / "first", tmp_path / "tuned"))
    trained = {name for name in network.state_dict() if name.split(".")[0] in network.tasks}
    assert moved <= trained  # to the last bit, batch statistics included
    assert {name for name in trained if name.startswith("nodule") and name.endswith("weight")} <= moved
    train(replace(config, **other), tmp_path / "free", init=start, say=lambda _: None)
    assert not set(differing(tmp_path / "first", tmp_path / "free")) <= trained


SLOW_WRITE = """
import sys, time
import torch
import trainer.callbacks

written = 0
save = torch.save

def slow(value, path):
    global written
    written += 1
    save(value, path)
    if written < 3:  # best and last of the first epoch
        return
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    print("WRITING", flush=True)
    time.sleep(200)

torch.save = slow
from ssmt_edge.cli import main
main()
"""


def test_killed_while_writing_leaves_the_last_resume_file(config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-c", SLOW_WRITE, "train", "--config", str(tmp_path / "run.yaml"), "--out", str(out)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line == "WRITING\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    torn = list(out.rglob(".*.part.*"))
    assert len(torn) == 1
    state = AtomicCheckpointIO().load_checkpoint(out / "supervised" / "last.ckpt")
    assert state["epoch"] == 0
    train(config, out, resume=True, say=lambda _: None)
    assert not list(out.rglob(".*.part.*"))
    train(config, tmp_path / "whole", say=lambda _: None)
    assert differing(out, tmp_path / "whole") == []
