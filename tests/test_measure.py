"""Area and diameters against shapes whose size is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from ssmt_edge.measure import Line, measure, without_specks

GRID = np.mgrid[:240, :320].astype(np.float64)  # y, x
CENTRE = (160.3, 119.6)


def ellipse(a: float, b: float, degrees: float, spacing: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.bool_]:
    """Semi-axes in mm, turned in mm space, sampled at pixel centres."""
    u, v = turned(degrees, spacing)
    return (u / a) ** 2 + (v / b) ** 2 <= 1


def rectangle(w: float, h: float, degrees: float, spacing: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.bool_]:
    u, v = turned(degrees, spacing)
    return (abs(u) <= w / 2) & (abs(v) <= h / 2)


def turned(degrees: float, spacing: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = (GRID[1] - CENTRE[0]) * spacing[0], (GRID[0] - CENTRE[1]) * spacing[1]
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return x * c + y * s, y * c - x * s


def one(mask: NDArray[np.bool_], spacing: tuple[float, float] | None = None):  # type: ignore[no-untyped-def]
    (nodule,) = measure(mask, np.where(mask, 204, 10).astype(np.uint8), spacing)
    return nodule


def angle(line: Line, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    (x0, y0), (x1, y1) = line
    return math.degrees(math.atan2((y1 - y0) * spacing[1], (x1 - x0) * spacing[0])) % 180


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133])
def test_ellipse_in_pixels(degrees: float) -> None:
    nodule = one(ellipse(60, 25, degrees))
    assert nodule.area_px == pytest.approx(math.pi * 60 * 25, rel=0.005)
    assert nodule.long_px == pytest.approx(120, abs=1.0)
    assert nodule.short_px == pytest.approx(50, abs=1.0)
    assert (nodule.area_mm2, nodule.long_mm, nodule.short_mm) == (None, None, None)
    assert nodule.probability == pytest.approx(0.8)


@pytest.mark.parametrize("degrees", [0, 30, 90, 120])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.08, 0.16), (0.2, 0.07)])
def test_ellipse_in_mm(degrees: float, spacing: tuple[float, float]) -> None:
    nodule = one(ellipse(7.0, 3.0, degrees, spacing), spacing)
    pixel = max(spacing)
    assert nodule.area_mm2 == pytest.approx(math.pi * 21, rel=0.01)
    assert nodule.long_mm == pytest.approx(14.0, abs=pixel)
    assert nodule.short_mm == pytest.approx(6.0, abs=pixel)
    # perpendicular in mm, although not in pixels
    assert abs(angle(nodule.long_line, spacing) - angle(nodule.short_line, spacing)) == pytest.approx(90, abs=0.01)
    off = abs(angle(nodule.long_line, spacing) - degrees)
    assert min(off, 180 - off) < 4


def test_anisotropic_pixels_change_which_axis_is_long() -> None:
    mask = ellipse(40, 30, 0)
    assert abs(angle(one(mask).long_line) - 90) > 80
    assert abs(angle(one(mask, (0.1, 0.2)).long_line) - 90) < 20
    assert one(mask, (0.1, 0.2)).long_mm == pytest.approx(60 * 0.2, abs=0.2)


@pytest.mark.parametrize("degrees", [0, 20, 45, 90])
def test_rectangle(degrees: float) -> None:
    nodule = one(rectangle(80, 40, degrees))
    diagonal = math.hypot(80, 40)
    assert nodule.long_px == pytest.approx(diagonal, abs=2.0)
    # the longest line perpendicular to the diagonal that lies within the rectangle
    assert nodule.short_px == pytest.approx(40 * diagonal / 80, abs=2.0)


def test_short_axis_is_a_line_within_the_outline() -> None:
    nodule = one(ellipse(60, 25, 30) | ellipse(25, 30, 0))
    mask = ellipse(60, 25, 30) | ellipse(25, 30, 0)
    for line in (nodule.long_line, nodule.short_line):
        (x0, y0), (x1, y1) = line
        for t in (0.03, 0.5, 0.97):
            assert mask[round(y0 + t * (y1 - y0)), round(x0 + t * (x1 - x0))]


def test_notch_does_not_shorten_the_diameters() -> None:
    whole = ellipse(50, 50, 0)
    notched = whole & ~((abs(GRID[0] - CENTRE[1]) < 4) & (GRID[1] > CENTRE[0]))
    assert one(notched).short_px == pytest.approx(one(whole).short_px, abs=1.5)
    assert one(notched).area_px < one(whole).area_px


def test_pieces_are_separate_and_largest_first() -> None:
    mask = np.zeros((100, 200), bool)
    mask[10:20, 10:30] = True
    mask[50:90, 100:180] = True
    mask[5:8, 150:155] = True  # 15 pixels: a speck
    probability = np.zeros(mask.shape, np.uint8)
    probability[10:20, 10:30], probability[50:90, 100:180] = 255, 153
    nodules = measure(mask, probability)
    assert [n.bbox for n in nodules] == [(100, 50, 80, 40), (10, 10, 20, 10)]
    assert [n.area_px for n in nodules] == [3200, 200]
    assert [n.probability for n in nodules] == pytest.approx([0.6, 1.0])
    assert len(measure(mask, probability, smallest_px=15)) == 3
    assert len(measure(mask, probability, smallest_px=201)) == 1


def test_thin_and_tiny_pieces_have_diameters() -> None:
    mask = np.zeros((50, 50), bool)
    mask[10, 5:45] = True
    line = one(mask)
    assert (line.long_px, line.short_px) == pytest.approx((40, 1), abs=0.01)
    mask[:] = False
    mask[3, 3] = True
    (dot,) = measure(mask, mask.astype(np.uint8), smallest_px=1)
    assert (dot.long_px, dot.short_px) == pytest.approx((1, 1))


def test_empty_mask_at_the_border_and_full_mask() -> None:
    empty = np.zeros((40, 60), bool)
    assert measure(empty, empty.astype(np.uint8)) == []
    full = one(~empty)
    assert full.bbox == (0, 0, 60, 40)
    assert full.area_px == 2400


def test_a_view_into_a_larger_array_is_measured_the_same() -> None:
    mask = np.zeros((200, 400), bool)
    mask[::2, ::2] = ellipse(30, 15, 20)[60:160, 60:260]
    view = mask[::2, ::2]
    assert one(view) == one(np.ascontiguousarray(view))


@pytest.mark.parametrize("spacing", [(0.0, 0.1), (float("nan"), 0.1), (0.1, float("inf")), (-0.1, 0.1)])
def test_impossible_spacing_is_refused(spacing: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="spacing"):
        one(ellipse(30, 15, 0), spacing)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="expected the same"):
        measure(np.zeros((4, 5), bool), np.zeros((5, 4), np.uint8))


def test_specks_leave_the_mask_and_pieces_that_are_measured_stay() -> None:
    mask = np.zeros((60, 80), np.bool_)
    mask[10:30, 10:40] = True
    mask[[0, 1, 2], [79, 78, 77]] = True  # 3 pixels, connected over corners, at the frame's edge
    mask[40:44, 50:54] = True  # 16 pixels: just large enough
    before = mask.copy()
    cleaned = without_specks(mask, 16)
    assert np.array_equal(mask, before)
    assert not cleaned[:5].any() and cleaned[10:].sum() == mask[10:].sum()
    assert sum(n.area_px for n in measure(mask, np.where(mask, 200, 0).astype(np.uint8))) == cleaned.sum()
    assert without_specks(cleaned, 16) is cleaned
    assert not without_specks(mask, 10_000).any() and not without_specks(np.zeros_like(mask)).any()
    # an odd frame of background inside a box full of it: background is never a speck
    ring = np.zeros((9, 9), np.bool_)
    ring[1:8, 1:8] = True
    ring[4, 4] = False
    assert np.array_equal(without_specks(ring, 16), ring)
