from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from ssmt_edge.spec import Device, EngineManifest, ModelSpec

SPEC = ModelSpec(
    model="ssmt-lite",
    input_size=224,
    gray_mean=61.5,
    gray_scale=0.02,
    outputs=("nodule", "size"),
    threshold=0.45,
    resize="letterbox",
    trained_on=("DDTI",),
)
MANIFEST = EngineManifest(
    spec=SPEC,
    precision="int8",
    backend="onnxruntime",
    backend_version="1.20.0",
    device=Device("a processor", instruction_set="avx2"),
    product_version="0.1.0",
    outputs=("nodule", "size"),
    max_batch=8,
    files={"model.onnx": "0" * 64},
    checkpoint_sha256="1" * 64,
    parameters=4_000_000,
    gmac=1.0,
    gflops=2.0,
    options={"calib": ["a", "b"], "max_dice_drop": 0.005},
)


def test_spec_survives_json() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
    assert isinstance(ModelSpec.from_json(SPEC.to_json()).outputs, tuple)


def test_spec_has_defaults_for_what_an_older_writer_left_out() -> None:
    values = json.loads(SPEC.to_json())
    del values["threshold"], values["crop"], values["trained_on"]
    assert ModelSpec.from_json(json.dumps(values)).threshold == 0.5


def test_whole_numbers_pass_for_floats() -> None:
    assert ModelSpec.from_json(json.dumps({**json.loads(SPEC.to_json()), "gray_mean": 61})).gray_mean == 61


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("input_size", 16),
        ("input_size", 4096),
        ("input_size", "224"),
        ("input_size", 224.5),
        ("input_size", True),
        ("gray_mean", "dark"),
        ("gray_scale", float("nan")),
        ("gray_scale", None),
        ("outputs", "nodule"),
        ("outputs", [1]),
        ("threshold", 0),
        ("threshold", 1),
        ("threshold", "half"),
        ("crop", "center"),
        ("resize", 7),
        ("trained_on", {"DDTI": 1}),
        ("version", 2),
        ("colour", "gray"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        ModelSpec.from_json(json.dumps({**json.loads(SPEC.to_json()), field: value}))


@pytest.mark.parametrize("field", ["model", "input_size", "gray_mean", "gray_scale", "outputs"])
def test_a_missing_field_is_named(field: str) -> None:
    values = json.loads(SPEC.to_json())
    del values[field]
    with pytest.raises(ValueError, match=f"{field}.*missing"):
        ModelSpec.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"spec"', "3"])
def test_text_that_is_no_spec(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|expected an object"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize("change", [{"threshold": 1.5}, {"crop": "center"}, {"input_size": 8}, {"version": 0}])
def test_a_spec_made_in_python_is_checked_too(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(SPEC, **change)


def test_manifest_survives_json() -> None:
    assert EngineManifest.from_dict(json.loads(json.dumps(MANIFEST.to_dict()))) == MANIFEST


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 99}, "version 99, expected 1"),
        ({"version": None}, "version None, expected 1"),
        ({"spec": None}, "ModelSpec"),
        ({"spec": {}}, "ModelSpec: field 'model' is missing"),
        ({"device": {"name": 5}}, "Device: field 'name'"),
        ({"precision": "int4"}, "'precision' is 'int4', expected one of fp32, fp16, int8"),
        ({"files": ["model.onnx"]}, "'files'"),
        ({"files": {"model.onnx": 3}}, "'files'"),
        ({"max_batch": "8"}, "'max_batch' is '8', expected int"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EngineManifest.from_dict({**json.loads(json.dumps(MANIFEST.to_dict())), **change})


@pytest.mark.parametrize("values", [None, [], "engine", 3, {}])
def test_what_is_no_manifest(values: Any) -> None:
    with pytest.raises(ValueError, match="manifest version None"):
        EngineManifest.from_dict(values)
