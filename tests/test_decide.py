"""Temperature and threshold, chosen on validation data, and what every engine makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from engines.parity import phantom_frames  # noqa: E402
from ssmt_edge.dataset import load_samples  # noqa: E402
from ssmt_edge.errors import DataError  # noqa: E402
from ssmt_edge.evaluate import choose_threshold, evaluate  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402
from trainer.checkpoint import Checkpoint, load_checkpoint, save_checkpoint  # noqa: E402
from trainer.decide import HIGHEST, LOWEST, decide, fit_temperature, validation_logits  # noqa: E402
from trainer.deployed import Deployed, TorchEngine  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-2, 4, 200_000)
    truth = rng.random(200_000) < 1 / (1 + np.exp(-logits / temperature))
    found = fit_temperature(torch.from_numpy(logits).float(), torch.from_numpy(truth).float())
    assert found == pytest.approx(temperature, rel=0.03)


def test_masks_without_a_temperature_of_their_own() -> None:
    logits = torch.tensor([-3.0, 3.0])
    assert fit_temperature(logits, (logits > 0).float()) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(logits, (logits < 0).float()) == pytest.approx(HIGHEST, rel=0.01)


def test_probabilities_are_the_sigmoid_of_scaled_logits(tiny: Checkpoint) -> None:
    frames = torch.from_numpy(phantom_frames(tiny.spec, 4))
    with torch.inference_mode():
        plain = Deployed(tiny.network, tiny.spec, ("nodule", "size"))(frames)
        scaled = Deployed(tiny.network, replace(tiny.spec, temperature=2.0), ("nodule", "size"))(frames)
        raw: Any = tiny.network((frames.float() - tiny.spec.gray_mean) * tiny.spec.gray_scale, ("nodule",))["nodule"]
    expected = torch.sigmoid(raw / 2) * 255
    assert (scaled[0].float() - expected).abs().max() <= 0.51
    assert torch.equal(scaled[1], plain[1]) and not torch.equal(scaled[0], plain[0])


def test_decide_calibrates_then_chooses(tiny: Checkpoint, phantom_set: Path) -> None:
    samples = load_samples(phantom_set, "all")
    logits, truth = validation_logits(tiny.network, tiny.spec, samples)
    spec = decide(tiny.network, tiny.spec, samples)
    assert spec.temperature == fit_temperature(logits, truth)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss(logits / spec.temperature, truth) < loss(logits, truth)
    engine = TorchEngine(Deployed(tiny.network, spec, ("nodule",)))
    assert spec.threshold == choose_threshold(engine, samples)
    assert replace(spec, temperature=1.0, threshold=tiny.spec.threshold) == tiny.spec
    after = evaluate(engine, samples)["calibration"]
    before = evaluate(TorchEngine(Deployed(tiny.network, tiny.spec, ("nodule",))), samples)["calibration"]
    assert after["temperature"] == spec.temperature and before["ece_at_temperature_1"] == before["ece"]
    assert after["ece_at_temperature_1"] == pytest.approx(before["ece"], abs=0.02), "told from 8 bits"


def test_padding_is_left_out_of_the_fit(tiny: Checkpoint, phantom_set: Path) -> None:
    samples = load_samples(phantom_set, "test")  # 96 x 128: letterboxed, a quarter of the input is padding
    stretched, boxed = (
        validation_logits(tiny.network, replace(tiny.spec, resize=how), samples)  # type: ignore[arg-type]
        for how in ("stretch", "letterbox")
    )
    assert len(stretched[0]) == len(samples) * 32 * 32
    assert len(boxed[0]) == len(boxed[1]) == pytest.approx(0.75 * len(stretched[0]), rel=0.05)


def test_validation_without_masks(tiny: Checkpoint, phantom_set: Path) -> None:
    with pytest.raises(DataError, match="no validation images"):
        decide(tiny.network, tiny.spec, [])
    bare = [replace(s, nodule=None) for s in load_samples(phantom_set, "test")]
    with pytest.raises(DataError, match="has no nodule mask"):
        decide(tiny.network, tiny.spec, bare)


@pytest.mark.slow
def test_the_exported_graph_has_the_temperature(tiny: Checkpoint, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from engines.export import export
    from engines.onnxruntime_cpu import open_graph

    spec: ModelSpec = replace(tiny.spec, temperature=1.9)
    save_checkpoint(tmp_path / "warm.safetensors", tiny.network, spec, {})
    graph = export(tmp_path / "warm.safetensors", max_batch=2)  # raises where a step disagrees with PyTorch
    assert graph.spec == spec
    frames = phantom_frames(spec, 2, seed=11)
    with open_graph(graph) as engine:
        found = engine.infer(frames)["nodule"].astype(int)
    for temperature, most in ((1.9, 2), (1.0, None)):
        other = TorchEngine(Deployed(tiny.network, replace(spec, temperature=temperature), ("nodule",))).infer(frames)
        difference = np.abs(found - other["nodule"]).max()
        assert difference <= most if most is not None else difference > 10
