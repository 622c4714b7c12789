"""Encoder weights from folders in the hub's format, and one line where they are missing; no network is used."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import save_file  # noqa: E402
from torch import nn  # noqa: E402

from ssmt_edge.errors import CheckpointError  # noqa: E402
from trainer.checkpoint import load_checkpoint  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.fit import train  # noqa: E402
from trainer.nets import NETWORKS, build_network  # noqa: E402

SIZE = 32


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # read when it was imported

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network connection was tried")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """ResNet and ViT of the tiny network's sizes, saved by transformers."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(5)
    tiny: Any = build_network("ssmt-net-tiny", SIZE)
    transformers.ResNetModel(tiny.resnet.config).save_pretrained(root / "resnet")
    transformers.ViTModel(tiny.vit.config, add_pooling_layer=False).save_pretrained(root / "vit")
    return str(root / "resnet"), str(root / "vit")


def test_weights_are_taken_over(folders: tuple[str, str]) -> None:
    network: Any = build_network("ssmt-net-tiny", SIZE)
    rest = {k: v.clone() for k, v in network.state_dict().items() if not k.startswith(("resnet.", "vit."))}
    network.load_pretrained(*folders)
    expected = transformers.ResNetModel.from_pretrained(folders[0]).state_dict()
    assert all(torch.equal(network.resnet.state_dict()[name], value) for name, value in expected.items())
    expected = transformers.ViTModel.from_pretrained(folders[1], add_pooling_layer=False).state_dict()
    assert all(torch.equal(network.vit.state_dict()[name], value) for name, value in expected.items())
    assert all(torch.equal(network.state_dict()[name], value) for name, value in rest.items())


