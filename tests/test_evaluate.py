"""Dice against truth: of engines that are right and wrong by construction, and on the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import Cli, error_line
from fakes import SPEC, BrightEngine, disc

from ssmt_edge.dataset import Sample, load_samples
from ssmt_edge.errors import DataError
from ssmt_edge.evaluate import choose_threshold, evaluate, evaluate_gland, threshold_level

Make = Callable[..., Sample]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes an image and its mask, uint8 [H, W]."""

    def sample(name: str, image: Any, mask: Any) -> Sample:
        paths = tmp_path / f"{name}.png", tmp_path / f"{name}-mask.png"
        for path, pixels in zip(paths, (image, mask), strict=True):
            cv2.imwrite(str(path), pixels)
        return Sample(paths[0], paths[1], None, name)

    return sample


def square(mask_at: int = 16, side: int = 32, value: int = 255) -> Any:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16 : 16 + side, mask_at : mask_at + side] = value
    return pixels


def test_figures_of_masks_that_are_known(make: Make) -> None:
    samples = [
        make("same", square(), square()),
        make("shifted", square(0), square()),  # half of each square overlaps
        make("missed", square(value=20), square()),
    ]
    scores = evaluate(BrightEngine(), samples)
    rows = {row["image"]: row for row in scores["per_image"]}
    assert rows["same"]["dice"] == rows["same"]["iou"] == 1 and rows["same"]["hd95"] == 0
    assert rows["shifted"]["dice"] == pytest.approx(0.5) and rows["shifted"]["iou"] == pytest.approx(1 / 3)
    assert rows["shifted"]["hd95"] == pytest.approx(16)
    assert rows["missed"]["dice"] == rows["missed"]["iou"] == 0
    assert scores["n"] == 3
    assert scores["dice"] == pytest.approx(0.5) and scores["iou"] == pytest.approx((1 + 1 / 3) / 3)
    assert rows["same"]["area_fraction"] == 0.25


def test_empty_masks_count(make: Make) -> None:
    empty = np.zeros((64, 64), np.uint8)
    scores = evaluate(BrightEngine(), [make("none", empty, empty), make("invented", square(), empty)])
    assert [row["dice"] for row in scores["per_image"]] == [1, 0]
    assert scores["n"] == 2 and scores["dice"] == 0.5
    assert scores["empty_truth"] == {"n": 2, "marked": 1} and scores["with_nodule"] is None


def test_masks_are_compared_in_the_frames_own_pixels(make: Make) -> None:
    image = disc((240, 400), (250, 100), 60)
    (row,) = evaluate(BrightEngine(), [make("wide", image, (image > 127).astype(np.uint8) * 255)])["per_image"]
    # through 64 x 64 and back: the rim blurs, a wrong scale or an offset would cost far more
    assert 0.95 < row["dice"] <= 1


def test_the_threshold_of_the_spec_decides(make: Make) -> None:
    sample = make("grey", square(value=128), square())
    dice = {t: evaluate(BrightEngine(replace(SPEC, threshold=t)), [sample])["dice"] for t in (0.4, 0.5, 128 / 255, 0.6)}
    assert dice == {0.4: 1, 0.5: 1, 128 / 255: 1, 0.6: 0}
    assert threshold_level(0.5) == 128 and threshold_level(0.001) == 1  # probability 0 is never foreground


def test_the_best_threshold_is_chosen_and_the_middle_one_of_equals(make: Make) -> None:
    image = square(value=200)
    image[50:, :] = 160  # less probable, and no nodule
    assert choose_threshold(BrightEngine(), [make("a", image, square())]) == 0.65
    assert choose_threshold(BrightEngine(), [make("b", square(), square())]) == 0.5


def test_a_sample_without_a_nodule_mask(make: Make) -> None:
    sample = replace(make("a", square(), square()), nodule=None)
    with pytest.raises(DataError, match="has no nodule mask"):
        evaluate(BrightEngine(), [sample])


def test_size_errors_are_of_the_engines_estimate_and_of_its_mask(make: Make) -> None:
    # the fake engine estimates the share of pixels above 127, its mask has those of at least 179
    image = square(side=32)
    image[:16] = 150
    scores = evaluate(BrightEngine(replace(SPEC, threshold=0.7)), [make("a", image, square(side=16))])
    assert scores["per_image"][0]["size_truth"] == 256 / 4096
    assert scores["size"]["mae_output"] == pytest.approx((2048 - 256) / 4096)
    assert scores["size"]["mae_mask"] == pytest.approx((1024 - 256) / 4096)


def test_calibration_error_of_probabilities_that_are_known(make: Make) -> None:
    image = np.full((64, 64), 51, np.uint8)  # probability 0.2
    image[:32] = 204  # 0.8
    mask = np.zeros((64, 64), np.uint8)
    mask[:32, :32] = 255  # half of the upper pixels, none of the lower
    calibration = evaluate(BrightEngine(), [make("a", image, mask)])["calibration"]
    assert calibration["ece"] == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)
    assert [(b["pixels"], round(b["mean_probability"], 3), b["share_nodule"]) for b in calibration["bins"]] == [
        (2048, 0.2, 0.0),
        (2048, 0.8, 0.5),
    ]
    warm = evaluate(BrightEngine(replace(SPEC, temperature=2.0)), [make("a", image, mask)])["calibration"]
    cold = 1 / (1 + (0.2 / 0.8) ** 2)  # what the probability 0.8 was before its logit was halved
    assert warm["ece"] == calibration["ece"]
    assert warm["ece_at_temperature_1"] == pytest.approx(0.5 * (cold - 0.5) + 0.5 * (1 - cold), abs=1e-6)


