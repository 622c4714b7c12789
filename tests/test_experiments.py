"""Experiments on a few phantoms: what is trained, what an interruption leaves, and what the tables say."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from commands import ROOT, Cli, error_line, refused  # noqa: E402

from ssmt_edge.errors import UsageError  # noqa: E402
from trainer import fit  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.experiments import PROTOCOLS, labels  # noqa: E402
from trainer.experiments.domains import parts_of  # noqa: E402
from trainer.experiments.figures import Measurement, figures, over_folds  # noqa: E402
from trainer.experiments.plan import Options, Part  # noqa: E402
from trainer.experiments.run import run  # noqa: E402

TINY = ("--model", "ssmt-lite", *(x for s in ("input_size=32", "batch_size=4", "workers=0") for x in ("--set", s)))


@pytest.fixture
def config(phantom_set: Path) -> TrainConfig:
    return TrainConfig(
        "ssmt-lite", (str(phantom_set),), phase="supervised", epochs=1, batch_size=4, input_size=32, workers=0
    )


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folders that `fit.train` is called for."""
    called: list[str] = []
    train = fit.train

    def record(config: TrainConfig, out: Path, *rest: Any) -> Any:
        called.append(out.parent.name)
        return train(config, out, *rest)

    monkeypatch.setattr(fit, "train", record)
    return called


@pytest.fixture
def without_gland(phantom_set: Path, tmp_path: Path) -> Path:
    """Its images and nodule masks as a plain image/mask folder, each image a case of its own."""
    out = tmp_path / "plain"
    shutil.copytree(phantom_set / "trainval-image", out / "image")
    shutil.copytree(phantom_set / "trainval-mask", out / "mask")
    return out


def rows_of(out: Path) -> list[dict[str, Any]]:
    return list(json.loads((out / "result.json").read_text())["rows"])


def test_interrupted_ablation_trains_only_what_is_missing(
    cli: Cli, phantom_set: Path, tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "ablation"
    command = ("experiment", "ablation", "--data", phantom_set, "--out", out, *TINY, "--epochs", 2)
    train = fit.train

    def interrupted(
        config: TrainConfig, folder: Path, resume: bool, init: Path | None, say: Callable[[str], None]
    ) -> Any:
        def stop(line: str) -> None:
            say(line)
            if "with-gland" in str(folder) and line.startswith("epoch 2/2"):
                raise KeyboardInterrupt  # what Ctrl-C does in the third cell's second epoch

        return train(config, folder, resume, init, stop)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "train", interrupted)
        answer = cli(*command)
    assert answer.code == 130
    assert "the same command goes on from there" in answer.err
    assert trained == ["baseline", "with-reconstruction", "with-gland"]
    assert [row.get("state") for row in rows_of(out)] == [None, None, *["not trained yet"] * 3]
    finished = (out / "baseline/seed0/model.safetensors").stat().st_mtime_ns

    trained.clear()
    answer = cli(*command)
    assert answer.code == 0, answer.err
    assert trained == ["with-gland", "with-size", "all"]
    assert "with-gland/seed0: epoch 2/2" in answer.err
    assert "with-gland/seed0: epoch 1/2" not in answer.err
    assert (out / "baseline/seed0/model.safetensors").stat().st_mtime_ns == finished

    table = [line for line in answer.out.splitlines() if line.startswith("| ")]
    names = ["baseline", "+ reconstruction", "+ gland", "+ size", "all"]
    assert [line.split("|")[1].strip() for line in table[2:]] == names
    assert answer.out.strip() == (out / "table.md").read_text().strip()
    for said in ("No ImageNet weights", "synthetic phantoms", "seeds 0", "experiment ablation --data"):
        assert said in answer.out
    assert (out / "plot.png").stat().st_size > 1000
    rows = rows_of(out)
    for row in rows:
        # the set has a test split, on which nothing was chosen
        assert (row["figures"]["n"], row["figures"]["chosen_on_these"]) == (4, False)
        own = json.loads((out / row["cells"][0] / "cell.json").read_text())[0]["scores"]
        assert row["figures"]["dice"] == pytest.approx(own["dice"])
    gap = rows[4]["figures"]["dice"] - rows[0]["figures"]["dice"]
    assert rows[4]["figures"]["difference"]["difference"] == pytest.approx(gap)

    trained.clear()
    line = refused(cli, tmp_path, *command, "--set", "lr=0.01", code=2)
    assert "lr = 0.0001, now it is 0.01" in line and "give another --out" in line
    assert "'ablation', not 'labels'" in refused(cli, tmp_path, "experiment", "labels", *command[2:], code=2)
    assert trained == []


