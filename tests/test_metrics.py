from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ssmt_edge.metrics import dice, hd95, iou, size_of, summarise

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


@pytest.mark.parametrize("measure", [dice, iou, hd95])
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


def row(image: str, dice: float, iou: float, hd95: float, area: float) -> dict[str, object]:
    return {"image": image, "dice": dice, "iou": iou, "hd95": hd95, "area_fraction": area}


def test_summary_is_a_mean_over_images() -> None:
    rows = [row("a", 0.9, 0.82, 2.0, 0.2), row("b", 0.5, 0.33, 10.0, 0.01), row("c", 0.0, 0.0, math.nan, 0.02)]
    result = summarise(rows)
    assert result["n"] == 3
    assert result["dice"] == pytest.approx(1.4 / 3)
    assert result["iou"] == pytest.approx(1.15 / 3)
    assert result["dice_sd"] == pytest.approx(np.std([0.9, 0.5, 0.0], ddof=1))
    assert result["hd95"] == pytest.approx(6.0) and result["hd95_n"] == 2, "the undefined distance is left out"
    assert result["by_size"].keys() == {"small", "large"}
    assert result["by_size"]["small"]["n"] == 2 and result["by_size"]["small"]["dice"] == pytest.approx(0.25)
    assert [r["image"] for r in result["per_image"]] == ["a", "b", "c"]
    assert result["per_image"][2]["hd95"] is None and math.isnan(rows[2]["hd95"]), "the input stays as it was"  # type: ignore[arg-type]
    json.dumps(result, allow_nan=False)


def test_summary_of_one_image_and_of_none() -> None:
    result = summarise([row("a", 1.0, 1.0, math.nan, 0.0)])
    assert result["dice_sd"] == 0.0 and result["hd95"] is None and result["by_size"].keys() == {"empty"}
    with pytest.raises(ValueError, match="no images"):
        summarise([])