class GlandEngine(BrightEngine):
    """Takes what is brighter than 40 for the gland as well."""

    def infer(self, frames: Any) -> dict[str, Any]:
        return {**super().infer(frames), "gland": np.where(frames > 40, 255, 0).astype(np.uint8)}


def test_gland_and_what_lies_outside_it(make: Make, tmp_path: Path) -> None:
    image = np.zeros((64, 64), np.uint8)
    image[:, 16:48], image[:, 40:48] = 60, 200  # gland of 32 columns, nodule of 8
    truth, gland = np.zeros_like(image), np.zeros_like(image)
    truth[:, 40:44] = gland[:, 8:40] = 255  # the gland's mask leaves the nodule out
    cv2.imwrite(str(tmp_path / "gland.png"), gland)
    sample = replace(make("a", image, truth), gland=tmp_path / "gland.png")
    engine = GlandEngine(replace(SPEC, outputs=("nodule", "gland")))
    found = evaluate(engine, [sample])["gland"]
    assert found["n"] == 1 and found["dice"] == pytest.approx(2 * 24 / 64)
    assert found["outside"] == pytest.approx(4 / 32) and found["nodule_outside"] == pytest.approx(0.5)
    alone = evaluate_gland(engine, [replace(sample, nodule=None)])
    assert alone["dice"] == found["dice"] and alone["nodule_outside"] == 1.0
    assert evaluate(BrightEngine(), [sample])["gland"] is None
    with pytest.raises(DataError, match="no gland from this fake"):
        evaluate_gland(BrightEngine(), [sample])


def test_engine_and_checkpoint_score_alike(
    cli: Cli, fp32_engine: Path, tiny_checkpoint: Path, phantom_set: Path, tmp_path: Path
) -> None:
    found = []
    for subject in (fp32_engine, tiny_checkpoint):
        out = tmp_path / f"{subject.name}.json"
        answer = cli("evaluate", subject, "--data", phantom_set, "--split", "all", "--out", out, "--json")
        assert answer.code == 0, answer.err
        found.append(json.loads(answer.out))
        assert json.loads(out.read_text()) == found[-1]
    engine, checkpoint = found
    assert {"dice", "iou", "hd95", "n", "per_image", "by_size"} <= set(engine)
    assert engine["n"] == len(engine["per_image"]) == len(load_samples(phantom_set)) == 20
    assert engine["threshold"] == 0.5
    for a, b in zip(engine["per_image"], checkpoint["per_image"], strict=True):
        assert a["image"] == b["image"] and math.isclose(a["dice"], b["dice"], abs_tol=0.02)


def test_the_table_for_people(cli: Cli, fp32_engine: Path, phantom_set: Path) -> None:
    answer = cli("evaluate", fp32_engine, "--data", phantom_set, "--split", "test")
    assert answer.code == 0, answer.err
    assert all(word in answer.out for word in ("Dice", "IoU", "HD95", "all"))


def test_files_pictures_and_a_paired_comparison(
    cli: Cli, tiny_checkpoint: Path, phantom_set: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    ask = ("evaluate", tiny_checkpoint, "--data", phantom_set, "--split", "val")
    first = cli(*ask, "--out", tmp_path / "a.json", "--csv", tmp_path / "a.csv", "--pictures", tmp_path / "pictures")
    assert first.code == 0, first.err
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert len(rows) == 3 and rows[0].startswith("image,case,dice,iou,hd95,assd,")
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {"worst.png", "reliability.png"}
    again = cli(*ask, "--against", tmp_path / "a.json", "--json")
    assert again.code == 0, again.err
    against = json.loads(again.out)["against"]["dice"]
    assert against["difference"] == 0 and against["p"] == 1 and against["n"] == 2
    shown = cli(*ask, "--against", tmp_path / "a.json")
    assert shown.code == 0 and "sign flips" in shown.out and "calibration error" in shown.out
    other = cli("evaluate", tiny_checkpoint, "--data", phantom_set, "--split", "test", "--against", tmp_path / "a.json")
    assert "different images: 4 here and 2 there" in error_line(other)
    for text in ("no JSON", "[1, 2]"):
        (tmp_path / "b.json").write_text(text)
        assert "b.json is not a result" in error_line(cli(*ask, "--against", tmp_path / "b.json"))


def test_gland_masks_alone_need_a_network_for_the_gland(cli: Cli, tiny_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("image", "mask"):
        (tmp_path / f"thyroid-{name}").mkdir()
        cv2.imwrite(str(tmp_path / f"thyroid-{name}" / "0001.png"), square())
    line = error_line(cli("evaluate", tiny_checkpoint, "--data", tmp_path, "--split", "all"))
    assert "no gland from this ssmt-lite" in line
