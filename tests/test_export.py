"""From a checkpoint to the deployed graph: exact folding, one clean file, dynamic batch, refusals."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli, refused

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("lightning")

from engines import export as exporting  # noqa: E402
from engines.export import export, fold_gray  # noqa: E402
from engines.graph import load_graph  # noqa: E402
from engines.onnxruntime_cpu import open_graph  # noqa: E402
from engines.parity import max_difference, phantom_frames  # noqa: E402
from ssmt_edge.errors import ExportError  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402
from trainer.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from trainer.deployed import Deployed  # noqa: E402
from trainer.nets import build_network  # noqa: E402

OUTPUTS = ("nodule", "size")


@pytest.fixture(scope="module")
def three_channels() -> Deployed:
    """`ssmt-net-tiny` for 64 x 64 frames with random weights and a head that makes differences visible."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = build_network("ssmt-net-tiny", 64).eval().requires_grad_(False)
    spec = ModelSpec("ssmt-net-tiny", 64, 60.0, 0.02, ("nodule", "gland", "size"), crop="none")
    deployed = Deployed(network, spec, OUTPUTS).eval()
    logits = raw(deployed, phantom_frames(spec, 2))
    scale = 4 / logits.std()
    network.nodule.head.weight *= scale
    network.nodule.head.bias.copy_((network.nodule.head.bias - logits.mean()) * scale)
    return deployed


def outputs(deployed: Deployed, frames: Any) -> dict[str, Any]:
    with torch.inference_mode():
        found = deployed(torch.from_numpy(frames))
    return {name: value.numpy() for name, value in zip(deployed.outputs, found, strict=True)}


def raw(deployed: Deployed, frames: Any) -> Any:
    """The nodule's logits, which the rounding to bytes hides."""
    spec, channels = deployed.spec, deployed.network.channels
    x = ((torch.from_numpy(frames).float() - spec.gray_mean) * spec.gray_scale).expand(-1, channels, -1, -1)
    with torch.no_grad():
        return deployed.network(x, ("nodule",))["nodule"]


def test_folding_gray_is_exact(three_channels: Deployed) -> None:
    frames = phantom_frames(three_channels.spec, 2, seed=1)
    folded = fold_gray(three_channels)
    assert folded.network.channels == 1
    assert [c.weight.shape[1] for c in folded.network.input_convolutions()] == [1, 1]
    assert three_channels.network.channels == 3  # a copy was folded
    expected = raw(three_channels, frames)
    assert expected.std() > 1
    torch.testing.assert_close(raw(folded, frames), expected, rtol=0, atol=1e-3)
    assert max(max_difference(outputs(folded, frames), outputs(three_channels, frames)).values()) <= 1 / 255


def test_folding_the_mean_would_be_wrong_at_borders(three_channels: Deployed) -> None:
    # why fold_gray leaves the mean out: a padded zero stands for the mean, not for black
    frames = phantom_frames(three_channels.spec, 2, seed=1)
    right = fold_gray(three_channels)
    wrong = copy.deepcopy(right)
    wrong.spec = replace(right.spec, gray_mean=0.0)
    for convolution in wrong.network.input_convolutions():
        bias = 0 if convolution.bias is None else convolution.bias
        shift = convolution.weight.sum(dim=(1, 2, 3)) * right.spec.gray_mean
        convolution.bias = torch.nn.Parameter(bias - shift, requires_grad=False)
    difference = (raw(wrong, frames) - raw(right, frames)).abs()
    assert difference.max() > 0.1
    assert max_difference(outputs(wrong, frames), outputs(three_channels, frames))["nodule"] > exporting.TOLERANCE


