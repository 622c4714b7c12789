"""Every network of the table, with few channels: shapes, gradients, training, engines; the masked decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engines import open_engine  # noqa: E402
from engines.parity import phantom_frames  # noqa: E402
from ssmt_edge.errors import UsageError  # noqa: E402
from ssmt_edge.metrics import dice  # noqa: E402
from ssmt_edge.phantom import phantom  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402
from trainer.checkpoint import save_checkpoint  # noqa: E402
from trainer.deployed import Deployed, TorchEngine  # noqa: E402
from trainer.losses import LossWeights, total_loss  # noqa: E402
from trainer.nets import DESCRIPTIONS, NETWORKS, build_network  # noqa: E402
from trainer.nets.blocks import MaskedTransformerDecoder, SoftThreshold  # noqa: E402
from trainer.nets.network import Network, Outputs  # noqa: E402
from trainer.nets.us_net import EntropySelection  # noqa: E402

TASKS = ("nodule", "gland", "reconstruction", "size")
SUBSETS = [subset for count in range(1, 5) for subset in combinations(TASKS, count)]
SIZE = 64
WIDTHS = (16, 24, 32, 48, 64)
# the same classes with few channels, so that all of them are quick
SMALL: dict[str, Callable[..., Network]] = {
    "ssmt-net": NETWORKS["ssmt-net-tiny"],
    "ssmt-net-cnn": partial(NETWORKS["ssmt-net-tiny"], queries=0),
    "ssmt-lite": NETWORKS["ssmt-lite"],
    "transunet": partial(
        NETWORKS["transunet"],
        resnet={"embedding_size": 16, "hidden_sizes": [32, 64, 96], "depths": [1, 1, 1], "num_groups": 8},
        vit={"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96},
        decoder=(48, 32, 24, 16, 16),
    ),
    "unet": partial(NETWORKS["unet"], widths=WIDTHS),
    "us-net": partial(NETWORKS["us-net"], widths=WIDTHS),
    "uesa-net": partial(NETWORKS["uesa-net"], widths=WIDTHS),
    "ssmt-net-tiny": NETWORKS["ssmt-net-tiny"],
}
DISTINCT = [name for name in SMALL if name != "ssmt-net-tiny"]  # which stands for ssmt-net already


@pytest.fixture(autouse=True)
def _fixed_draws() -> None:
    torch.manual_seed(0)


def flat(outputs: Outputs) -> list[Tensor]:
    """All tensors of a network's outputs."""
    return [t for value in outputs.values() for t in (value if isinstance(value, list) else [value])]


def awake(network: Network) -> Network:
    """The network with its masked decoders switched on: their weight is zero at first, which stops gradients."""
    for module in network.modules():
        if isinstance(module, MaskedTransformerDecoder):
            nn.init.normal_(module.weight)
    return network


def test_every_network_is_described_and_tested() -> None:
    assert list(NETWORKS) == list(DESCRIPTIONS) == list(SMALL)


