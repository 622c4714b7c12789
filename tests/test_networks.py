"""Every network of the table: shapes, gradients, the masked transformer decoder."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from ssmt_edge.errors import UsageError  # noqa: E402
from trainer.nets import NETWORKS, build_network  # noqa: E402
from trainer.nets.blocks import MaskedTransformerDecoder  # noqa: E402
from trainer.nets.network import Network, Outputs  # noqa: E402

TASKS = ("nodule", "gland", "reconstruction", "size")
SUBSETS = [subset for count in range(1, 5) for subset in combinations(TASKS, count)]
SIZE = 64


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


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "ssmt-net")) for n in NETWORKS])
def test_output_shapes_of_every_task_subset(name: str) -> None:
    network = build_network(name, SIZE).eval()
    frames = torch.randn(2, network.channels, SIZE, SIZE)
    for tasks in SUBSETS:
        with torch.inference_mode():
            outputs = network(frames, tasks)
        masks = [task for task in ("nodule", "gland") if task in tasks]
        assert set(outputs) == {*tasks, *(f"{m}_coarse" for m in masks)}
        for task in tasks:
            assert outputs[task].shape == ((2,) if task == "size" else (2, 1, SIZE, SIZE)), task
        for mask in masks:
            coarse = [tuple(step.shape) for step in outputs[f"{mask}_coarse"]]
            assert coarse == ([] if name == "ssmt-lite" else [(2, 1, SIZE // 2, SIZE // 2)] * 4)


@pytest.mark.parametrize(("name", "low", "high"), [("ssmt-net", 115e6, 130e6), ("ssmt-lite", 2.5e6, 4.5e6)])
def test_parameter_count(name: str, low: float, high: float) -> None:
    with torch.device("meta"):
        network = build_network(name, 224)
    assert low < sum(p.numel() for p in network.parameters()) < high


@pytest.mark.parametrize("name", ["ssmt-lite", "ssmt-net-tiny", pytest.param("ssmt-net", marks=pytest.mark.slow)])
def test_gradients_reach_every_parameter(name: str) -> None:
    network = awake(build_network(name, SIZE))
    outputs = network(torch.randn(2, network.channels, SIZE, SIZE), TASKS)
    torch.stack([(t * torch.randn_like(t)).sum() for t in flat(outputs)]).sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    assert not [n for n, g in gradients.items() if g is None or not g.isfinite().all() or not g.any()]


@pytest.mark.parametrize("name", ["ssmt-lite", "ssmt-net-tiny"])
@pytest.mark.parametrize("tasks", SUBSETS, ids="+".join)
def test_only_the_tasks_asked_for_get_gradients(name: str, tasks: tuple[str, ...]) -> None:
    network = awake(build_network(name, SIZE))
    outputs = network(torch.randn(2, network.channels, SIZE, SIZE), tasks)
    torch.stack([t.sum() for t in flat(outputs)]).sum().backward()
    for task in TASKS:
        reached = {p.grad is not None for p in getattr(network, task).parameters()}
        assert reached == {task in tasks}, task


@pytest.mark.parametrize("name", ["ssmt-lite", "ssmt-net-tiny"])
def test_frames_of_a_batch_do_not_mix_and_size_is_a_fraction(name: str) -> None:
    network = awake(build_network(name, SIZE)).eval()
    frames = 3 * torch.randn(3, network.channels, SIZE, SIZE)
    with torch.inference_mode():
        together, alone = network(frames, TASKS), network(frames[1:2], TASKS)
    for a, b in zip(flat(together), flat(alone), strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-3, atol=1e-3)
    assert ((together["size"] >= 0) & (together["size"] <= 1)).all()


@pytest.mark.parametrize("name", ["ssmt-lite", "ssmt-net-tiny"])
def test_input_convolutions_are_those_that_read_the_frame(name: str) -> None:
    network = build_network(name, SIZE).eval()
    frames, readers = torch.randn(1, network.channels, SIZE, SIZE), []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if inputs[0].shape == frames.shape and torch.equal(inputs[0], frames):
            readers.append(module)

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(note)
    with torch.inference_mode():
        network(frames, TASKS)
    convolutions = network.input_convolutions()
    assert {id(c) for c in convolutions} == {id(r) for r in readers}
    assert all(c.in_channels == network.channels for c in convolutions)


def test_channels() -> None:
    assert {name: build_network(name, SIZE).channels for name in ("ssmt-lite", "ssmt-net-tiny")} == {
        "ssmt-lite": 1,
        "ssmt-net-tiny": 3,
    }


def test_unknown_network_and_impossible_size_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"unknown network 'unet'; expected one of ssmt-net, ssmt-lite, ssmt-net-tiny"):
        build_network("unet", 224)
    with pytest.raises(UsageError, match="input size 100 is not a multiple of 32"):
        build_network("ssmt-lite", 100)


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
