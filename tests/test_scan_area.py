from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.roi import iou
from ssmt_edge.dataset import load_samples, read_gray, read_mask
from ssmt_edge.geometry import Gray, Roi, to_gray
from ssmt_edge.phantom import phantom
from ssmt_edge.scan_area import ScanArea, find_scan_area
from ssmt_edge.screens import KINDS, Kind, screen
from ssmt_edge.sources import open_source


def found(frames: list[Gray]) -> NDArray[np.bool_]:
    return find_scan_area(frames).mask(*frames[0].shape)


def whole(height: int, width: int) -> ScanArea:
    return ScanArea(Roi(0, 0, width, height), None, "full")


def sector(shape: tuple[int, int], seed: int = 0) -> tuple[Gray, NDArray[np.bool_]]:
    """A bright fan of noise without anything around it, and where it is."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    unit = shape[0] / 480
    x, y = x / unit - shape[1] / unit / 2, y / unit + 60
    area = (np.abs(np.arctan2(x, y)) < 0.5) & (np.hypot(x, y) > 110) & (np.hypot(x, y) < 420)
    noise = np.random.default_rng(seed).integers(40, 160, shape)
    return np.where(area, noise, 0).astype(np.uint8), area


@pytest.mark.parametrize("kind", KINDS)
def test_scan_area_of_synthetic_screens(kind: Kind) -> None:
    ious, steady = [], []
    for i in range(6):
        shown = screen(np.random.default_rng((77, i)), kind, count=16, size=(800, 600))
        first = found(shown.frames[:8])
        ious.append(iou(first, shown.area))
        steady.append(iou(first, found(shown.frames[8:])))
        kept = (first & shown.nodule).sum() / max(shown.nodule.sum(), 1)
        assert kept > 0.995 or not shown.nodule.any()
        assert find_scan_area(shown.frames).shape == ("linear" if kind == "linear" else "convex")
    assert np.mean(ious) >= 0.95
    assert min(steady) >= 0.98, "two groups of frames of one stream give the same area"


def test_one_frame_and_frozen_frames_are_enough() -> None:
    shown = screen(np.random.default_rng(5), "convex", count=1, size=(800, 600))
    assert iou(found(shown.frames), shown.area) > 0.95
    assert (found(shown.frames * 8) == found(shown.frames)).all()


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280)])
def test_outline_and_box_belong_together(shape: tuple[int, int]) -> None:
    frame, truth = sector(shape)
    area = find_scan_area([frame])
    assert area.shape == "convex" and area.outline is not None and area.outline.dtype == np.int32
    box = Roi(*(int(v) for v in cv2.boundingRect(area.outline)))
    assert box == area.box == area.box.clipped(shape)
    assert iou(area.mask(*shape), truth) > 0.97
    corner = truth[area.box.slices][-5:, :5]
    assert not corner.any() and not area.mask(*shape)[area.box.slices][-5:, :5].any(), "the arc is not squared off"


def test_a_dark_side_and_a_cyst_do_not_cut_into_a_sector() -> None:
    frame, truth = sector((480, 640))
    frame[200:330, 250:390] = 0
    x = np.arange(640)
    frame[260:, x > 440] = 0
    assert iou(found([frame]), truth) > 0.95


def test_tissue_that_fits_no_shape_is_not_cut_off() -> None:
    frame = np.zeros((480, 640), np.uint8)
    frame[40:400, 100:450] = frame[200:242, 450:600] = 1
    truth = frame > 0
    frame[truth] = np.random.default_rng(1).integers(40, 160, int(truth.sum()))
    assert (found([frame]) & truth).sum() > 0.995 * truth.sum()
    assert find_scan_area([frame]).box.height < 380


def test_frames_without_anything_to_cut_are_the_scan_area() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((200, 300), (2, 3), (1, 1), (40, 2000)):
        dark = np.zeros((height, width), np.uint8)
        for frames in ([dark], [np.full_like(dark, 80)], [dark, np.full_like(dark, 255)]):  # no signal
            assert find_scan_area(frames) == replace(whole(height, width), shape="none")
    assert find_scan_area([rng.integers(20, 200, (200, 300)).astype(np.uint8)]) == whole(200, 300)
    assert find_scan_area([phantom(rng, (256, 256)).image]) == whole(256, 256)


def test_a_probe_in_the_air_does_not_shrink_the_area() -> None:
    frame = np.zeros((480, 640), np.uint8)
    frame[10:50, 150:500] = np.random.default_rng(0).integers(60, 200, (40, 350))
    cv2.putText(frame, "12L6 31 fps", (520, 60), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    assert find_scan_area([frame]) == replace(whole(480, 640), shape="none")


def test_text_that_touches_moving_tissue_is_left_out() -> None:
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(8):
        frame = np.zeros((480, 640), np.uint8)
        frame[40:400, 100:500] = rng.integers(20, 120, (360, 400))
        cv2.putText(frame, "THYROID RIGHT LOBE", (120, 413), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 2)
        frame[402:403, 100:500] = 255
        frames.append(frame)
    area = find_scan_area(frames)
    assert area.shape == "linear" and area.outline is None
    assert abs(area.box.y + area.box.height - 400) <= 4 and abs(area.box.y - 40) <= 4


@pytest.mark.parametrize("seed", range(8))
def test_noise_of_any_kind_gives_an_area_inside_the_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(1, 300, 2))
    frames = [(rng.random((height, width)) ** 8 * 255).astype(np.uint8) for _ in range(3)]
    frames[0][: int(rng.integers(height + 1)), : int(rng.integers(width + 1))] = 200
    area = find_scan_area(frames)
    assert area.box == area.box.clipped((height, width))
    assert area.mask(height, width).any()


def test_outlines_keep_the_nodules_of_real_frames(shared_data: Path) -> None:
    inside = total = 0
    shares = []
    for sample in load_samples(shared_data / "ddti")[::3]:
        gray = read_gray(sample.image)
        assert sample.nodule
        mask, area = read_mask(sample.nodule, gray.shape) > 0, found([gray])
        inside, total = inside + int((mask & area).sum()), total + int(mask.sum())
        shares.append(area.mean())
    assert inside / total >= 0.995
    assert np.median(shares) < 0.85, "and text around the tissue is cut off"


@pytest.mark.parametrize(
    "name", ["Reg_pat2Image_134240.mpeg", "Reg_pat3Image_135215.mpeg", "Reg_pat4Image_140434.mpeg"]
)
def test_the_area_of_a_real_clip_does_not_depend_on_the_first_frames(shared_data: Path, name: str) -> None:
    if not (shared_data / "clips" / name).is_file():
        pytest.skip(f"no {name} in {shared_data / 'clips'}")
    frames = []
    with open_source(str(shared_data / "clips" / name)) as source:
        for frame in source:
            frames.append(to_gray(frame.pixels))
            if len(frames) == 24:
                break
    first = found(frames[:8])
    assert iou(first, found(frames[8:16])) >= 0.98 and iou(first, found(frames[16:])) >= 0.98
