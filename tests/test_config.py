"""The settings of a run: from YAML, from options, saved and read back, and each mistake named in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from commands import Cli, refused

from ssmt_edge.errors import UsageError
from trainer.config import TrainConfig, resolve
from trainer.losses import LossWeights


def test_given_values_come_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "epochs: 9\nlr: 1e-3\nprecision: 32\ndata: [a, b]\nweights: {nodule: 0.7, size: 0}\npretrained: null\n"
    )
    given = {"epochs": "5", "weights.gland": "0.2", "weights.size": 0.1, "model": None, "data": [Path("c")]}
    config = resolve(file, given)
    assert (config.epochs, config.lr, config.precision, config.data) == (5, 1e-3, "32", ("c",))
    assert config.weights == LossWeights(0.7, 0.2, 0.1, 0.05)
    assert config.model == TrainConfig().model and config.pretrained is None
    assert resolve(None, {}) == TrainConfig()
    file.write_text("")
    assert resolve(file, {}) == TrainConfig()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-4", 1e-4),
        ("fold", "2", 2),
        ("fold", "none", None),
        ("devices", "auto", "auto"),
        ("devices", "3", 3),
        ("deterministic", "yes", True),
        ("tensorboard", "False", False),
        ("tasks", "nodule,size", ("nodule", "size")),
        ("pretrained", "a,b", ("a", "b")),
        ("crop", "none", "none"),
        ("freeze", "none", "none"),
    ],
)
def test_strings_become_the_type_of_their_setting(name: str, text: str, value: object) -> None:
    found = getattr(resolve(None, {name: text}), name)
    assert found == value and type(found) is type(value)


def test_every_setting_survives_its_file(tmp_path: Path) -> None:
    config = TrainConfig(
        data=("x", "y: z"), fold=0, weights=LossWeights(0.5, 0.3, 0.1, 0.1), devices="auto", lr=3e-5, tasks=("nodule",),
        pretrained=("a", "b"), averaging=0.99, deterministic=True, precision="bf16",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert resolve(tmp_path / "config.yaml", {}) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epocs": 3}, "unknown setting 'epocs'; did you mean 'epochs'?"),
        ({"batch-size": 3}, "unknown setting 'batch-size'; did you mean 'batch_size'?"),
        ({"colour": 3}, "unknown setting 'colour'; expected one of model, data,"),
        ({"weights.nodul": 1}, "unknown setting 'weights.nodul'; did you mean 'nodule'?"),
        ({"weights": {"nodul": 1}}, "unknown setting 'weights.nodul'; did you mean 'nodule'?"),
        ({"weights": 3}, "weights is 3, expected loss weights like"),
        ({"weights.gland": "-1"}, r"weights.gland is -1.0, expected a finite value of at least 0"),
        ({"lr.nodule": 1}, "lr has no parts"),
        ({"epochs": "3.5"}, "epochs is '3.5', expected a whole number"),
        ({"epochs": 3.5}, "epochs is 3.5, expected a whole number"),
        ({"seed": 2**32}, "seed is 4294967296, expected a value below 4294967296"),
        ({"data": "a,./a"}, "data a, ./a, expected each data set once"),
        ({"input_size": 4096}, "input_size is 4096, expected at most 2048"),
        ({"tasks": "gland"}, "tasks gland, expected nodule among them"),
        ({"epochs": True}, "epochs is True, expected a whole number"),
        ({"lr": "fast"}, "lr is 'fast', expected a number"),
        ({"deterministic": "maybe"}, "deterministic is 'maybe', expected true or false"),
        ({"data": {"a": 1}}, "data is {'a': 1}, expected a list of names"),
        ({"pretrained": "one"}, "pretrained is 'one', expected 2 names"),
        ({"model": ["a"]}, r"model is ['a'], expected text"),
        ({"weighting": "equal"}, "weighting 'equal', expected one of fixed, uncertainty, gradnorm"),
        ({"devices": "all"}, "devices is 'all', expected a whole number or auto"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(None, given)
    assert message in str(caught.value)
    if all("." not in name for name in given):  # the same from a file, which is named
        import yaml

        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(given))
        with pytest.raises(UsageError) as caught:
            resolve(file, {})
        assert message in str(caught.value)


def test_unusable_files_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    with pytest.raises(UsageError, match=r"run\.yaml: No such file or directory; expected a YAML file"):
        resolve(file, {})
    for content, message in (
        ("a: [", "is not YAML"),
        ("- a\n- b", "holds a list"),
        ("!!python/object:os.x {}", "YAML"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=message):
            resolve(file, {})
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not YAML"):
        resolve(file, {})


def test_the_command_names_what_is_wrong(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("epocs: 3\n")
    train = ("train", "--out", tmp_path / "run")
    assert "did you mean 'epochs'?" in refused(cli, tmp_path, *train, "--config", tmp_path / "run.yaml", code=2)
    assert "expected NAME=VALUE" in refused(cli, tmp_path, *train, "--set", "epochs", code=2)
    assert "lr is 'x'" in refused(cli, tmp_path, *train, "--set", "lr=x", code=2)