def test_transunet_takes_the_hybrid_and_the_layers_of_a_vit(folders: tuple[str, str], tmp_path: Path) -> None:
    small = {"embedding_size": 16, "hidden_sizes": [32, 64, 96], "depths": [1, 1, 1], "num_groups": 8}
    vit = transformers.ViTModel.from_pretrained(folders[1], add_pooling_layer=False)
    layers = {k: getattr(vit.config, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    vit_options = {**layers, "intermediate_size": vit.config.intermediate_size}
    network: Any = NETWORKS["transunet"](input_size=SIZE, resnet=small, vit=vit_options)
    projection = network.vit.embeddings.patch_embeddings.projection.weight.clone()
    decoder = {k: v.clone() for k, v in network.nodule.state_dict().items()}
    bit = transformers.BitModel(transformers.BitConfig(layer_type="bottleneck", **small)).eval()
    torch.nn.init.normal_(bit.embedder.convolution.weight, mean=1)
    prefix = "vit.embeddings.patch_embeddings.backbone.bit."  # as in google/vit-hybrid-base-bit-384
    (tmp_path / "hybrid").mkdir()
    bit.config.save_pretrained(tmp_path / "hybrid")
    state = {prefix + k: v.contiguous() for k, v in bit.state_dict().items()}
    save_file(
        {**state, "vit.layernorm.bias": torch.zeros(3)}, tmp_path / "hybrid" / "model.safetensors", {"format": "pt"}
    )
    bit.save_pretrained(tmp_path / "plain")
    for name in ("hybrid", "plain"):
        network.resnet.encoder.apply(lambda m: [p.data.zero_() for p in m.parameters(recurse=False)])
        network.load_pretrained(str(tmp_path / name), folders[1])
        stages = network.resnet.encoder.state_dict()
        assert all(torch.equal(stages[k], v) for k, v in bit.encoder.state_dict().items())
        frames = torch.randn(1, 3, SIZE, SIZE)
        ours, theirs = (r.embedder.norm(r.embedder.convolution(frames)) for r in (network.resnet, bit))
        torch.testing.assert_close(ours, theirs)  # ours has the standardised weights
    for key, value in vit.state_dict().items():
        if "patch_embeddings" not in key:
            assert torch.equal(network.vit.state_dict()[key], value), key
    assert torch.equal(network.vit.embeddings.patch_embeddings.projection.weight, projection)
    assert all(torch.equal(network.nodule.state_dict()[k], v) for k, v in decoder.items())


def test_encoders_stay_in_training_mode_and_precision(folders: tuple[str, str], tmp_path: Path) -> None:
    halves = []
    for folder, kind in zip(folders, (transformers.ResNetModel, transformers.ViTModel), strict=True):
        halves.append(str(tmp_path / Path(folder).name))
        kind.from_pretrained(folder).half().save_pretrained(halves[-1])
    for names in (folders, tuple(halves)):
        network: Any = build_network("ssmt-net-tiny", SIZE)
        network.load_pretrained(*names)
        assert all(m.training for m in network.modules())
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        assert all(p.requires_grad for p in network.parameters())
        before = [
            torch.as_tensor(m.running_mean).clone() for m in network.resnet.modules() if isinstance(m, nn.BatchNorm2d)
        ]
        network(torch.randn(2, 3, SIZE, SIZE), ("nodule",))
        after = [m.running_mean for m in network.resnet.modules() if isinstance(m, nn.BatchNorm2d)]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_run_starts_from_them(folders: tuple[str, str], phantom_set: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        "ssmt-net-tiny",
        data=(str(phantom_set),),
        phase="supervised",
        epochs=1,
        batch_size=8,
        lr=1e-9,  # so that the weights are still those of the folders
        lr_end=1e-9,
        input_size=SIZE,
        workers=0,
        precision="32",
        pretrained=folders,
    )
    train(config, tmp_path / "run", say=lambda _: None)
    trained: Any = load_checkpoint(tmp_path / "run" / "model.safetensors").network
    expected = transformers.ViTModel.from_pretrained(folders[1], add_pooling_layer=False).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(trained.vit.state_dict()[name], value, rtol=0, atol=1e-6)


def wrong(kind: str, folders: tuple[str, str], tmp_path: Path) -> tuple[str, str]:
    """Two names of which one cannot be used."""
    if kind == "missing folder":
        return str(tmp_path / "missing"), folders[1]
    if kind == "not on this machine":
        return folders[0], "no-such-owner/no-such-vit"
    if kind == "empty folder":
        (tmp_path / "empty").mkdir()
        return str(tmp_path / "empty"), folders[1]
    if kind == "swapped":
        return folders[1], folders[0]
    if kind == "other sizes":
        larger = transformers.ViTConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE)
        transformers.ViTModel(larger).save_pretrained(tmp_path / "larger")
        return folders[0], str(tmp_path / "larger")
    assert kind == "damaged"
    shutil.copytree(folders[0], tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return str(tmp_path / "damaged"), folders[1]


@pytest.mark.parametrize(
    "kind", ["missing folder", "not on this machine", "empty folder", "swapped", "other sizes", "damaged"]
)
def test_unusable_weights_are_one_line(kind: str, folders: tuple[str, str], phantom_set: Path, tmp_path: Path) -> None:
    names = wrong(kind, folders, tmp_path)
    config = TrainConfig("ssmt-net-tiny", (str(phantom_set),), input_size=SIZE, workers=0, pretrained=names)
    reason = {
        "missing folder": r"missing is neither a folder nor in the cache of transformers, and the hub has no such",
        "not on this machine": r"no-such-vit is neither a folder nor in the cache .* and the hub cannot be reached",
    }.get(kind, "")
    expected = rf"no pretrained weights for .*{reason}.*; check the names and the network, or give two local folders"
    with pytest.raises(CheckpointError, match=expected):
        train(config, tmp_path / "run", say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_a_network_without_such_encoders(folders: tuple[str, str], phantom_set: Path, tmp_path: Path) -> None:
    config = TrainConfig("ssmt-lite", (str(phantom_set),), input_size=SIZE, workers=0, pretrained=folders)
    with pytest.raises(CheckpointError, match="SsmtLite has no ResNet and ViT encoders"):
        train(config, tmp_path / "run", say=lambda _: None)