@pytest.mark.parametrize("name", DISTINCT)
def test_output_shapes_of_every_task_subset(name: str) -> None:
    network = SMALL[name](input_size=SIZE).eval()
    frames = torch.randn(2, network.channels, SIZE, SIZE)
    assert network.tasks[0] == "nodule"
    for tasks in SUBSETS:
        with torch.inference_mode():
            outputs = network(frames, tasks)
        had = [task for task in tasks if task in network.tasks]
        masks = [task for task in ("nodule", "gland") if task in had]
        assert set(outputs) == {*had, *(f"{m}_coarse" for m in masks)}
        for task in had:
            assert outputs[task].shape == ((2,) if task == "size" else (2, 1, SIZE, SIZE)), task
        for mask in masks:
            coarse = [tuple(step.shape) for step in outputs[f"{mask}_coarse"]]
            assert coarse == ([(2, 1, SIZE // 2, SIZE // 2)] * 3 if name == "ssmt-net" else [])


# the third: what FACTS of the literature give for TransUNet, within their rounding
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("ssmt-net", 115e6, 130e6), ("ssmt-lite", 2.5e6, 4.5e6), ("transunet", 105.25e6, 105.35e6)],
)
def test_parameter_count(name: str, low: float, high: float) -> None:
    with torch.device("meta"):
        network = build_network(name, 224)
    assert low < sum(p.numel() for p in network.parameters()) < high


@pytest.mark.parametrize("name", ["ssmt-lite", "ssmt-net-tiny"])
@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_only_the_tasks_asked_for_get_gradients(name: str, tasks: tuple[str, ...]) -> None:
    network = build_network(name, SIZE)
    outputs = network(torch.randn(2, network.channels, SIZE, SIZE), tasks)
    torch.stack([t.sum() for t in flat(outputs)]).sum().backward()
    for task in TASKS:
        reached = {p.grad is not None for p in getattr(network, task).parameters()}
        assert reached == {task in tasks}, task


@pytest.mark.parametrize("name", DISTINCT)
def test_frames_of_a_batch_do_not_mix_and_size_is_a_fraction(name: str) -> None:
    network = awake(SMALL[name](input_size=SIZE)).eval()
    frames = 3 * torch.randn(3, network.channels, SIZE, SIZE)
    with torch.inference_mode():
        together, alone = network(frames, TASKS), network(frames[1:2], TASKS)
    for a, b in zip(flat(together), flat(alone), strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-3, atol=1e-3)
    if "size" in together:
        assert ((together["size"] >= 0) & (together["size"] <= 1)).all()


@pytest.mark.parametrize("name", DISTINCT)
def test_input_convolutions_are_those_that_read_the_frame(name: str) -> None:
    network = SMALL[name](input_size=SIZE).eval()
    frames, readers = torch.randn(1, network.channels, SIZE, SIZE), []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape == frames.shape and torch.equal(inputs[0], frames):
            readers.append(module)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(note)
    convolutions = network.input_convolutions()
    with torch.inference_mode():
        network(frames, TASKS)  # with all its channels: asking changed nothing
    assert {id(c) for c in convolutions} == {id(r) for r in readers}
    assert all(c.in_channels == network.channels for c in convolutions)


@pytest.mark.parametrize("name", DISTINCT)
def test_a_frozen_encoder_leaves_the_decoders_to_train(name: str) -> None:
    network = SMALL[name](input_size=SIZE)
    network.freeze_encoder()
    learning = {n.split(".")[0] for n, p in network.named_parameters() if p.requires_grad}
    assert learning == set(network.tasks)


def test_unknown_network_and_impossible_size_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"unknown network 'resunet'; expected one of ssmt-net, .*unet, .*tiny$"):
        build_network("resunet", 224)
    with pytest.raises(UsageError, match="input size 100 is not a multiple of 32"):
        build_network("ssmt-lite", 100)


def phantom_batch(count: int, seed: int) -> dict[str, Tensor]:
    """What `trainer.data.Frames` gives, of phantoms."""
    found = [phantom(np.random.default_rng((seed, i)), (SIZE, SIZE)) for i in range(count)]
    masks = {
        name: torch.from_numpy(np.stack([getattr(f, name) for f in found])[:, None]).float()
        for name in ("nodule", "gland")
    }
    image = torch.from_numpy(np.stack([f.image for f in found])[:, None]).float()
    has = {f"has_{name}": torch.ones(count) for name in masks}
    return {"image": image, **masks, **has, "size": masks["nodule"].mean(dim=(1, 2, 3))}