def test_gland_rows_without_gland_masks_are_not_run(config: TrainConfig, without_gland: Path) -> None:
    plan = PROTOCOLS["ablation"](Options(replace(config, data=(str(without_gland),), phase="both")))
    reasons = {row.name: row.reason for row in plan.rows}
    assert len(reasons) == 5
    assert {name for name, reason in reasons.items() if "gland masks" in reason} == {"+ gland", "all"}
    # one pretraining for both rows with reconstruction, none for the baseline
    assert [cell.name for cell in plan.cells] == [
        "baseline/seed0", "pretraining/seed0", "with-reconstruction/seed0", "with-size/seed0"
    ]  # fmt: skip
    assert [cell.start.name if cell.start else None for cell in plan.cells] == [
        None, None, "pretraining/seed0", "pretraining/seed0"
    ]  # fmt: skip


def test_transfer(config: TrainConfig, without_gland: Path, tmp_path: Path, trained: list[str]) -> None:
    with pytest.raises(UsageError, match="source and a target"):
        PROTOCOLS["transfer"](Options(config))
    options = Options(replace(config, data=(*config.data, str(without_gland)), label_fraction=0.5))
    out = tmp_path / "transfer"
    result = run(PROTOCOLS["transfer"](options), out, say=lambda _: None)
    assert trained == ["set", "decoders", "all-weights", "alone"]
    itself, zero, decoders, _, alone = [row["figures"] for row in result["rows"]]
    assert not itself["chosen_on_these"] and not zero["chosen_on_these"]
    assert decoders["chosen_on_these"] and alone["chosen_on_these"]
    assert zero["n"] == decoders["n"] == alone["n"]
    assert decoders["difference"]["n"] == zero["n"]
    assert json.loads((out / "plain/alone/seed0/run.json").read_text())["init"] is None
    source, tuned, whole = (
        fit.load_checkpoint(out / name / "seed0/model.safetensors").network.state_dict()
        for name in ("set", "plain/decoders", "plain/all-weights")
    )
    encoder = [name for name in source if name.startswith("stem") and name.endswith("weight")]
    assert encoder
    assert all(torch.equal(source[name], tuned[name]) for name in encoder)
    assert not all(torch.equal(source[name], whole[name]) for name in encoder)


