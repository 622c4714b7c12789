"""Checkpoints and resume files: what is written comes back, and nothing foreign is executed."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file  # noqa: E402

from ssmt_edge.errors import CheckpointError  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402
from trainer.callbacks import AtomicCheckpointIO  # noqa: E402
from trainer.checkpoint import FORMAT, load_checkpoint, read_weights, save_checkpoint  # noqa: E402
from trainer.nets import build_network  # noqa: E402

SPEC = ModelSpec("ssmt-lite", 64, 40.5, 0.02, ("nodule", "size"), threshold=0.35, trained_on=("set",))


class Payload:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, build_network("ssmt-lite", 64), SPEC, {"epochs": 3})
    return path


def refused(path: Path) -> str:
    """The one line with which a checkpoint is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    line = str(caught.value)
    assert str(path) in line and len(line) < 300 + len(str(path))
    return line


def test_round_trip(stored: Path) -> None:
    torch.manual_seed(0)
    network = build_network("ssmt-lite", 64)
    checkpoint = load_checkpoint(stored)
    assert checkpoint.spec == SPEC
    assert checkpoint.config == {"epochs": 3}
    assert checkpoint.sha256 == sha256(stored)
    assert not checkpoint.network.training
    assert not any(p.requires_grad for p in checkpoint.network.parameters())
    found = checkpoint.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())
    assert [p.name for p in stored.parent.iterdir()] == ["model.safetensors"]


def test_equal_checkpoints_have_equal_digests(stored: Path, tmp_path: Path) -> None:
    # engines and calibration ranges name their checkpoint by its digest
    network = load_checkpoint(stored).network
    for i in range(8):
        save_checkpoint(tmp_path / f"{i}.safetensors", network, SPEC, {"epochs": 3})
    assert {sha256(p) for p in tmp_path.iterdir()} == {sha256(stored)}


def test_half_storage(stored: Path, tmp_path: Path) -> None:
    full, path = load_checkpoint(stored), tmp_path / "half.safetensors"
    save_checkpoint(path, full.network, SPEC, {}, half=True)
    assert path.stat().st_size < 0.55 * stored.stat().st_size
    tensors, _, _ = read_weights(path)
    # counters stay integers
    assert {t.dtype for t in tensors.values()} == {torch.float16, torch.int64}
    weights = load_checkpoint(path).network.state_dict()
    assert torch.float16 not in {t.dtype for t in weights.values()}
    for name, value in full.network.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-6)


def test_missing_and_random_and_empty(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "none.safetensors")
    path = tmp_path / "random.safetensors"
    for content in (b"", b"\x00" * 64, bytes(range(256)) * 40, b"\xff" * 4096):
        path.write_bytes(content)
        assert "is not a checkpoint of ssmt-edge" in refused(path)


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_truncated(stored: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.safetensors"
    content = stored.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is not a checkpoint of ssmt-edge" in refused(path)


def test_other_safetensors_files(stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    tensors, _, _ = read_weights(stored)
    save_file(tensors, path)
    assert f"has format None, expected '{FORMAT}'" in refused(path)
    save_file(tensors, path, {"format": "ssmt-edge-checkpoint-9"})
    assert "has format 'ssmt-edge-checkpoint-9'" in refused(path)
    good = {"format": FORMAT, "spec": SPEC.to_json(), "config": "{}"}
    for key, value in (("spec", "no JSON"), ("spec", "{}"), ("spec", "[]"), ("config", "no JSON")):
        save_file(tensors, path, {**good, key: value})
        assert "unusable metadata" in refused(path)
    save_file(tensors, path, {"format": FORMAT})
    assert "unusable metadata" in refused(path)
    later = json.loads(SPEC.to_json()) | {"version": 2}
    save_file(tensors, path, {**good, "spec": json.dumps(later)})
    assert "spec version 2, expected 1" in refused(path)


def test_weights_that_do_not_fit(stored: Path, tmp_path: Path) -> None:
    network, path = load_checkpoint(stored).network, tmp_path / "misfit.safetensors"
    save_checkpoint(path, network, replace(SPEC, model="ssmt-net-tiny"), {})
    assert "does not fit network 'ssmt-net-tiny'" in refused(path)
    save_checkpoint(path, network, replace(SPEC, input_size=96), {})
    assert "size mismatch for position" in refused(path)
    save_checkpoint(path, network, replace(SPEC, model="vnet"), {})
    assert "unknown network 'vnet'" in refused(path)


def test_a_pickle_under_the_name_of_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "model.safetensors"
    for save in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))):
        save({"state_dict": Payload(target)}, path)
        assert "is not a checkpoint of ssmt-edge" in refused(path)
        assert not target.exists()
    pickle.loads(path.read_bytes())  # the payload is a real one
    assert target.exists()


class TestResumeFile:
    """`last.ckpt`, which Lightning writes with torch.save and reads through `AtomicCheckpointIO`."""

    def refused(self, path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            AtomicCheckpointIO().load_checkpoint(path)
        assert "delete it to start the phase again" in str(caught.value)
        return str(caught.value)

    def test_payload_is_not_executed(self, tmp_path: Path) -> None:
        target, path = tmp_path / "executed", tmp_path / "last.ckpt"
        torch.save({"state_dict": {}, "callbacks": Payload(target)}, path)
        for asked in (True, False, None):
            with pytest.raises(CheckpointError):
                AtomicCheckpointIO().load_checkpoint(path, weights_only=asked)
        assert not target.exists()
        path.write_bytes(pickle.dumps(Payload(target)))
        self.refused(path)
        assert not target.exists()
        torch.save(Payload(target), path)
        torch.load(path, weights_only=False)  # the payload is a real one
        assert target.exists()

    def test_damaged_or_foreign(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "last.ckpt", io.BytesIO()
        torch.save({"weights": torch.arange(5000)}, whole)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("readme.txt", "no weights")
        contents = [b"", b"text", bytes(range(256)), whole.getvalue()[:900], whole.getvalue()[:-9], archive.getvalue()]
        for content in contents:
            path.write_bytes(content)
            self.refused(path)
        path.write_bytes(whole.getvalue())
        assert "not a resume file of train" in self.refused(path)
        torch.save([1, 2], path)
        assert "not a resume file of train" in self.refused(path)
