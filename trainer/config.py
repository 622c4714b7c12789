"""What a training run is made of: from a YAML file, options or Python. Saved with the run and inside the checkpoint."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from ssmt_edge.errors import UsageError
from ssmt_edge.spec import Crop, Resize
from trainer.losses import LossWeights
from trainer.nets.network import TASKS

Phase = Literal["pretrain", "supervised", "both"]

SAME_RESULT = frozenset({"workers", "tensorboard"})
"""settings that do not change a run's result and may differ when it is resumed"""


@dataclass(frozen=True)
class TrainConfig:
    """Defaults follow the authors' code where it says (learning rate, decay, cosine end) and are ours elsewhere."""

    model: str = "ssmt-net"
    data: tuple[str, ...] = ()
    """labelled data sets; the first one's `val` split chooses the epoch and the threshold"""
    unlabelled: tuple[str, ...] = ()
    phase: Phase = "both"
    epochs: int = 60
    """supervised epochs (the authors' page: 300)"""
    pretrain_epochs: int = 20
    batch_size: int = 16
    """frames a batch, over all processes together"""
    accumulate: int = 1
    """batches whose gradients add up to one optimiser step"""
    lr: float = 1e-4
    lr_end: float = 1e-6
    weight_decay: float = 1e-4
    cross_entropy: float = 0.5
    """weight of cross-entropy beside Dice; 0 is the paper's loss"""
    tasks: tuple[str, ...] = TASKS
    """what is learnt; a task without labels, or without a part in the network, is left out by itself"""
    fold: int | None = None
    """which of `folds` parts of the first data set, dealt by case, validates; None for the set's own split"""
    folds: int = 5
    label_fraction: float = 1.0
    """share of the training cases that are used with their labels, 0..1; the others serve reconstruction only"""
    freeze: Literal["none", "encoder"] = "none"
    """`encoder` trains decoders and heads only: fine-tuning on little data"""
    averaging: float = 0.0
    """decay per step of the exponential moving average of weights; 0 for none"""
    patience: int = 0
    """supervised epochs without a better `val` Dice after which training stops; 0 for never"""
    weights: LossWeights = field(default_factory=LossWeights)
    weighting: Literal["fixed", "uncertainty", "gradnorm"] = "fixed"
    """`fixed` keeps `weights`; the others adapt them while training, see `trainer.weighting`"""
    input_size: int = 224
    crop: Crop = "scan-area"
    resize: Resize = "stretch"
    seed: int = 0
    workers: int = 2
    """processes that load images, for each training process"""
    precision: Literal["auto", "32", "bf16", "fp16"] = "auto"
    """auto takes bf16 where the processor has instructions for it; fp16 needs a GPU"""
    devices: int | Literal["auto"] = 1
    """training processes a node: one a GPU, or CPU processes; `auto` is all GPUs, or one CPU process"""
    nodes: int = 1
    strategy: str = "auto"
    """Lightning's name; auto is data-parallel (ddp) where there are several processes"""
    deterministic: bool = False
    """only algorithms that repeat bit by bit; slower on a GPU, needless on a CPU"""
    tensorboard: bool = False
    """also writes TensorBoard's event files"""
    pretrained: tuple[str, str] | None = None
    """ResNet-50 and ViT-B/16 weights: hub names or folders in the hub's format"""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint) if get_origin(hint) is Literal else ()
            if choices and getattr(self, name) not in choices:
                raise UsageError(f"{name} {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name in ("epochs", "pretrain_epochs", "batch_size", "accumulate", "lr", "folds", "nodes", "input_size"):
            value = getattr(self, name)
            if not 0 < value < math.inf:  # also refuses NaN
                raise UsageError(f"{name} is {value}, expected a finite value above 0")
        losses = {f"weights.{name}": value for name, value in dataclasses.asdict(self.weights).items()}
        others = ("lr_end", "weight_decay", "cross_entropy", "patience", "seed", "workers")
        for name, value in {**losses, **{name: getattr(self, name) for name in others}}.items():
            if not 0 <= value < math.inf:
                raise UsageError(f"{name} is {value}, expected a finite value of at least 0")
        if len({Path(d).resolve() for d in self.data}) < len(self.data):  # a fold's images would train by the other one
            raise UsageError(f"data {', '.join(self.data)}, expected each data set once")
        if self.input_size > 2048:  # as `ModelSpec` has it
            raise UsageError(f"input_size is {self.input_size}, expected at most 2048")
        if self.seed >= 2**32:
            raise UsageError(f"seed is {self.seed}, expected a value below {2**32}")
        if unknown := set(self.tasks) - set(TASKS):
            raise UsageError(f"task {sorted(unknown)[0]!r}, expected some of {', '.join(TASKS)}")
        if self.phase != "pretrain" and "nodule" not in self.tasks:
            raise UsageError(
                f"tasks {', '.join(self.tasks) or 'none'}, expected nodule among them: it chooses epoch and threshold"
            )
        if not 0 < self.label_fraction <= 1:
            raise UsageError(f"label_fraction is {self.label_fraction}, expected 0 < fraction <= 1")
        if not 0 <= self.averaging < 1:
            raise UsageError(f"averaging is {self.averaging}, expected 0 <= decay < 1")
        if self.weighting == "gradnorm" and self.freeze == "encoder":  # told before hours of phase 1
            raise UsageError(
                "weighting gradnorm balances how tasks pull at the encoder they share, which freeze = encoder holds "
                "still; use weighting fixed or uncertainty, or freeze none"
            )
        if self.weighting == "gradnorm" and self.strategy.startswith(("fsdp", "deepspeed", "model_parallel")):
            raise UsageError(
                f"weighting gradnorm needs whole layers in every process, which strategy {self.strategy} splits; use "
                "weighting fixed or uncertainty, or strategy ddp"
            )
        if self.devices != "auto" and self.devices < 1:
            raise UsageError(f"devices is {self.devices}, expected a number above 0 or auto")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON and YAML have them: lists, no tuples."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))

    def to_yaml(self) -> str:
        """A file for `resolve`."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def resolve(file: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a run: defaults, then the YAML file, then what is given.

    Args:
        file: mapping of field names of `TrainConfig`, of which any may be left out; loss weights as
            `weights: {nodule: 0.8, ...}`.
        given: values by field name, also `weights.nodule`; typed, or strings as on the command line
            (`"1e-4"`, `"nodule,size"`, `"none"`). None stands for an option that was left out.

    Raises:
        UsageError: no such file, no YAML, an unknown name (with the nearest known one), a value of another type or
            out of its range.
    """
    values: dict[str, Any] = {}
    if file is not None:
        _merge(values, _read(file), f"{file}: ")
    _merge(values, {name: value for name, value in given.items() if value is not None}, "")
    return TrainConfig(**values)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{file} is not YAML: {error}") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; expected a YAML file of settings") from None
    if not isinstance(content, dict | None):
        raise UsageError(f"{file} holds a {type(content).__name__}, expected settings like `epochs: 60`")
    return content or {}


