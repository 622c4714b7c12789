"""The way of one frame: region, input, output, result."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import SPEC, BrightEngine, disc

from ssmt_edge.errors import EngineError, SourceError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.overlay import cut
from ssmt_edge.screens import screen
from ssmt_edge.segment import LOOK_AHEAD, Job, Segmenter
from ssmt_edge.sources import Frame

CROPPING = replace(SPEC, crop="scan-area")


def job(pixels: Any, index: int = 0, **frame: Any) -> Job:
    return Job(Frame(index, 0.0, pixels, **frame), 0.0, {})


@pytest.mark.parametrize("shape", [(120, 160), (121, 333), (64, 64), (31, 47)])
@pytest.mark.parametrize("colour", [False, True])
def test_mask_lies_on_the_frame(shape: tuple[int, int], colour: bool) -> None:
    gray = disc(shape, (shape[1] // 2, shape[0] // 2), min(shape) // 4)
    result = Segmenter(BrightEngine())(np.stack([gray] * 3, axis=2) if colour else gray)
    truth = gray > 127
    assert result.mask.shape == result.probability.shape == shape
    assert (str(result.mask.dtype), str(result.probability.dtype)) == ("bool", "uint8")
    assert (result.mask & truth).sum() / (result.mask | truth).sum() > 0.85
    assert set(result.stages_ms) == {"decode", "preprocess", "infer", "postprocess"}
    assert result.latency_ms >= sum(result.stages_ms.values())
    assert len(result.nodules) == 1


def test_record_has_the_fields_of_the_contract() -> None:
    names = {"identity", "area_px", "area_mm2", "long_mm", "short_mm", "long_px", "short_px", "bbox", "probability"}
    for mm in (None, 0.1):
        record = json.loads(json.dumps(Segmenter(BrightEngine(), mm_per_pixel=mm)(disc()).record()))
        fields = {"frame", "t_source_ms", "latency_ms", "stages_ms", "dropped_before", "unlike", "nodules"}
        assert set(record) == fields
        (nodule,) = record["nodules"]
        assert set(nodule) == names
        for name in ("area_mm2", "long_mm", "short_mm"):
            assert (nodule[name] is None) == (mm is None)
        assert nodule["long_px"] == pytest.approx(41, abs=3)
    assert nodule["long_mm"] == pytest.approx(nodule["long_px"] / 10, abs=0.01)


def test_size_is_passed_on_or_none() -> None:
    assert Segmenter(BrightEngine())(disc()).size == pytest.approx(np.pi * 400 / (120 * 160), rel=0.1)
    engine = BrightEngine()
    engine.infer = lambda frames: {"nodule": frames}  # type: ignore[method-assign]
    assert Segmenter(engine)(disc()).size is None


def test_threshold_decides() -> None:
    image = np.full((64, 64), 128, np.uint8)
    assert Segmenter(BrightEngine(), threshold=128 / 255)(image).mask.all()
    assert not Segmenter(BrightEngine(), threshold=129 / 255)(image).mask.any()
    assert Segmenter(BrightEngine(replace(SPEC, threshold=0.9))).threshold == 0.9


def speckle(size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).integers(60, 120, size, np.uint8)


def test_order_of_regions() -> None:
    image = np.zeros((200, 300), np.uint8)
    image[50:150, 100:250] = speckle((100, 150))
    declared = Roi(10, 20, 100, 80)

    def region(segmenter: Segmenter, roi: Roi | None) -> Roi | None:
        (located,) = segmenter.locate([job(image, roi=roi)])
        return located.roi

    given = Roi(5, 5, 1000, 20)
    assert region(Segmenter(BrightEngine(CROPPING), roi=given), declared) == Roi(5, 5, 295, 20)
    assert region(Segmenter(BrightEngine(CROPPING), roi="full"), declared) == Roi(0, 0, 300, 200)
    assert region(Segmenter(BrightEngine(CROPPING)), declared) == declared
    assert region(Segmenter(BrightEngine()), declared) == declared
    assert region(Segmenter(BrightEngine()), None) == Roi(0, 0, 300, 200)
    scan = region(Segmenter(BrightEngine(CROPPING)), None)
    assert scan is not None and abs(scan.x - 100) < 12 and abs(scan.width - 150) < 24


def test_probability_is_zero_outside_the_region() -> None:
    result = Segmenter(BrightEngine(), roi=Roi(0, 0, 80, 120))(np.full((120, 160), 255, np.uint8))
    assert result.mask[:, :80].all() and not result.probability[:, 80:].any()


def test_scan_area_holds_until_the_size_changes() -> None:
    def frame(size: tuple[int, int], left: int) -> Any:
        image = np.zeros(size, np.uint8)
        image[20:100, left : left + 80] = speckle((80, 80))
        return image

    # the bright part moves: the first LOOK_AHEAD frames together fix the region, later ones do not move it
    frames = [frame((120, 200), i) for i in range(LOOK_AHEAD)] + [frame((120, 200), 110)] * 5
    frames += [frame((120, 240), 140)] * 2
    regions = [j.roi for j in Segmenter(BrightEngine(CROPPING)).locate(job(f, i) for i, f in enumerate(frames))]
    assert len(regions) == len(frames)
    assert len(set(regions[:-2])) == 1 and len(set(regions[-2:])) == 1
    first, last = regions[0], regions[-1]
    assert first is not None and last is not None
    assert first.x < 10 and last.x > 120


def test_locate_reads_no_further_ahead_than_it_says() -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield job(disc())

    located = Segmenter(BrightEngine(CROPPING)).locate(endless())
    next(located)
    assert read == LOOK_AHEAD


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"nodule": None},
        {"nodule": np.zeros((1, 1, 32, 32), np.uint8)},
        {"nodule": np.zeros((1, 1, 64, 64), np.float32)},
        {"nodule": np.zeros((64, 64), np.uint8)},
        {"nodule": np.zeros((1, 1, 64, 64), np.uint8), "size": np.zeros((1, 1), np.float32)},
    ],
)
def test_an_engine_that_returns_something_else_is_named(outputs: Any) -> None:
    engine = BrightEngine()
    engine.infer = lambda frames: outputs  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=r"the engine returned .* expected"):
        Segmenter(engine)(disc())


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((4, 4), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4), "u1")],
)
@pytest.mark.parametrize("spec", [SPEC, CROPPING])
def test_what_is_no_frame_is_named(pixels: Any, spec: Any) -> None:
    with pytest.raises(SourceError, match="frame"):
        Segmenter(BrightEngine(spec))(pixels)


def test_impossible_options_are_named() -> None:
    for mm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="mm per pixel"):
            Segmenter(BrightEngine(), mm_per_pixel=mm)
    for threshold in (0.0, 1.0, 2.0, float("nan")):
        with pytest.raises(UsageError, match="threshold"):
            Segmenter(BrightEngine(), threshold=threshold)
    with pytest.raises(UsageError, match="outside"):
        Segmenter(BrightEngine(), roi=Roi(500, 0, 10, 10))(disc())


def test_what_is_seen_of_a_frame() -> None:
    """The outline lies inside the region that the network sees, also where that is the declared one or all of it."""
    shown = screen(np.random.default_rng(3), "convex", 3, (480, 640))
    truth = shown.area

    def seen(spec: Any, declared: Roi | None) -> tuple[Roi, float]:
        jobs = [job(frame, i, roi=declared) for i, frame in enumerate(shown.frames)]
        located = list(Segmenter(BrightEngine(spec)).locate(jobs))[-1]
        assert located.roi is not None and located.outline is not None
        inside = cv2.fillPoly(np.zeros(truth.shape, np.uint8), [located.outline], 1) > 0
        assert not inside[: located.roi.y].any() and not inside[:, : located.roi.x].any()
        return located.roi, (inside & truth).sum() / (inside | truth).sum()

    box, overlap = seen(CROPPING, None)
    assert overlap > 0.93 and box.height < truth.shape[0]
    whole, overlap = seen(SPEC, None)
    assert overlap > 0.93 and whole == Roi(0, 0, truth.shape[1], truth.shape[0])
    declared, overlap = seen(CROPPING, box)
    assert overlap > 0.9 and declared == box


def test_nothing_is_shown_before_echoes_are_seen() -> None:
    """A grabber without signal, then a scanner's screen of the same size: the name that is burned in never shows."""
    shown = screen(np.random.default_rng(3), "convex", LOOK_AHEAD, (480, 640))
    dark = np.zeros_like(shown.frames[0])
    cv2.putText(dark, "DOE^JANE", (20, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    segmenter = Segmenter(BrightEngine(CROPPING))
    frames = [dark] * (LOOK_AHEAD + 3) + [*shown.frames] * 3
    located = list(segmenter.locate(job(frame, i) for i, frame in enumerate(frames)))
    results = [segmenter.postprocess(segmenter.infer(segmenter.preprocess(one))) for one in located]
    assert all(not cut(result).pixels.any() for result in results[: LOOK_AHEAD + 3])
    last = cut(results[-1])
    assert last.pixels.any() and last.roi.width * last.roi.height < 0.8 * dark.size


def test_a_live_stream_begins_with_the_newest_frame_that_was_looked_at() -> None:
    shown = screen(np.random.default_rng(3), "linear", LOOK_AHEAD, (480, 640))
    frames = [*shown.frames, *shown.frames]
    located = Segmenter(BrightEngine(CROPPING)).locate((job(f, i) for i, f in enumerate(frames)), newest=True)
    assert [one.frame.index for one in located] == list(range(LOOK_AHEAD - 1, 2 * LOOK_AHEAD))
