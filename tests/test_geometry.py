from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest

from ssmt_edge.dataset import load_samples, read_gray, read_mask
from ssmt_edge.geometry import Gray, Roi, input_roi, scan_area, to_frame, to_gray, to_input
from ssmt_edge.metrics import dice
from ssmt_edge.spec import ModelSpec

Resize = Literal["stretch", "letterbox"]


def spec(resize: Resize = "stretch", size: int = 224, crop: Literal["scan-area", "none"] = "scan-area") -> ModelSpec:
    return ModelSpec("ssmt-lite", size, 60.0, 0.02, ("nodule",), crop=crop, resize=resize)


def ellipse(shape: tuple[int, int], center: tuple[int, int], axes: tuple[int, int]) -> Gray:
    mask = np.zeros(shape, np.uint8)
    cv2.ellipse(mask, center, axes, 20, 0, 360, 255, -1)
    return mask


def scanner_frame(area: Roi, shape: tuple[int, int] = (480, 640)) -> Gray:
    """Tissue-like noise in the area, drawn text, a ruler and a gray bar outside it."""
    rng = np.random.default_rng(0)
    frame = np.zeros(shape, np.uint8)
    frame[area.slices] = cv2.GaussianBlur(rng.integers(10, 130, (area.height, area.width)).astype(np.uint8), (0, 0), 1)
    right = area.x + area.width + 20
    for i, text in enumerate(("P100", "12L6", "9.0", "31fps", "DR65")):
        cv2.putText(frame, text, (right, 40 + 22 * i), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 255, 1)
    cv2.putText(frame, "TIROIDES DER", (area.x, shape[0] - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 255, 1)
    for y in range(area.y, area.y + area.height, 30):
        cv2.line(frame, (area.x - 12, y), (area.x - 6, y), 255, 1)
    frame[200:330, 8:16] = np.linspace(255, 0, 130).astype(np.uint8)[:, None]
    return frame


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
@pytest.mark.parametrize("roi", [Roi(0, 0, 640, 480), Roi(120, 30, 400, 300), Roi(200, 10, 150, 460)])
def test_a_mask_comes_back_where_it_was(resize: Resize, roi: Roi) -> None:
    mask = ellipse((480, 640), (roi.x + roi.width // 2 + 10, roi.y + roi.height // 2 - 15), (40, 60))
    rules = spec(resize)
    small = to_input(mask, roi, rules)
    assert small.shape == (224, 224) and small.dtype == np.uint8
    back = to_frame(small, roi, (480, 640), rules)
    assert back.shape == mask.shape
    assert dice(back > 127, mask > 127) > 0.98
    assert np.abs(np.argwhere(back > 127).mean(0) - np.argwhere(mask > 127).mean(0)).max() < 0.25, "no shift"


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_nothing_outside_the_region(resize: Resize) -> None:
    roi = Roi(100, 50, 300, 200)
    back = to_frame(np.full((224, 224), 255, np.uint8), roi, (480, 640, 3), spec(resize))
    assert back.shape == (480, 640)
    assert (back[roi.slices] == 255).all() and np.count_nonzero(back) == 300 * 200


def test_stretch_fills_the_input_and_letterbox_keeps_the_aspect_ratio() -> None:
    frame = np.full((100, 200), 200, np.uint8)
    roi = Roi(0, 0, 200, 100)
    assert (to_input(frame, roi, spec("stretch")) == 200).all()
    boxed = to_input(frame, roi, spec("letterbox"))
    rows = np.nonzero(boxed.any(axis=1))[0]
    assert (rows[0], rows[-1]) == (56, 167) and (boxed[56:168] == 200).all()


def test_a_frame_of_the_input_size_is_not_resampled() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (224, 224)).astype(np.uint8)
    assert (to_input(frame, Roi(0, 0, 224, 224), spec("stretch")) == frame).all()
    assert (to_input(frame, Roi(0, 0, 224, 224), spec("letterbox")) == frame).all()


@pytest.mark.parametrize("area", [Roi(80, 20, 420, 400), Roi(60, 0, 300, 430)])
def test_scan_area_is_the_tissue_and_not_the_text(area: Roi) -> None:
    found = scan_area([scanner_frame(area)])
    tolerance = 12  # the smoothing window reaches that far
    assert abs(found.x - area.x) <= tolerance and abs(found.y - area.y) <= tolerance
    assert abs(found.x + found.width - area.x - area.width) <= tolerance
    assert abs(found.y + found.height - area.y - area.height) <= tolerance


def test_scan_area_of_frames_without_anything_to_cut() -> None:
    dark = np.zeros((200, 300), np.uint8)
    assert scan_area([dark]) == Roi(0, 0, 300, 200)
    assert scan_area([np.full_like(dark, 80)]) == Roi(0, 0, 300, 200)
    assert scan_area([np.zeros((3, 2), np.uint8)]) == Roi(0, 0, 2, 3)


def test_scan_area_holds_tissue_on_both_sides_of_a_wide_cyst() -> None:
    frame = scanner_frame(Roi(80, 20, 420, 400))
    frame[120:220, 80:500] = 0
    found = scan_area([frame])
    assert found.y <= 32 and found.y + found.height >= 408


def test_scan_area_looks_at_several_frames() -> None:
    area = Roi(80, 20, 420, 400)
    upper, lower = scanner_frame(area), scanner_frame(area)
    upper[220:] = 0
    lower[:220] = 0
    assert scan_area([upper]).height < 250
    assert abs(scan_area([upper, lower]).height - 400) <= 24


def test_scan_area_keeps_the_nodules_of_real_frames(shared_data: Path) -> None:
    inside = total = 0
    shares = []
    for sample in load_samples(shared_data / "ddti")[::2]:
        gray = read_gray(sample.image)
        assert sample.nodule
        mask = read_mask(sample.nodule, gray.shape)
        roi = scan_area([gray])
        kept = int(mask[roi.slices].sum())
        inside, total = inside + kept, total + int(mask.sum())
        shares.append(roi.width * roi.height / gray.size)
    assert inside / total >= 0.995
    assert np.median(shares) < 0.85, "and text around the tissue is cut off"


def test_input_roi_follows_the_spec() -> None:
    frame = scanner_frame(Roi(80, 20, 420, 400))
    assert input_roi([frame], spec(crop="none")) == Roi(0, 0, 640, 480)
    assert input_roi([frame], spec(crop="scan-area")) == scan_area([frame])


def test_roi_is_clipped_to_the_frame() -> None:
    assert Roi(-10, 5, 30, 100).clipped((50, 60, 3)) == Roi(0, 5, 20, 45)
    for outside in (Roi(60, 0, 5, 5), Roi(0, 50, 5, 5), Roi(-5, 0, 5, 5), Roi(3, 3, 0, 4), Roi(9, 9, -2, 4)):
        with pytest.raises(ValueError, match="outside the 60 x 50 frame"):
            outside.clipped((50, 60))


def test_gray_from_color() -> None:
    rgb = np.zeros((4, 5, 3), np.uint8)
    rgb[..., 0] = 255
    assert to_gray(rgb).shape == (4, 5) and (to_gray(rgb) == 76).all(), "red first, weighted as luma"
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    assert (to_gray(gray) == gray).all() and (to_gray(gray[:, :, None]) == gray).all()


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((4, 5), np.float32),
        np.zeros((4, 5, 4), np.uint8),
        np.zeros((2, 4, 5, 3), np.uint8),
        np.zeros((0, 5), np.uint8),
        np.zeros(7, np.uint8),
    ],
)
def test_frames_of_another_kind(frame: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(ValueError, match="expected"):
        to_gray(frame)
