"""Smoothing over time on images and probabilities whose motion and noise are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import BrightEngine, write_folder
from numpy.typing import NDArray

from benchmarks.cines import cine
from benchmarks.smoothing import change, events, labelled, lag, matches, report
from ssmt_edge.errors import DataError
from ssmt_edge.metrics import dice
from ssmt_edge.smoothing import SAME_SCENE, WEIGHT, Smoother

SIZE = 128
GRID = np.mgrid[:SIZE, :SIZE].astype(np.float32)
LEVEL = 128
HALF = 0.5  # the threshold


def texture(seed: int = 0) -> NDArray[np.float32]:
    """Speckle-like gray values, larger than the frame."""
    grains = np.random.default_rng(seed).standard_normal((2 * SIZE, 2 * SIZE)).astype(np.float32)
    return np.asarray(110 + 270 * cv2.GaussianBlur(grains, (0, 0), 3), np.float32)


def scene(dx: float, dy: float = 0.0, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """An image and a disc's mask, both moved by so many pixels."""
    x, y = GRID[1] - np.float32(dx), GRID[0] - np.float32(dy)
    image = cv2.remap(texture(seed), x + SIZE / 2, y + SIZE / 2, cv2.INTER_LINEAR)
    inside = (x - 64) ** 2 + (y - 64) ** 2 <= 22**2
    image = np.where(inside, 0.5 * image, image)
    return np.clip(image, 0, 255).astype(np.uint8), inside


def soft(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(mask.astype(np.uint8) * 230 + 12, (0, 0), 2), np.uint8)


def test_the_first_frame_is_returned_as_it_is_and_so_is_that_after_a_reset() -> None:
    smoother = Smoother(SIZE)
    image, mask = scene(0)
    assert np.array_equal(smoother(soft(mask), image, HALF), soft(mask))
    assert not np.array_equal(smoother(soft(~mask), image, HALF), soft(~mask))
    smoother.reset()
    assert np.array_equal(smoother(soft(~mask), image, HALF), soft(~mask))


def test_what_agrees_stays_as_it_is() -> None:
    smoother = Smoother(SIZE)
    image, mask = scene(0)
    for _ in range(5):
        smoothed = smoother(soft(mask), image, HALF)
    assert abs(smoothed.astype(int) - soft(mask)).max() <= 2


def test_probabilities_mix_as_log_odds_with_the_weight_and_a_gap_weakens_the_former_frame() -> None:
    image, _ = scene(0)
    sure, doubt = np.full((SIZE, SIZE), 204, np.uint8), np.full((SIZE, SIZE), 51, np.uint8)  # 0.8 and 0.2
    for gap in (0, 1, 4):
        smoother = Smoother(SIZE)
        smoother(sure, image, HALF)
        weight = WEIGHT ** (gap + 1)
        expected = 255 / (1 + np.exp(-(2 * weight - 1) * np.log(4)))
        assert abs(smoother(doubt, image, HALF, gap).astype(float) - expected).max() <= 1.5


@pytest.mark.parametrize("threshold", [0.3, 0.65])
def test_sureness_of_one_frame_does_not_outvote_the_frames_beside_it(threshold: float) -> None:
    """Two frames that say nodule, one that is sure of background, and again: the mask stays with the majority."""
    image, _ = scene(0)
    level = round(255 * threshold)
    firm = math.log(threshold / (1 - threshold)) + 2.0
    yes = np.full((SIZE, SIZE), math.ceil(255 / (1 + math.exp(-firm))), np.uint8)
    no = np.zeros((SIZE, SIZE), np.uint8)
    smoother = Smoother(SIZE)
    shown = [int(smoother(p, image, threshold)[64, 64]) for p in (yes, yes, no, yes, yes, no, yes)]
    assert shown[0] == shown[1] and min(shown) >= level
    for p in (no, no, no, no):
        after = int(smoother(p, image, threshold)[64, 64])
    assert after < level


@pytest.mark.parametrize("speed", [0.0, 1.5, 5.0])
def test_a_mask_that_drops_out_for_a_frame_is_held_where_the_tissue_is_now(speed: float) -> None:
    smoother = Smoother(SIZE)
    for t in range(5):
        image, mask = scene(speed * (t - 2))
        smoother(soft(mask), image, HALF)
    image, mask = scene(speed * 3)
    gone = np.full((SIZE, SIZE), 100, np.uint8)
    assert dice(smoother(gone, image, HALF) >= LEVEL, mask) > 0.93


def test_a_moving_mask_has_no_lag_where_plain_averaging_has() -> None:
    smoother, average = Smoother(SIZE), None
    smoothed, averaged, truth = [], [], []
    for t in range(24):
        image, mask = scene(30 * np.sin(t / 4), 8 * np.cos(t / 3))
        now = soft(mask).astype(np.float32)
        average = now if average is None else WEIGHT * average + (1 - WEIGHT) * now
        smoothed.append(smoother(soft(mask), image, HALF) >= LEVEL)
        averaged.append(average >= LEVEL)
        truth.append(mask)
    assert lag(matches(averaged, truth)) > 0.8  # so the measure sees one
    assert abs(lag(matches(smoothed, truth))) < 0.1
    assert min(dice(m, t) for m, t in zip(smoothed, truth, strict=True)) > 0.95