def trained(name: str, steps: int) -> tuple[Network, list[float], set[str]]:
    """A small network after some steps of Adam on phantoms; its losses; parameters that never had a gradient."""
    network = SMALL[name](input_size=SIZE)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses, asleep = [], {n for n, _ in network.named_parameters()}
    batch = phantom_batch(8, seed=4)
    image = (batch["image"] - 60) * 0.02
    for _ in range(steps):
        outputs = network(image.expand(-1, network.channels, -1, -1), network.tasks)
        loss, _parts = total_loss(outputs, batch, image, LossWeights(), 0.5)
        optimiser.zero_grad()
        loss.backward()
        asleep -= {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
        assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
        optimiser.step()
        losses.append(loss.item())
    return network.eval(), losses, asleep


@pytest.mark.parametrize("name", DISTINCT)
def test_training_reaches_every_parameter_and_lowers_the_loss(name: str) -> None:
    _, losses, asleep = trained(name, 6)
    assert not asleep
    assert losses[-1] < 0.97 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_engines_agree_with_pytorch(
    name: str, calib_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from engines.build import build_engine
    from engines.export import export
    from engines.options import BuildOptions

    monkeypatch.setitem(NETWORKS, name, SMALL[name])
    network, _, _ = trained(name, 40)
    spec = ModelSpec(name, SIZE, 60.0, 0.02, tuple(t for t in ("nodule", "size") if t in network.tasks), crop="none")
    save_checkpoint(tmp_path / "net.safetensors", network, spec, {})
    graph = export(tmp_path / "net.safetensors", max_batch=4, out=tmp_path / "net.onnx")
    assert graph.outputs == spec.outputs
    frames = phantom_frames(spec, 4, seed=6)
    with TorchEngine(Deployed(network, spec, spec.outputs)) as reference:
        expected = reference.infer(frames)
    assert 0.01 < (expected["nodule"] > 127).mean() < 0.9
    for precision, calib, agree in (("fp32", None, 0.999), ("int8", calib_folder, 0.93)):
        folder = tmp_path / precision
        # the gate is for trained networks: here, masks of a few pixels decide its mean over frames
        build_engine(tmp_path / "net.onnx", folder, BuildOptions(precision, "onnxruntime", calib, max_dice_drop=0.3))
        with open_engine(folder) as engine:
            found = engine.infer(frames)
        assert set(found) == set(spec.outputs)
        pooled = [(side["nodule"] > 127).reshape(-1, SIZE) for side in (found, expected)]
        assert dice(*pooled) >= agree


def test_soft_thresholding_shrinks_towards_zero() -> None:
    shrink, x = SoftThreshold(8), torch.randn(2, 8, 6, 6)
    y = shrink(x)
    moved = (x - y).abs().amax(dim=(2, 3))  # the threshold, wherever a value is beyond it
    assert ((moved > 0) & (moved < x.abs().mean(dim=(2, 3)))).all()
    beyond = x.abs() > moved[:, :, None, None]
    torch.testing.assert_close(y.abs()[beyond], (x.abs() - moved[:, :, None, None])[beyond])
    assert not y[~beyond].any() and (y * x >= 0).all()


def test_entropy_tells_channels_that_respond_in_one_place_from_others() -> None:
    select, x = EntropySelection(4), torch.ones(1, 4, 28, 28)
    x[0, 1, :2, :2] = 40  # one cell of 14 x 14
    kept = select(x, x) / x
    assert kept[0, 1].max() < 0.2 < 0.5 < kept[0, [0, 2, 3]].min()


class TestMaskedTransformerDecoder:
    """Three scales of 4, 8 and 16 pixels; foreground is predicted in the left half, which falls on whole cells."""

    SIDES = (4, 8, 16)

    @pytest.fixture
    def decoder(self) -> MaskedTransformerDecoder:
        return MaskedTransformerDecoder((8, 8, 8), dim=16, queries=4).eval()

    def scales(self) -> list[Tensor]:
        return [torch.randn(2, 8, side, side) for side in self.SIDES]

    def left(self) -> Tensor:
        logits: Tensor = -torch.ones(2, 1, 16, 16)
        logits[..., :8] = 1
        return logits

    def attended(self, decoder: MaskedTransformerDecoder, scales: list[Tensor], logits: Tensor) -> list[Tensor]:
        """What each layer's cross-attention brings to the queries."""
        found: list[Tensor] = []
        hooks = [c.register_forward_hook(lambda *args: found.append(args[2])) for c in decoder.cross]
        with torch.inference_mode():
            decoder(scales, logits)
        for hook in hooks:
            hook.remove()
        assert len(found) == 3
        return found

    def test_starts_as_the_identity(self, decoder: MaskedTransformerDecoder) -> None:
        scales, logits = self.scales(), torch.randn(2, 1, 16, 16)
        refined = decoder(scales, logits)
        assert len(refined) == 3
        assert all(torch.equal(step, logits) for step in refined)
        nn.init.normal_(decoder.weight)
        assert not any(torch.allclose(step, logits) for step in decoder(scales, logits))

    def test_attention_stays_inside_the_mask(self, decoder: MaskedTransformerDecoder) -> None:
        scales = self.scales()
        before = self.attended(decoder, scales, self.left())
        outside = [s.clone() for s in scales]
        for s in outside:
            s[..., s.shape[-1] // 2 :] += 5 * torch.randn_like(s[..., s.shape[-1] // 2 :])
        for a, b in zip(before, self.attended(decoder, outside, self.left()), strict=True):
            assert torch.equal(a, b)
        inside = [s.clone() for s in scales]
        for s in inside:
            s[..., 0] += 5
        for a, b in zip(before, self.attended(decoder, inside, self.left()), strict=True):
            assert not torch.allclose(a, b)

    def test_a_nodule_smaller_than_a_cell_is_looked_at(self, decoder: MaskedTransformerDecoder) -> None:
        scales, logits = self.scales(), torch.full((2, 1, 16, 16), -20.0)
        logits[..., 5, 6] = 1.0  # one pixel; a mean over its cell, or a sample of it, would miss it
        before = self.attended(decoder, scales, logits)[0]
        scales[0][..., 3, 3] += 5  # another cell of 4 x 4
        assert torch.equal(before, self.attended(decoder, scales, logits)[0])
        scales[0][..., 1, 1] += 5  # its own
        assert not torch.allclose(before, self.attended(decoder, scales, logits)[0])

    def test_learns_from_its_start_at_zero(self, decoder: MaskedTransformerDecoder) -> None:
        scales, start = self.scales(), -torch.ones(2, 1, 16, 16)
        truth = (scales[2].mean(dim=1, keepdim=True) > 0).float()
        optimiser, losses = torch.optim.Adam(decoder.parameters(), 1e-2), []
        for _ in range(30):
            steps = decoder(scales, start)
            loss = torch.stack([F.binary_cross_entropy_with_logits(step, truth) for step in steps]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]

    def test_mask_follows_the_refined_logits(self, decoder: MaskedTransformerDecoder) -> None:
        scales = self.scales()
        kept = self.attended(decoder, scales, self.left())
        nn.init.normal_(decoder.weight, std=10)  # the first layer turns the mask into another one
        moved = self.attended(decoder, scales, self.left())
        assert torch.equal(kept[0], moved[0])
        assert not torch.allclose(kept[1], moved[1])

    def test_empty_mask_attends_everywhere(self, decoder: MaskedTransformerDecoder) -> None:
        scales, nothing = self.scales(), torch.full((2, 1, 16, 16), -3.0)
        before = self.attended(decoder, scales, nothing)
        everything = self.attended(decoder, scales, -nothing)
        for a, b in zip(before, everything, strict=True):
            assert a.isfinite().all()
            assert torch.equal(a, b)
        nothing[1] = self.left()[1]  # one frame with a mask does not narrow the view of one without
        for a, b in zip(before, self.attended(decoder, scales, nothing), strict=True):
            torch.testing.assert_close(a[0], b[0])
            assert not torch.allclose(a[1], b[1])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_finite_in_half_precision(self, decoder: MaskedTransformerDecoder, dtype: Any) -> None:
        nn.init.normal_(decoder.weight)
        refined = decoder.to(dtype)([s.to(dtype) for s in self.scales()], self.left().to(dtype))
        assert all(step.dtype == dtype and step.isfinite().all() for step in refined)
