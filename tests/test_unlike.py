"""The score of frames that are unlike the training set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import SPEC, BrightEngine, disc

from ssmt_edge.dataset import load_samples, load_unlabelled, read_gray
from ssmt_edge.geometry import Gray, input_roi, to_input
from ssmt_edge.segment import Segmenter
from ssmt_edge.spec import FIGURES, ModelSpec
from ssmt_edge.unlike import describe, learn_usual, unlike

NATURAL = ModelSpec("none", 224, 0.0, 1.0, ("nodule",))


def test_figures_say_what_they_should() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (128, 96), dtype=np.uint8)
    figures = describe(noise)
    assert figures.shape == (FIGURES,)
    np.testing.assert_allclose(describe(noise[:, ::-1].copy()), figures, atol=1e-6)
    depth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[:, None], 64, axis=1)
    figures = describe(depth)
    assert (np.diff(figures[:5]) > 0).all() and (np.diff(figures[5:13]) > 0).all()
    spectrum = figures[13:].reshape(6, 3)  # bands x across, oblique, along the depth
    assert (spectrum[:, 2] > spectrum[:, 0]).all() and spectrum[0].argmax() == 2
    np.testing.assert_allclose(describe(depth.T.copy())[13:].reshape(6, 3)[:, 0], spectrum[:, 2], atol=0.5)


def test_other_frames_score_above_those_learnt(phantom_set: Path, tmp_path: Path) -> None:
    spec = learn_usual(NATURAL, load_samples(phantom_set, "train"))
    assert ModelSpec.from_json(spec.to_json()) == spec
    learnt = [_score(read_gray(s.image), spec) for s in load_samples(phantom_set, "train")]
    assert np.quantile(learnt, 0.95) == pytest.approx(1, abs=0.01)
    held = np.median([_score(read_gray(s.image), spec) for s in load_samples(phantom_set, "test")])
    strange = [np.zeros((96, 128), np.uint8), np.random.default_rng(0).integers(0, 256, (96, 128), dtype=np.uint8)]
    strange.append(cv2.rotate(read_gray(load_samples(phantom_set, "test")[0].image), cv2.ROTATE_180))
    assert all(_score(frame, spec) > max(1.0, 1.2 * held) for frame in strange)
    assert unlike(np.zeros((224, 224), np.uint8), NATURAL) is None


def _score(gray: Gray, spec: ModelSpec) -> float:
    score = unlike(to_input(gray, input_roi([gray], spec), spec), spec)
    assert score is not None
    return score


def test_the_runtime_reports_it(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), disc())
    spec = learn_usual(SPEC, load_unlabelled([tmp_path]))
    same, other = (Segmenter(BrightEngine(spec))(frame) for frame in (disc(), 255 - disc()))
    assert same.unlike == pytest.approx(0, abs=0.01) and other.unlike is not None and other.unlike > 1
    assert other.record()["unlike"] == round(other.unlike, 3)
    assert Segmenter(BrightEngine())(disc()).record()["unlike"] is None


def test_real_frames_of_other_organs(shared_data: Path) -> None:
    samples = load_samples(shared_data / "ddti")
    spec = learn_usual(NATURAL, [s for s in samples if s.split == "train"][::4])
    usual = [_score(read_gray(s.image), spec) for s in samples if s.split == "val"]
    fetal = load_unlabelled([shared_data / "unlabelled" / "hc18"])[::40]
    assert np.mean([_score(read_gray(s.image), spec) > np.quantile(usual, 0.95) for s in fetal]) > 0.9
