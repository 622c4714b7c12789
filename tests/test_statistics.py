"""Intervals and tests with whole cases as units, against values worked out by other means."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from ssmt_edge.errors import DataError
from ssmt_edge.statistics import compare, interval, sign_flip_test


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    cases = [str(i // 3) for i in range(120)]
    hits = 0
    for _ in range(200):
        values = np.repeat(rng.normal(0.7, 0.1, 40), 3) + rng.normal(0, 0.02, 120)
        ends = interval(list(values), cases)
        assert ends is not None
        hits += ends[0] <= 0.7 <= ends[1]
    assert 180 <= hits <= 198  # 95 % of 200, a little less with 40 cases


def test_images_of_one_case_are_not_independent() -> None:
    rng = np.random.default_rng(2)
    values = list(np.repeat(rng.normal(0.7, 0.1, 10), 4))
    by_case = interval(values, [str(i // 4) for i in range(40)])
    by_image = interval(values, [str(i) for i in range(40)])
    assert by_case is not None and by_image is not None
    assert (by_case[1] - by_case[0]) / (by_image[1] - by_image[0]) == pytest.approx(2, rel=0.1)
    assert by_case == interval(values, [str(i // 4) for i in range(40)]), "the seed is fixed"
    assert interval([0.5, 0.7], ["a", "a"]) is None


def test_few_cases_are_tested_exactly() -> None:
    differences, cases = [0.3, 0.1, -0.2, 0.4, 0.2], ["a", "a", "b", "c", "d"]
    sums = (0.4, -0.2, 0.4, 0.2)  # by case
    extreme = sum(
        abs(sum(s * d for s, d in zip(signs, sums, strict=True))) >= 0.8 - 1e-9 for signs in product((-1, 1), repeat=4)
    )
    assert sign_flip_test(differences, cases) == extreme / 16
    assert sign_flip_test([0.0, 0.0], ["a", "b"]) == 1.0


def test_many_cases_are_tested_by_chance_and_alike() -> None:
    rng = np.random.default_rng(3)
    values = list(rng.normal(0.02, 0.06, 40))
    p = sign_flip_test(values, [str(i) for i in range(40)])
    t = np.mean(values) / (np.std(values, ddof=1) / np.sqrt(40))
    normal = 2 * (1 - 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (abs(t) + 0.044715 * abs(t) ** 3))))  # of a z test
    assert p == pytest.approx(normal, abs=0.02)
    assert sign_flip_test([0.1] * 30, [str(i) for i in range(30)]) < 1e-3


def result() -> dict[str, Any]:
    rows = [
        {"case": str(i // 2), "image": str(i), "area_fraction": 0.1, "dice": 0.5 + i / 100, "iou": 0.4, "hd95": 9.0}
        for i in range(8)
    ]
    rows[3]["hd95"] = None
    return {"per_image": rows}


def test_comparison_pairs_images_by_name() -> None:
    ours, theirs = result(), result()
    for row in ours["per_image"]:
        row["dice"] += 0.1
    theirs["per_image"].reverse()
    found = compare(ours, theirs)
    assert found["dice"]["difference"] == pytest.approx(0.1)
    assert found["dice"]["interval"] == pytest.approx((0.1, 0.1))
    assert found["dice"]["n"] == 8 and found["dice"]["cases"] == 4
    assert found["dice"]["p"] == 2 / 16, "only all cases alike reach it"
    assert found["hd95"]["n"] == 7 and found["hd95"]["p"] == 1.0
    assert found["assd"] is None


def test_results_of_other_images_are_refused() -> None:
    ours, fewer, other = result(), result(), result()
    del fewer["per_image"][5]
    with pytest.raises(DataError, match=r"8 here and 7 there, e\.g\. '5' of case '2'"):
        compare(ours, fewer)
    other["per_image"][2]["area_fraction"] = 0.2
    with pytest.raises(DataError, match="'2' has another true mask"):
        compare(ours, other)
    other = result()
    for value in ("0.5", math.nan):
        other["per_image"][2]["dice"] = value
        with pytest.raises(DataError, match="not one that evaluate wrote"):
            compare(ours, other)
    for wrong in ({}, {"per_image": [1]}, {"per_image": [{"image": "a"}]}, {"per_image": None}):
        with pytest.raises(DataError, match="not one that evaluate wrote"):
            compare(ours, wrong)