def test_the_file_is_one_clean_graph(tiny_graph: Path, tiny_checkpoint: Path) -> None:
    assert [p.name for p in tiny_graph.parent.iterdir()] == [tiny_graph.name]
    model = onnx.load(str(tiny_graph), load_external_data=False)
    onnx.checker.check_model(model)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert all(t.data_location != onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert set(metadata) == {"ssmt-edge.spec", "ssmt-edge.checkpoint_sha256", "ssmt-edge.max_batch"}
    assert metadata["ssmt-edge.checkpoint_sha256"] == sha256(tiny_checkpoint)
    del model.graph.initializer[:]
    text = model.SerializeToString()
    for trace in (b".py", b"stack_trace", b"site-packages", str(Path.home()).encode() + b"/", b"/tmp/", b"torch.nn"):
        assert trace not in text, trace


def test_inputs_and_outputs_are_those_of_the_contract(tiny_graph: Path) -> None:
    graph = onnx.load(str(tiny_graph)).graph

    def described(value: Any) -> tuple[str, int, list[Any]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [d.dim_param or d.dim_value for d in tensor.shape.dim]

    byte, real = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    assert [described(v) for v in graph.input] == [("frame", byte, ["N", 1, 64, 64])]
    assert [described(v) for v in graph.output] == [("nodule", byte, ["N", 1, 64, 64]), ("size", real, ["N"])]


def test_the_graph_is_pytorchs_function_for_any_batch(tiny_graph: Path, tiny_checkpoint: Path) -> None:
    loaded, graph = load_checkpoint(tiny_checkpoint), load_graph(tiny_graph)
    frames = phantom_frames(graph.spec, 3, seed=2)
    expected = outputs(Deployed(loaded.network, loaded.spec, OUTPUTS).eval(), frames)
    assert 0.1 < (expected["nodule"] > 127).mean() < 0.9
    with open_graph(graph) as engine:
        together = engine.infer(frames)
        single = [engine.infer(frame[None]) for frame in frames]
    assert max(max_difference(together, expected).values()) <= exporting.TOLERANCE
    alone = {name: np.concatenate([s[name] for s in single]) for name in together}
    assert max(max_difference(together, alone).values()) <= 1 / 255


def test_reconstruction_and_gland_are_not_deployed(tiny_graph: Path, tiny_checkpoint: Path) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    left_out = sum(
        p.numel() for task in ("gland", "reconstruction") for p in getattr(loaded.network, task).parameters()
    )
    graph = onnx.load(str(tiny_graph)).graph
    deployed = sum(int(np.prod(t.dims)) for t in graph.initializer)
    everything = sum(p.numel() for p in loaded.network.parameters())
    assert deployed == pytest.approx(everything - left_out, rel=0.01)


def test_a_step_that_changes_the_outputs_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(deployed: Deployed) -> Deployed:
        shifted = fold_gray(deployed)
        shifted.spec = replace(shifted.spec, gray_mean=shifted.spec.gray_mean + 20)
        return shifted

    monkeypatch.setattr(exporting, "fold_gray", off)
    with pytest.raises(ExportError, match=r"after the step 'gray folded .*' the output 'nodule' differs from PyTorch"):
        export(tiny_checkpoint, out=tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_gland_that_was_never_trained(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    line = refused(cli, tmp_path, "export", tiny_checkpoint, "--out", tmp_path / "a.onnx", "--with-gland")
    assert "never trained with gland labels" in line
    options = ("--out", tmp_path / "engine", "--with-gland")
    assert "never trained with gland labels" in refused(cli, tmp_path, "build-engine", tiny_checkpoint, *options)


def test_a_pretrained_network_has_no_nodule_to_export(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path / "pre.safetensors", loaded.network, replace(loaded.spec, outputs=()), {})
    line = refused(cli, tmp_path, "export", tmp_path / "pre.safetensors", "--out", tmp_path / "a.onnx")
    assert "never trained with nodule labels" in line


def test_the_name_must_end_in_onnx(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    line = refused(cli, tmp_path, "export", tiny_checkpoint, "--out", tmp_path / "a.pt", code=2)
    assert "a.pt, expected a file name that ends in .onnx" in line


@pytest.mark.slow
def test_ssmt_net_with_gland_and_half_weights(cli: Cli, three_channels: Deployed, tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    save_checkpoint(checkpoint, three_channels.network, three_channels.spec, {})
    answer = cli("export", checkpoint, "--out", out, "--with-gland", "--half-weights", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["outputs"] == ["nodule", "gland", "size"]
    said = answer.err.splitlines()
    assert len(said) == 4 and all("largest difference 0.00" in line for line in said), said
    graph = load_graph(out)
    frames = phantom_frames(graph.spec, 3, seed=4)
    expected = outputs(Deployed(three_channels.network, graph.spec, graph.outputs).eval(), frames)
    with open_graph(graph) as engine:
        assert max(max_difference(engine.infer(frames), expected).values()) <= exporting.TOLERANCE


def test_a_graph_for_single_frames(tiny_checkpoint: Path) -> None:
    graph = export(tiny_checkpoint, max_batch=1)
    assert graph.max_batch == 1
    assert graph.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