def test_label_shares_are_nested_and_trained_alike(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = PROTOCOLS["labels"](Options(replace(config, epochs=4, batch_size=2)))
    used = []
    for row in sorted(plan.rows, key=lambda row: row.x or 0):
        cell = row.scored[0][0].config
        training = {s.case for s in labels._training(cell, cell.label_fraction)}
        used.append(training)
        batch = min(cell.batch_size, len(training))
        assert cell.epochs * (len(training) // batch) == pytest.approx(4 * 7, rel=0.15)
    assert [len(cases) for cases in used] == [1, 1, 2, 4, 7, 14]
    assert all(smaller <= larger for smaller, larger in pairwise(used))

    monkeypatch.setattr(labels, "FRACTIONS", (0.5,))
    result = run(PROTOCOLS["labels"](Options(config)), tmp_path / "labels", say=lambda _: None)
    assert [(row["x"], row["name"]) for row in result["rows"]] == [(50, "50% (7 images)")]
    assert result["complete"] and result["axis"]


def test_weights_cover_the_simplex_and_both_adaptive_methods(config: TrainConfig, without_gland: Path) -> None:
    plan = PROTOCOLS["weights"](Options(replace(config, data=(*config.data, str(without_gland)))))
    groups = {row.group for row in plan.rows}
    assert groups == {"set", "plain"}
    configs = {cell.name: cell.config for cell in plan.cells}
    assert len(configs) == len(plan.rows) / 2  # trained once, measured on each data set
    sums = [sum(vars(c.weights).values()) for c in configs.values()]
    assert sums == pytest.approx([1.0] * len(sums))
    heavy = [c.weights.nodule > 0.5 for c in configs.values() if c.weighting == "fixed"]
    assert True in heavy and False in heavy
    assert {c.weighting for c in configs.values()} == {"fixed", "uncertainty", "gradnorm"}
    for protocol in ("weights", "ablation"):
        with pytest.raises(UsageError, match="unet learns the nodule alone"):
            PROTOCOLS[protocol](Options(replace(config, model="unet")))


def measurement(seed: int, fold: int, dice: dict[str, float], chose: bool, last: float | None) -> Measurement:
    other = ("iou", "hd95", "assd", "true_positive", "false_positive", "false_negative")
    rows = [
        {"case": f"case {n}", "image": n, "area_fraction": 0.05, "dice": d, **dict.fromkeys(other, 1.0)}
        for n, d in dice.items()
    ]
    return Measurement(seed, fold, {"n": len(rows), "per_image": rows}, chose, last)


def test_figures_over_seeds_and_folds() -> None:
    row = [
        measurement(0, 0, {"a": 0.6, "b": 0.8}, True, 0.5),
        measurement(0, 1, {"c": 0.4}, True, 0.2),
        measurement(1, 0, {"a": 0.8, "b": 0.8}, True, 0.6),
        measurement(1, 1, {"c": 0.2}, True, 0.2),
    ]
    found = figures(row)
    assert found["dice"] == pytest.approx((0.7 + 0.8 + 0.3) / 3)
    assert (found["n"], found["cases"], found["folds"], found["seeds"]) == (3, 3, 2, [0, 1])
    assert found["seed_sd"] == pytest.approx(0.0, abs=1e-9)  # 1.8 / 3 with either seed
    assert found["fold_mean"] == pytest.approx((0.75 + 0.3) / 2)
    # Student's t with one degree of freedom on two values that differ by 0.45
    assert found["fold_interval"][1] - found["fold_mean"] == pytest.approx(12.706 * 0.225)
    assert found["last_dice"] == pytest.approx((2 * 0.5 + 0.2 + 2 * 0.6 + 0.2) / 6)
    assert found["chosen_on_these"] and found["difference"] is None

    first = [measurement(0, 0, {"a": 0.5, "b": 0.5, "c": 0.5}, False, None)]
    difference = figures(row, first)["difference"]
    assert difference["difference"] == pytest.approx(0.1)
    assert difference["interval"][0] == pytest.approx(-0.2) and difference["interval"][1] == pytest.approx(0.3)
    assert figures(row, [measurement(0, 0, {"a": 0.5}, False, None)])["difference"] is None
    assert figures(first)["last_dice"] is None
    assert over_folds([0.5, 0.6, 0.7])[1] == pytest.approx([0.6 - 4.303 * 0.1 / 3**0.5, 0.6 + 4.303 * 0.1 / 3**0.5])


def test_a_part_knows_who_was_chosen_on_it(config: TrainConfig, phantom_set: Path) -> None:
    own, data = replace(config, fold=1, folds=4), str(phantom_set)
    assert Part(data, "val", 1, 4).chose(own)
    assert not Part(data, "val", 2, 4).chose(own)
    assert not Part(data, "val").chose(own)
    assert Part(data, "val").chose(config) and not Part(data, "test").chose(config)
    held = [{s.case for s in Part(data, "val", k, 4).samples()} for k in range(4)]
    assert len(set.union(*held)) == 16 == sum(map(len, held))


def test_domains(cli: Cli, phantom_set: Path, without_gland: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "domains"
    command = ("experiment", "domains", tiny_checkpoint, "--data", phantom_set, "--data", without_gland, "--out", out)
    answer = cli(*command)
    assert answer.code == 0, answer.err
    own, other = rows_of(out)
    assert (own["name"], own["figures"]["n"], own["figures"]["drop"]) == ("set test", 4, None)
    assert (other["name"], other["figures"]["n"]) == ("plain all", 16)
    assert other["figures"]["drop"] == pytest.approx(other["figures"]["dice"] - own["figures"]["dice"])
    assert f"{other['figures']['drop']:+.4f}" in answer.out

    # no drop is told on images that the network was trained on
    parts = parts_of([str(phantom_set), str(without_gland)], "all", {"data": [str(phantom_set), str(without_gland)]})
    assert parts == [Part(str(phantom_set), "test"), Part(str(without_gland), "val")]

    measured = json.loads((out / "measured.json").read_text())
    (out / "measured.json").write_text(json.dumps({**measured, "subject": "another"}))
    assert "another network" in refused(cli, tmp_path, *command, code=2)
    line = error_line(cli("experiment", "domains", tiny_checkpoint, "--data", phantom_set, "--out", tmp_path / "x"), 2)
    assert "--data OTHER" in line


@pytest.mark.parametrize("content", ["[1]", "{"])
def test_a_foreign_result_is_one_line(cli: Cli, phantom_set: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    command = ("experiment", "folds", "--data", phantom_set, "--out", tmp_path, *TINY)
    assert "result.json is damaged" in error_line(cli(*command), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "0,x"), "whole numbers"),
        (("--seeds", "1,1"), "different"),
        (("--set", "lr"), "NAME=VALUE"),
        (("--set", "fold=1"), "--folds"),
        (("--set", "epoch=1"), "did you mean 'epochs'"),
        (("--phase", "pretrain"), "no masks"),
        (("--folds", "17"), "17"),
        (("--data", "elsewhere/set"), "two data sets are called 'set'"),
    ],
)
def test_refusals(cli: Cli, phantom_set: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    command = ("experiment", "folds", "--data", phantom_set, "--out", tmp_path / "out", *TINY, *options)
    assert said in refused(cli, tmp_path, *command, code=2)


@pytest.mark.slow
def test_cells_in_processes(cli: Cli, phantom_set: Path, tmp_path: Path) -> None:
    command = ("experiment", "folds", "--data", phantom_set, "--out", tmp_path, *TINY, "--epochs", 1, "--folds", 2)
    answer = cli(*command, "--jobs", 2)
    assert answer.code == 0, answer.err
    rows = rows_of(tmp_path)
    assert [row["figures"]["n"] for row in rows] == [16, 8, 8]
    assert rows[0]["figures"]["folds"] == 2
    assert "2 cells, of which 2 are there already" in cli(*command).err


@pytest.mark.slow
def test_jobs_end_with_the_process_that_started_them() -> None:
    code = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from trainer.experiments.run import _prepare

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare)
    print(pool.submit(getpid).result(), flush=True)
    pool.submit(time.sleep, 120)
    time.sleep(120)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        state = Path(f"/proc/{int(parent.stdout.readline())}/stat")
        assert is_running(state)
        parent.kill()
        end = time.monotonic() + 20
        while is_running(state) and time.monotonic() < end:
            time.sleep(0.1)
        assert not is_running(state)


def is_running(state: Path) -> bool:
    """Of a process on Linux; one that ended may stay listed as a zombie."""
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
