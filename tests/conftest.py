"""Data that several tests use: a small synthetic set, and real ultrasound where the machine has it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import Answer, Cli

from ssmt_edge.cli import main
from ssmt_edge.phantom import phantom, write_set
from ssmt_edge.spec import ModelSpec


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ultrasound data, which is never part of the repository; skips where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    root = Path(os.environ.get("SSMT_EDGE_DATA", default))
    if not (root / "ddti").is_dir():
        pytest.skip(f"no real data at {root}; set SSMT_EDGE_DATA to a folder that holds ddti/")
    return root


@pytest.fixture(scope="session")
def phantom_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of 16 frames (14 train, 2 val) and 4 test frames, 96 x 128 pixels; do not write to it."""
    out = tmp_path_factory.mktemp("phantoms") / "set"
    write_set(out, 16, 4, size=(96, 128), seed=7)
    return out


@pytest.fixture(scope="session")
def calib_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 distinct phantoms as PNG: enough to calibrate on and to keep 16 back; do not write to it."""
    out = tmp_path_factory.mktemp("calib")
    for i in range(40):
        cv2.imwrite(str(out / f"{i}.png"), phantom(np.random.default_rng((9, i)), (64, 64)).image)
    return out


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ssmt-lite` for 64 x 64 frames, never trained, with outputs `nodule` and `size`.

    Its masks are not trivial, though: the batch statistics are those of phantoms, and the head is scaled so that 30 %
    of the phantoms' pixels count as nodule, most of them clearly.
    """
    pytest.importorskip("lightning")
    pytest.importorskip("monai")
    torch = pytest.importorskip("torch")
    from engines.parity import phantom_frames
    from trainer.checkpoint import save_checkpoint
    from trainer.module import normalise
    from trainer.nets import build_network

    spec = ModelSpec("ssmt-lite", 64, 60.0, 0.02, ("nodule", "size"), crop="none")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = build_network("ssmt-lite", 64)
    frames = normalise(torch.from_numpy(phantom_frames(spec, 16, seed=3)).float(), spec, 1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over what was seen
    with torch.no_grad():
        network.train()
        network(frames, ("nodule", "gland", "size"))
        network.eval()
        logits = network(frames, ("nodule",))["nodule"]
        scale = 6 / logits.std()
        head = network.nodule.head
        head.weight *= scale
        head.bias.copy_((head.bias - logits.flatten().quantile(0.7)) * scale)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, network, spec, {})
    return path


@pytest.fixture(scope="session")
def tiny_graph(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ONNX file of `tiny_checkpoint`."""
    pytest.importorskip("onnxscript")
    from engines.export import export

    path = tmp_path_factory.mktemp("graph") / "tiny.onnx"
    export(tiny_checkpoint, max_batch=4, out=path)
    return path


@pytest.fixture(scope="session")
def fp32_engine(tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engine folder of `tiny_graph`; copy it before changing it."""
    from engines.build import build_engine
    from engines.options import BuildOptions

    out = tmp_path_factory.mktemp("fp32") / "engine"
    build_engine(tiny_graph, out, BuildOptions("fp32", backend="onnxruntime"))
    return out


@pytest.fixture(scope="session")
def int8_engine(tiny_graph: Path, calib_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """INT8 engine folder of `tiny_graph`, calibrated on `calib_folder`; copy it before changing it."""
    from engines.build import build_engine
    from engines.options import BuildOptions

    out = tmp_path_factory.mktemp("int8") / "engine"
    # random weights lose more to rounding than trained ones
    options = BuildOptions("int8", "onnxruntime", calib_folder, calib_method="minmax", max_dice_drop=0.2)
    build_engine(tiny_graph, out, options)
    return out


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `ssmt-edge` with arguments in this process."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["ssmt-edge", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return call
