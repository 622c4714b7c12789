from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ssmt_edge.metrics import assd, counts, dice, hd95, iou, share_outside, size_of, summarise

Mask = NDArray[np.bool_]


def square(left: int, side: int = 10, top: int = 20, size: int = 64) -> Mask:
    mask = np.zeros((size, size), np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((64, 64), np.bool_)


def test_overlap_of_shifted_squares() -> None:
    a, b = square(20), square(25)  # 100 pixels each, 50 in common
    assert dice(a, b) == pytest.approx(0.5)
    assert iou(a, b) == pytest.approx(50 / 150)
    assert dice(a, a) == iou(a, a) == 1.0
    assert dice(a, square(40)) == iou(a, square(40)) == 0.0


def test_empty_masks() -> None:
    assert dice(EMPTY, EMPTY) == iou(EMPTY, EMPTY) == 1.0
    assert dice(EMPTY, square(3)) == iou(square(3), EMPTY) == 0.0
    assert hd95(EMPTY, EMPTY) == 0.0
    assert math.isnan(hd95(EMPTY, square(3))) and math.isnan(hd95(square(3), EMPTY))
    assert assd(EMPTY, EMPTY) == 0.0
    assert math.isnan(assd(EMPTY, square(3))) and math.isnan(assd(square(3), EMPTY))
    assert math.isnan(share_outside(EMPTY, square(3)))


def test_hd95_of_shifted_squares() -> None:
    assert hd95(square(20), square(20)) == 0.0
    assert hd95(square(20), square(27)) == pytest.approx(7.0)
    assert hd95(square(0), square(54)) == pytest.approx(54.0)


def test_hd95_ignores_a_few_stray_pixels_but_not_many() -> None:
    truth = square(10, side=30)
    stray = truth.copy()
    stray[0, 63] = True  # 1 of 117 surface pixels
    assert hd95(stray, truth) == 0.0
    many = truth | square(53, side=10, top=0)
    assert hd95(many, truth) > 10.0


def test_assd_of_squares_that_are_known() -> None:
    assert assd(square(20), square(20)) == 0.0
    assert assd(square(20, side=1, top=20), square(23, side=1, top=20)) == pytest.approx(3.0)
    frame, dot = np.ones((5, 5), np.bool_), np.zeros((5, 5), np.bool_)
    dot[2, 2] = True
    rim = (4 * 2 + 4 * math.hypot(2, 2) + 8 * math.hypot(2, 1)) / 16  # its mean distance to the dot
    assert assd(frame, dot) == pytest.approx((16 * rim + 2) / 17)


def test_counts_and_shares() -> None:
    assert counts(square(20), square(25)) == (50, 50, 50)
    assert share_outside(square(20), square(25)) == 0.5
    assert share_outside(square(20), square(15, side=30, top=10)) == 0.0


def test_figures_equal_those_of_monai() -> None:
    torch = pytest.importorskip("torch")
    monai = pytest.importorskip("monai.metrics")
    surfaces = importlib.util.find_spec("scipy")  # MONAI's surface distances need it
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:48, :64]
    for _ in range(8):  # inside the frame: what the frame cuts off has no surface of its own in MONAI
        masks = []
        for _ in range(2):
            cy, cx, ry, rx = rng.uniform((18, 24, 4, 4), (30, 40, 14, 20))
            masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
        pair = [torch.from_numpy(mask)[None, None].float() for mask in masks]
        found = {
            dice: monai.DiceMetric(include_background=True)(*pair),
            iou: monai.MeanIoU(include_background=True)(*pair),
        }
        if surfaces:
            found[hd95] = monai.HausdorffDistanceMetric(include_background=True, percentile=95)(*pair)
            found[assd] = monai.SurfaceDistanceMetric(include_background=True, symmetric=True)(*pair)
        for measure, theirs in found.items():
            assert measure(masks[0], masks[1]) == pytest.approx(float(theirs), abs=1e-4), measure.__name__


def surface(mask: Mask) -> NDArray[np.intp]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


