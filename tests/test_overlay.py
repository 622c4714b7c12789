"""What is shown of a frame: cut to its region, drawn, and captioned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes import disc, make_result

from ssmt_edge.geometry import Roi
from ssmt_edge.overlay import CONTOUR, Overlay, caption, cut, draw, fit, picture
from ssmt_edge.segment import Result

ROI = Roi(30, 20, 100, 80)
NAME = 255
"""gray of what the scanner burned in"""


def scanner_screen(colour: bool = False) -> Result:
    """A disc in a scan area of 100 x 80 at (30, 20) with two corners cut off; a name above it, letters in a corner."""
    pixels = disc((120, 160), (80, 60))
    pixels[:20] = pixels[22:26, 32:40] = NAME
    mask = disc((120, 160), (80, 60)) > 127
    result = make_result(0, np.stack([pixels] * 3, 2) if colour else pixels)
    nodule = make_result(0, disc((120, 160), (80, 60))).nodules[0]
    outline = np.array([(60, 20), (100, 20), (129, 99), (30, 99)], np.int32)
    return replace(result, mask=mask, nodules=[replace(nodule, identity=7)], roi=ROI, outline=outline)


@pytest.mark.parametrize("colour", [False, True])
def test_cut_crops_everything_and_blackens_what_is_outside_the_scan_area(colour: bool) -> None:
    result = scanner_screen(colour)
    before = result.pixels.copy()
    seen = cut(result)
    assert seen.pixels.shape[:2] == seen.mask.shape == seen.probability.shape == (80, 100)
    assert seen.roi == Roi(0, 0, 100, 80)
    assert not (seen.pixels == NAME).any() and seen.pixels[1, 1].max() == 0
    assert (seen.pixels[30:50, 40:60] == result.pixels[50:70, 70:90]).all()
    assert (seen.mask == result.mask[ROI.slices]).all() and seen.mask.sum() == result.mask.sum()
    assert seen.outline is not None and seen.outline.tolist()[0] == [30, 0]
    (was,), (now,) = result.nodules, seen.nodules
    assert now.bbox == (was.bbox[0] - 30, was.bbox[1] - 20, *was.bbox[2:]) and now.identity == 7
    for line in ("long_line", "short_line"):
        assert np.allclose(np.array(getattr(was, line)) - np.array(getattr(now, line)), (30, 20))
    assert (result.pixels == before).all()
    assert (cut(seen).pixels == seen.pixels).all()


@pytest.mark.parametrize("style", ["tint", "contour", "side-by-side"])
def test_no_picture_shows_what_lies_outside_unless_asked_to(style: Overlay) -> None:
    result = scanner_screen()
    result = replace(result, nodules=[], mask=np.zeros_like(result.mask))
    whole = picture(result, style, uncut=True)
    width = 320 if style == "side-by-side" else 160
    assert whole.shape == (120, width, 3) and (whole[:20] == NAME).all()
    image = picture(result, style)
    assert image.shape == (80, 200 if style == "side-by-side" else 100, 3)
    assert image[:50].max() < 230  # the caption's letters are white, and below
    assert image[66:].max() > 150, "research use only is missing"


def test_tint_contour_and_side_by_side_differ_in_what_they_draw() -> None:
    result = make_result()
    inside = (52, 75)  # in the disc, off both diameters
    tint, contour, both = (draw(result, style) for style in ("tint", "contour", "side-by-side"))
    assert contour[inside].tolist() == [200, 200, 200] and tint[inside].tolist() != [200, 200, 200]
    assert both.shape == (120, 320, 3)
    assert (both[:, :160] == result.pixels[:, :, None]).all() and (both[:, 160:] == tint).all()
    for image in (tint, contour):
        assert (image == CONTOUR).all(axis=2).any()
        assert (image[:, :, 2].astype(int) - image[:, :, 0] > 60).sum() > 60, "the diameters are missing"
        assert image[5, 5].tolist() == [40, 40, 40]
    assert (result.pixels == disc()).all()


@pytest.mark.parametrize("centre", [(80, 60), (150, 15), (8, 110)])
def test_numbers_stand_beside_their_nodules_and_inside_the_image(centre: tuple[int, int]) -> None:
    result = make_result(0, disc(centre=centre, radius=9))
    numbered = replace(result, nodules=[replace(result.nodules[0], identity=3)])
    changed = (draw(numbered) != draw(result)).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 20, "the number is cut off"
    assert not (changed & result.mask).any()
    assert abs(rows.mean() - centre[1]) < 20 and abs(columns.mean() - centre[0]) < 30


def test_caption_names_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("ssmt_edge.overlay._write", lambda image, text, place, scale: written.append(text))
    result = make_result()
    (nodule,) = result.nodules
    image: Any = draw(result)
    for nodules in ([], [nodule], [replace(nodule, identity=2, long_mm=12.34, short_mm=8.0)]):
        caption(image, replace(result, nodules=nodules))
    assert written == [
        "research use only",
        f"{nodule.long_px:.0f} x {nodule.short_px:.0f} px, research use only",
        "2: 12.3 x 8.0 mm, research use only",
    ]


def test_fit_pads_odd_sizes_without_scaling() -> None:
    image = np.random.default_rng(0).integers(0, 255, (31, 33, 3)).astype(np.uint8)
    padded = fit(image, 34, 32)
    assert (padded[:31, :33] == image).all() and not padded[31].any() and not padded[:, 33].any()
