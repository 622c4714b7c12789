"""Numbers of nodules over time, and the frame in which each was largest, on discs that move as told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from ssmt_edge.measure import Nodule, measure
from ssmt_edge.tracking import MOST_TRACKS, Largest, Tracker

GRID = np.mgrid[:240, :320]
Disc = tuple[float, float, float]  # centre x, y and radius, pixels


def seen(*discs: Disc, spacing: tuple[float, float] | None = None) -> list[Nodule]:
    """What `measure` finds in a frame with these discs; touching ones become one piece."""
    mask = np.zeros(GRID[0].shape, np.bool_)
    for x, y, radius in discs:
        mask |= (GRID[1] - x) ** 2 + (GRID[0] - y) ** 2 <= radius**2
    return measure(mask, np.where(mask, 220, 0).astype(np.uint8), spacing)


def identity_at(nodules: Sequence[Nodule], x: float, y: float) -> int | None:
    """Of the nodule whose box holds the point."""
    (found,) = [n for n in nodules if 0 <= x - n.bbox[0] < n.bbox[2] and 0 <= y - n.bbox[1] < n.bbox[3]]
    return found.identity


def test_a_moving_nodule_keeps_its_number_and_everything_else() -> None:
    tracker = Tracker()
    numbers = []
    for t in range(36):
        plain = seen((40 + 6 * t, 130 + 30 * np.sin(t / 5), 12 + 4 * np.sin(t / 3)), (280, 30, 15))
        named = tracker.update(plain)
        numbers.append((identity_at(named, 280, 30), identity_at(named, 40 + 6 * t, 130 + 30 * np.sin(t / 5))))
        assert [n.bbox for n in named] == [n.bbox for n in plain] and all(n.identity is None for n in plain)
    assert len(set(numbers)) == 1 and sorted(n or 0 for n in numbers[0]) == [1, 2]


def test_numbers_stay_with_their_nodules_when_the_order_by_size_changes() -> None:
    tracker = Tracker()
    first = tracker.update(seen((80, 120, 20), (220, 120, 18)))
    left, right = identity_at(first, 80, 120), identity_at(first, 220, 120)
    after = tracker.update(seen((80, 120, 17), (220, 120, 21)))
    assert (identity_at(after, 80, 120), identity_at(after, 220, 120)) == (left, right)


@pytest.mark.parametrize("as_gap", [False, True])
@pytest.mark.parametrize(("missing", "same"), [(1, True), (8, True), (9, False), (60, False)])
def test_a_nodule_may_be_hidden_for_as_long_as_the_patience_says(missing: int, same: bool, as_gap: bool) -> None:
    tracker = Tracker(patience=8)
    tracker.update(seen((100, 100, 15)))
    for _ in range(0 if as_gap else missing):
        assert tracker.update([]) == []
    (back,) = tracker.update(seen((106, 98, 14)), gap=missing if as_gap else 0)
    assert back.identity == (1 if same else 2)


def test_a_nodule_elsewhere_is_a_new_one_and_no_number_comes_twice() -> None:
    tracker = Tracker(patience=0)
    numbers = [tracker.update(seen((x, 120, 10)))[0].identity for x in (40, 260, 40, 260)]
    assert numbers == [1, 2, 3, 4]
    tracker.reset()
    assert tracker.update(seen((260, 120, 10)))[0].identity == 5


def test_nodules_that_pass_each_other_keep_their_numbers() -> None:
    """Boxes overlap on the way, the discs do not touch; sizes differ a little."""
    tracker = Tracker()
    start = tracker.update(seen((60, 110, 12), (260, 140, 14)))
    going_right, going_left = identity_at(start, 60, 110), identity_at(start, 260, 140)
    for t in range(1, 26):
        named = tracker.update(seen((60 + 8 * t, 110, 12), (260 - 8 * t, 140, 14)))
        assert len(named) == 2
    assert identity_at(named, 260, 110) == going_right
    assert identity_at(named, 60, 140) == going_left


def test_a_small_fast_nodule_is_expected_where_its_motion_leads() -> None:
    """At the end it moves further in a frame than it is wide, and a still one lies beside its way."""
    tracker = Tracker()
    x, numbers = 20.0, []
    for t in range(16):
        x += 1.2 * t
        numbers.append(identity_at(tracker.update(seen((x, 100, 6), (90, 122, 7))), x, 100))
    assert 1.2 * 15 > 13 and len(set(numbers)) == 1


def test_of_two_pieces_of_one_nodule_one_keeps_its_number() -> None:
    tracker = Tracker()
    tracker.update(seen((100, 100, 15), (122, 100, 15)))
    numbers = sorted(n.identity or 0 for n in tracker.update(seen((98, 100, 12), (126, 100, 12))))
    assert numbers == [1, 2]


def test_after_a_merge_both_numbers_come_back() -> None:
    tracker = Tracker(patience=15)
    gaps = [60, 50, 42, *[34] * 8, 42, 50, 60]  # radii 24 and 14: one piece below 38
    pieces, numbers = [], []
    for gap in gaps:
        named = tracker.update(seen((130, 120, 24), (130 + gap, 122, 14)))
        pieces.append(len(named))
        numbers.append([n.identity for n in named])
    assert pieces == [2, 2, 2, *[1] * 8, 2, 2, 2]
    assert all(now == ([1] if len(now) == 1 else [1, 2]) for now in numbers)


def test_memory_is_bounded_under_noise() -> None:
    tracker, largest = Tracker(patience=1000), Largest(limit=50)
    rng = np.random.default_rng(3)
    for t in range(60):
        named = tracker.update(seen(*((x, y, 3) for x, y in rng.uniform(5, 235, (12, 2)))))
        numbers = [n.identity for n in named]
        assert len(set(numbers)) == len(numbers)
        largest.update(t, named)
        assert len(tracker._tracks) <= MOST_TRACKS and len(largest.table()) <= 50


def test_the_largest_frame_of_each_nodule_and_of_all() -> None:
    tracker, largest = Tracker(), Largest()
    assert largest.table() == []
    for t, (one, other) in enumerate([(10, 20), (14, 25), (18, 22), (12, 20)]):
        largest.update(10 + t, tracker.update(seen((80, 120, one), (220, 120, other), spacing=(0.1, 0.1))))
    assert [(e.identity, e.frame, e.unit) for e in largest.table()] == [(1, 11, "mm"), (2, 12, "mm")]
    assert largest.table()[0].long == pytest.approx(5.0, abs=0.15)
    assert largest.table()[0].short == pytest.approx(5.0, abs=0.15)


def test_millimetres_and_pixels_are_never_compared() -> None:
    tracker, largest = Tracker(), Largest()
    largest.update(0, tracker.update(seen((80, 120, 30))))
    assert largest.table()[0].unit == "px"
    largest.update(1, tracker.update(seen((80, 120, 20), spacing=(0.1, 0.1))))
    largest.update(2, tracker.update(seen((80, 120, 35))))
    assert [(e.identity, e.frame, e.unit) for e in largest.table()] == [(1, 1, "mm"), (1, 2, "px")]


def test_the_smallest_fall_out_of_a_full_table() -> None:
    largest, tracker = Largest(limit=2), Tracker()
    largest.update(0, tracker.update(seen((60, 60, 10), (160, 60, 20), (260, 60, 15))))
    assert [round(e.long) for e in largest.table()] == [41, 31]


def test_impossible_arguments_and_nodules_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="patience"):
        Tracker(patience=-1)
    with pytest.raises(ValueError, match="limit"):
        Largest(limit=0)
    with pytest.raises(ValueError, match="identity"):
        Largest().update(0, seen((80, 120, 30)))