def _merge(values: dict[str, Any], new: Mapping[Any, Any], where: str) -> None:
    """Converts `new` field by field and puts it over `values`."""
    for name, value in new.items():
        field_name, _, part = str(name).partition(".")
        hint = _hint(TrainConfig, field_name, where)
        if hint is not LossWeights:
            if part:
                raise UsageError(f"{where}{field_name} has no parts, got {name!r}")
            values[field_name] = _convert(where + field_name, hint, value)
            continue
        parts = dataclasses.asdict(value) if isinstance(value, LossWeights) else {part: value} if part else value
        if not isinstance(parts, Mapping):
            raise UsageError(f"{where}{name} is {value!r}, expected loss weights like {{nodule: 0.8, gland: 0.1}}")
        for one, weight in parts.items():
            hint = _hint(LossWeights, one, where, "weights.")
            before = values.get(field_name, LossWeights())
            values[field_name] = dataclasses.replace(
                before, **{one: _convert(f"{where}{field_name}.{one}", hint, weight)}
            )


def _hint(cls: type[Any], name: Any, where: str, prefix: str = "") -> Any:
    hints = get_type_hints(cls)
    if name not in hints:
        near = difflib.get_close_matches(str(name).replace("-", "_"), hints, 1)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(hints)}"
        raise UsageError(f"{where}unknown setting {prefix + str(name)!r}; {advice}")
    return hints[name]


def _convert(name: str, hint: Any, value: Any) -> Any:
    """`value` in the type of a field; UsageError names both."""
    arguments = get_args(hint)
    if get_origin(hint) in (UnionType, Union):  # `X | None`, or a number `| Literal["auto"]`
        if type(None) in arguments and (value is None or value in ("none", "null", "")):
            return None
        kind, other = arguments
        if value in get_args(other):
            return value
        try:
            return _convert(name, kind, value)
        except UsageError as error:
            raise UsageError(f"{error} or {get_args(other)[0] if get_args(other) else 'none'}") from None
    if get_origin(hint) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if isinstance(items, list | tuple) and (arguments[-1] is ... or len(items) == len(arguments)):
            return tuple(_convert(name, arguments[0], item) for item in items if item != "")
        expected = "a list of names" if arguments[-1] is ... else f"{len(arguments)} names"
        raise UsageError(f"{name} is {value!r}, expected {expected}")
    if hint is bool:
        words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
        if isinstance(value, bool) or str(value).lower() in words:
            return words[str(value).lower()]
        raise UsageError(f"{name} is {value!r}, expected true or false")
    if hint is int or hint is float:
        try:
            # strings, because YAML takes 1e-4 for one
            if not isinstance(value, bool) and isinstance(value, (int, hint, str)):
                return hint(value)
        except (ValueError, OverflowError):
            pass
        raise UsageError(f"{name} is {value!r}, expected a {'whole number' if hint is int else 'number'}")
    if isinstance(value, str | Path) or (isinstance(value, int) and not isinstance(value, bool)):  # precision: 32
        return str(value)
    raise UsageError(f"{name} is {value!r}, expected text")
