"""What travels with a network from checkpoint to engine, and what every engine can do."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

SPEC_VERSION = 1
MANIFEST_VERSION = 1
FIGURES = 31
"""figures that describe a frame, see `ssmt_edge.unlike`"""

COUNT_RULE = (
    "multiply-accumulates of Conv, ConvTranspose, MatMul and Gemm at batch 1, attention's products included, quantised "
    "or not; nothing else (no bias, normalisation, activation, softmax or resizing). GFLOPs = 2 x GMAC. Bytes: inputs, "
    "weights and output of each of these once, and bytes instead of floats where Q/DQ pairs stand around it"
)

Crop = Literal["scan-area", "none"]
Resize = Literal["stretch", "letterbox"]
Precision = Literal["fp32", "fp16", "int8"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelSpec:
    """How frames become the network's input and its outputs become masks. Same JSON in checkpoint, ONNX and engine."""

    model: str
    """name in the table of networks, e.g. `ssmt-lite`"""
    input_size: int
    """side S of the square input, pixels"""
    gray_mean: float
    """mean gray value of the training images, 0..255; subtracted before any padding"""
    gray_scale: float
    """multiplied after the subtraction; 1 / standard deviation of the training images' gray values"""
    outputs: tuple[str, ...]
    """tasks that were trained with labels, of `nodule`, `gland`, `size`"""
    threshold: float = 0.5
    """decision threshold on the nodule's probability, 0..1, chosen on validation data"""
    temperature: float = 1.0
    """the nodule's logits are divided by it before the sigmoid; fitted on validation data, see `trainer.decide`"""
    crop: Crop = "scan-area"
    """what is cut from a frame before resizing: the scan area (scanner text left out) or nothing"""
    resize: Resize = "stretch"
    """`stretch` ignores the aspect ratio, `letterbox` keeps it and pads with black"""
    trained_on: tuple[str, ...] = ()
    """names of the training data sets"""
    usual: tuple[float, ...] = ()
    """mean of the figures that describe a frame over the training frames, see `ssmt_edge.unlike`; () if unknown"""
    spread: tuple[float, ...] = ()
    """how far a figure may lie from it, > 0"""
    version: int = SPEC_VERSION

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Raises ValueError, naming the field, for text that is not a spec of this version."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        return from_dict(cls, values)

    def __post_init__(self) -> None:
        if self.version != SPEC_VERSION:
            raise ValueError(f"spec version {self.version}, expected {SPEC_VERSION}")
        if not 32 <= self.input_size <= 2048:
            raise ValueError(f"input_size {self.input_size}, expected 32..2048")
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold {self.threshold}, expected a value between 0 and 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature}, expected a value above 0")
        if len(self.usual) not in (0, FIGURES) or len(self.spread) != len(self.usual):
            raise ValueError(f"usual and spread of {len(self.usual)} and {len(self.spread)} values, expected {FIGURES}")
        if any(value <= 0 for value in self.spread):
            raise ValueError(f"spread {min(self.spread)}, expected values above 0")
        for name, value, choices in (("crop", self.crop, Crop), ("resize", self.resize, Resize)):
            if value not in get_args(choices):
                raise ValueError(f"{name} {value!r}, expected one of {', '.join(get_args(choices))}")


@dataclass(frozen=True)
class Device:
    """What an engine was built for: it may not run, or run wrongly, on another."""

    name: str
    """processor or GPU as it names itself"""
    instruction_set: str = ""
    """CPU: the widest integer dot product it has, `vnni`, `avx2` or `neon`"""
    compute_capability: str = ""
    """GPU: e.g. `9.0`"""
    driver: str = ""
    """GPU: version of the NVIDIA driver"""
    cuda: str = ""
    """GPU: version of CUDA that the driver offers, e.g. `12.6`"""


@dataclass(frozen=True)
class EngineManifest:
    """`engine.json` of an engine folder: everything needed to check, repeat or distrust a build."""

    spec: ModelSpec
    precision: Precision
    backend: str
    backend_version: str
    device: Device
    product_version: str
    """version of ssmt-edge that built it"""
    outputs: tuple[str, ...]
    """outputs of the deployed graph: `nodule`, `size` and, if asked for, `gland`"""
    max_batch: int
    files: dict[str, str]
    """SHA-256 of every other file of the folder, by name"""
    checkpoint_sha256: str
    """digest of the weights that the graph was made from; calibration ranges carry the same"""
    parameters: int
    gmac: float
    """1e9 multiply-accumulates a frame in convolutions and matrix products; GFLOPs are twice that"""
    gflops: float
    options: dict[str, Any] = field(default_factory=dict)
    """build options as given"""
    remarks: dict[str, Any] = field(default_factory=dict)
    """what was found and decided while building: calibration method, layers kept in higher precision, the choice of
    backend, what the backend adds"""
    build_seconds: float = 0.0
    version: int = MANIFEST_VERSION

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> EngineManifest:
        """Raises ValueError, naming the field, for anything that is not a manifest of this version."""
        found = values.get("version") if isinstance(values, Mapping) else None
        if found != MANIFEST_VERSION:
            raise ValueError(f"manifest version {found!r}, expected {MANIFEST_VERSION}")
        values = dict(values)
        values["spec"] = from_dict(ModelSpec, values.get("spec"))
        values["device"] = from_dict(Device, values.get("device"))
        return from_dict(cls, values)


def from_dict(cls: type[_T], values: Any) -> _T:
    """A flat dataclass from JSON values; lists become tuples. ValueError names the field that is wrong."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{cls.__name__}: expected an object, got {type(values).__name__}")
    known = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    if unknown := set(values) - set(known):
        raise ValueError(f"{cls.__name__}: unknown field {sorted(unknown)[0]!r}")
    missing = dataclasses.MISSING
    for name, f in known.items():
        if name not in values and f.default is missing and f.default_factory is missing:
            raise ValueError(f"{cls.__name__}: field {name!r} is missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    hints = get_type_hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
            expected = f"one of {', '.join(choices)}" if choices else known[name].type
            raise ValueError(f"{cls.__name__}: field {name!r} is {value!r}, expected {expected}")
    return cls(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field; of generic types only those that the dataclasses above use."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, arguments[1]) for item in value.values())
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


class Engine(Protocol):
    """A network on a device. One thread at a time; a context manager that closes itself.

    `infer` takes uint8 gray frames [N, 1, S, S], already cropped and resized, 1 <= N <= max_batch, and returns host
    arrays: `nodule` (and `gland`) uint8 [N, 1, S, S], probability x 255; `size` float32 [N], area fraction 0..1.
    """

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def max_batch(self) -> int: ...

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