def test_hd95_equals_all_pairs_of_surface_pixels() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    for _ in range(10):  # ellipses, some cut by the frame
        masks = []
        for _ in range(2):
            cy, cx, ry, rx = rng.uniform((0, 0, 3, 3), (48, 64, 20, 20))
            masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1)
        if not (masks[0].any() and masks[1].any()):
            continue
        pairs = np.linalg.norm(surface(masks[0])[:, None] - surface(masks[1])[None], axis=2)
        expected = max(np.percentile(pairs.min(axis=1), 95), np.percentile(pairs.min(axis=0), 95))
        assert hd95(masks[0], masks[1]) == pytest.approx(expected, abs=1e-3)
        assert hd95(masks[0], masks[1]) == hd95(masks[1], masks[0])


@pytest.mark.parametrize("measure", [dice, iou, hd95, assd, counts, share_outside])
def test_masks_that_do_not_fit(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=r"\(64, 64\) and \(32, 32\)"):
        measure(square(3), np.zeros((32, 32), np.bool_))
    with pytest.raises(ValueError, match="uint8, expected bool"):
        measure(square(3).astype(np.uint8), square(3))


def test_sizes() -> None:
    assert [size_of(f) for f in (0, 0.001, 0.0299, 0.03, 0.0999, 0.1, 1)] == [
        "empty",
        "small",
        "small",
        "medium",
        "medium",
        "large",
        "large",
    ]


def row(image: str, dice: float, iou: float, hd95: float, area: float, marked: int = 10) -> dict[str, object]:
    pixels = {"true_positive": 30, "false_positive": marked, "false_negative": 20}
    figures = {"dice": dice, "iou": iou, "hd95": hd95, "assd": hd95 / 2, "area_fraction": area, **pixels}
    return {"image": image, "case": image, **figures}


def test_summary_is_a_mean_over_images() -> None:
    rows = [row("a", 0.9, 0.82, 2.0, 0.2), row("b", 0.5, 0.33, 10.0, 0.01), row("c", 0.0, 0.0, math.nan, 0.02)]
    result = summarise(rows)
    assert result["n"] == 3
    assert result["dice"] == pytest.approx(1.4 / 3)
    assert result["iou"] == pytest.approx(1.15 / 3)
    assert result["dice_sd"] == pytest.approx(np.std([0.9, 0.5, 0.0], ddof=1))
    assert result["hd95"] == pytest.approx(6.0) and result["hd95_n"] == 2, "the undefined distance is left out"
    assert result["assd"] == pytest.approx(3.0) and result["assd_n"] == 2
    assert result["dice_interval"][0] < result["dice"] < result["dice_interval"][1]
    assert result["by_size"].keys() == {"small", "large"}
    assert result["by_size"]["small"]["n"] == 2 and result["by_size"]["small"]["dice"] == pytest.approx(0.25)
    assert [r["image"] for r in result["per_image"]] == ["a", "b", "c"]
    assert result["per_image"][2]["hd95"] is None and math.isnan(rows[2]["hd95"]), "the input stays as it was"  # type: ignore[arg-type]
    json.dumps(result, allow_nan=False)


def test_pooled_figures_are_of_all_pixels() -> None:
    pooled = summarise([row("a", 1.0, 1.0, 0.0, 0.1), row("b", 0.0, 0.0, 9.0, 0.1, marked=40)])["pooled"]
    assert (pooled["true_positive"], pooled["false_positive"], pooled["false_negative"]) == (60, 50, 40)
    assert pooled["dice"] == pytest.approx(120 / 210) and pooled["iou"] == pytest.approx(60 / 150)


def test_images_without_a_nodule_are_told_apart() -> None:
    rows = [row("a", 0.8, 0.7, 2.0, 0.2), row("b", 1.0, 1.0, 0.0, 0.0, marked=0), row("c", 0.0, 0.0, math.nan, 0.0)]
    result = summarise(rows)
    assert result["empty_truth"] == {"n": 2, "marked": 1}
    assert result["n"] == 3 and result["dice"] == pytest.approx(0.6)
    assert result["with_nodule"]["n"] == 1 and result["with_nodule"]["dice"] == pytest.approx(0.8)


def test_summary_of_one_image_and_of_none() -> None:
    result = summarise([row("a", 1.0, 1.0, math.nan, 0.0)])
    assert result["dice_sd"] == 0.0 and result["hd95"] is None and result["by_size"].keys() == {"empty"}
    assert result["dice_interval"] is None and result["with_nodule"] is None
    with pytest.raises(ValueError, match="no images"):
        summarise([])