def test_nothing_is_carried_over_a_cut() -> None:
    smoother = Smoother(SIZE)
    image, mask = scene(0)
    for _ in range(5):
        smoother(soft(mask), image, HALF)
    other, _ = scene(0, seed=1)
    other = other[:, ::-1].copy()
    assert np.corrcoef(other.ravel(), image.ravel())[0, 1] < SAME_SCENE
    nothing = np.zeros((SIZE, SIZE), np.uint8)
    assert np.array_equal(smoother(nothing, other, HALF), nothing)


def test_tissue_that_turns_dark_by_itself_is_not_told_from_memory() -> None:
    """A nodule that comes into the plane: a new mask counts at once there, and slowly where nothing changed."""
    before = np.clip(texture()[:SIZE, :SIZE], 0, 255).astype(np.uint8)
    inside = (GRID[1] - 64) ** 2 + (GRID[0] - 64) ** 2 <= 22**2
    after = np.where(inside, before // 2, before).astype(np.uint8)
    shown = []
    for image in (before, after):
        smoother = Smoother(SIZE)
        for _ in range(4):
            smoother(soft(inside & False), before, HALF)
        shown.append(dice(smoother(soft(inside), image, HALF) >= LEVEL, inside))
    assert shown[0] == 0.0 and shown[1] > 0.9


def flickering(count: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]]:
    """Phantoms that breathe, with the truth as a probability map under noise of its own in each frame."""
    rng = np.random.default_rng(5)
    for image, mask in cine(2, "breath", count, (SIZE, SIZE)):
        noise = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), 4) * 10
        odds = cv2.GaussianBlur(np.where(mask, 2.0, -2.0).astype(np.float32), (0, 0), 2) + noise
        yield image, (255 / (1 + np.exp(-odds))).astype(np.uint8), mask


def test_flicker_on_moving_phantoms_halves_and_dice_does_not_fall() -> None:
    smoother = Smoother(SIZE)
    plain, smooth, truth = [], [], []
    for image, probability, mask in flickering(30):
        plain.append(probability >= LEVEL)
        smooth.append(smoother(probability, image, HALF) >= LEVEL)
        truth.append(mask)
    own = change(truth).mean()
    assert change(smooth).mean() - own < 0.5 * (change(plain).mean() - own)
    assert events(smooth, 4) <= 0.5 * events(plain, 4)
    assert np.mean([dice(m, t) for m, t in zip(smooth, truth, strict=True)]) >= np.mean(
        [dice(m, t) for m, t in zip(plain, truth, strict=True)]
    )


def test_black_and_uniform_frames_do_no_harm() -> None:
    smoother = Smoother(64)
    for value in (0, 0, 90, 90, 255):
        out = smoother(np.full((64, 64), 77, np.uint8), np.full((64, 64), value, np.uint8), HALF)
        assert out.dtype == np.uint8 and abs(out.astype(int) - 77).max() <= 1


def test_other_shapes_and_dtypes_are_refused() -> None:
    smoother = Smoother(64)
    good = np.zeros((64, 64), np.uint8)
    with pytest.raises(ValueError, match="inputs is uint8"):
        smoother(good, np.zeros((64, 32), np.uint8), HALF)
    with pytest.raises(ValueError, match="probability is float32"):
        smoother(good.astype(np.float32), good, HALF)
    with pytest.raises(ValueError, match="threshold"):
        smoother(good, good, 1.0)
    with pytest.raises(ValueError, match="size"):
        Smoother(16)


def test_the_measures_on_masks_whose_change_is_known() -> None:
    one, other = np.zeros((2, 40, 40), np.bool_)
    one[5:15, 5:15] = True
    other[5:15, 5:15] = True
    other[25:30, 25:30] = True
    assert change([one, one, other]).tolist() == [0.0, 1 - 200 / 225]
    assert events([one, other, other, one], smallest=25) == 2
    assert events([one, other, other, one], smallest=26) == 0


def test_moving_phantoms_are_the_same_each_time_and_follow_their_truth() -> None:
    first, again = (list(cine(3, "pan", 4, (96, 96))) for _ in range(2))
    assert all(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    still = list(cine(3, "still", 4, (96, 96)))
    assert change([mask for _, mask in still]).max() < 0.1
    appear = [mask.any() for _, mask in cine(3, "appear", 40, (96, 96))]
    assert not appear[0] and appear[20] and not appear[39]


def test_the_benchmark_runs_an_engine_with_and_without_smoothing(tmp_path: Path) -> None:
    frames, masks = write_folder(tmp_path / "frames", 16, (64, 64)), tmp_path / "masks"
    masks.mkdir()
    for i in range(16):
        image = cv2.imread(str(frames / f"{i}.png"), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        cv2.imwrite(str(masks / f"{i}.png"), np.where(image > 127, 255, 0).astype(np.uint8))
    made = labelled(BrightEngine(), str(frames), masks)
    plain, smooth = (line.split(" | ") for line in report([made]).splitlines()[2:4])
    assert plain[2] == "no" and float(plain[3]) == 1.0 and float(plain[6]) == 0.0 and float(plain[7]) == 0.0
    assert smooth[2] == "yes" and float(smooth[3]) > 0.9 and len(made.ms) == 16
    (masks / "7.png").unlink()
    with pytest.raises(DataError, match="15 masks, expected 16"):
        labelled(BrightEngine(), str(frames), masks)
