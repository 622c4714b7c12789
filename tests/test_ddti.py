"""DDTI as published, on small sets written here and on the real one."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Cli, refused

from ssmt_edge.audit import audit
from ssmt_edge.dataset import load_samples, read_gray, read_mask
from ssmt_edge.ddti import convert, read_raw, seam

Box = tuple[int, int, int, int]


def contour(box: Box, region: str = "freehand") -> dict[str, object]:
    """A rectangle x, y, width, height in the set's own notation."""
    x, y, w, h = box
    corners = [(x, y), (x + w - 1, y), (x + w - 1, y + h - 1), (x, y + h - 1)]
    points = [{"x": a, "y": b} for a, b in corners[: 2 if region == "arrow" else 4]]
    return {"points": points, "annotation": {}, "regionType": region}


def xml(path: Path, marks: Sequence[tuple[str, object]], fields: str = "<tirads>4a</tirads>") -> None:
    """One case; a string stands for itself, anything else is written as JSON."""
    text = "".join(
        f"<mark><image>{view}</image><svg>{svg if isinstance(svg, str) else json.dumps(svg)}</svg></mark>"
        for view, svg in marks
    )
    path.write_text(f"<case><number>{path.stem}</number>{fields}{text}</case>")


def frame(path: Path, seed: int, two_views: bool = False) -> None:
    """Speckle of 280 x 180 pixels; two views meet in column 140."""
    rng = np.random.default_rng(seed)
    image = np.clip(90 + cv2.GaussianBlur(rng.normal(0, 60, (180, 280)), (0, 0), 2) * 2, 0, 255)
    if two_views:
        image[:, 140:] = np.clip(image[:, 140:] * 0.4, 0, 255)
    assert cv2.imwrite(str(path), image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Five cases; faults in all but the first."""
    root = tmp_path / "raw"
    root.mkdir()
    for seed, name in enumerate(("1", "1_2", "2", "3_1", "4", "5")):
        frame(root / f"{name}.jpg", seed, two_views=name == "2")
    xml(root / "1.xml", [("1", [contour((20, 30, 50, 40))]), ("2", [contour((100, 60, 30, 20))])])
    # two views, a nodule marked in the right one only; an arrow; a view without an image
    xml(root / "2.xml", [("1", [contour((200, 50, 40, 40)), contour((10, 10, 9, 9), "arrow")]), ("2", [])])
    xml(root / "3.xml", [("1", json.dumps([contour((20, 30, 50, 40))])[:60])])  # cut off within the contour
    (root / "4.xml").write_text("<case><number>4</number><mark><image>1</ima")  # cut off within the XML
    xml(root / "5.xml", [("1", [])])
    return root


def test_conversion_keeps_what_is_whole_and_names_the_rest(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = convert(raw, out)
    with (out / "cases.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["1_1", "1_2", "2_1-right"]
    assert rows["1_2"]["tirads"] == "4a" and rows["1_2"]["raw"] == "1_2.jpg" and rows["1_2"]["mask_pixels"] == "600"
    samples = load_samples(out)
    assert [s.case for s in samples] == ["1", "1", "2"] and samples[0].split == samples[1].split
    assert samples[0].nodule and samples[2].nodule
    mask = read_mask(samples[0].nodule, read_gray(samples[0].image).shape)
    assert mask[30:70, 20:70].all() and mask.sum() == 50 * 40
    half = read_gray(samples[2].image)
    assert half.shape == (180, 140) and (half == read_gray(raw / "2.jpg")[:, 140:]).all()
    assert np.flatnonzero(read_mask(samples[2].nodule, half.shape).any(axis=0)).tolist() == list(range(60, 100))
    faults = {(f["file"], f["what"].split(" (")[0]) for f in result["faults"]}
    assert ("2.xml", "view 1: an arrow, no contour") in faults
    assert ("3.xml", "view 1: contours are damaged after 60 characters") in faults
    assert ("5.xml", "view 1: no contours") in faults
    assert any(f["file"] == "4.xml" and "not complete XML" in f["what"] for f in result["faults"])
    assert {(s["file"], s["why"]) for s in result["skipped"]} == {
        ("2.jpg left", "no contour in this part"),
        ("3_1.jpg", "no usable contour"),
        ("4.jpg", "no usable contour"),
        ("5.jpg", "no usable contour"),
    }
    assert audit([out])["ok"]


@pytest.mark.parametrize(
    ("svg", "words"),
    [
        ("{}", "no contours"),
        ("[3]", "damaged"),
        ("7", "damaged"),
        ('[{"points": [{"x": 1}]}]', "damaged"),
        ('[{"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}]', "a contour of 2 points"),
        ('[{"points": [{"x": NaN, "y": 2}, {"x": 3, "y": 4}, {"x": 3, "y": 9}]}]', "a contour of 3 points"),
        (json.dumps([contour((20, 150, 40, 80))]), "1 contours leave the image"),
    ],
)
def test_odd_contours_are_reported_not_fatal(svg: str, words: str, raw: Path, tmp_path: Path) -> None:
    xml(raw / "5.xml", [("1", svg)])
    result = convert(raw, tmp_path / "out")
    assert any(f["file"] == "5.xml" and words in f["what"] for f in result["faults"]), result["faults"]
    assert result["images"] == 3


def test_the_only_image_of_a_case_takes_its_only_contours(raw: Path) -> None:
    xml(raw / "5.xml", [("2", [contour((20, 30, 50, 40))])])
    views = {(v.case, v.view): len(v.contours) for v in read_raw(raw).views}
    assert views["5", "2"] == 1 and views["1", "1"] == views["1", "2"] == 1


def test_command(raw: Path, tmp_path: Path, cli: Cli) -> None:
    answer = cli("data", "convert", raw, "--out", tmp_path / "set")
    assert answer.code == 0 and "3 images of 2 cases" in answer.out and "4.jpg: left out" in answer.out
    assert "is not empty" in refused(cli, tmp_path, "data", "convert", raw, "--out", tmp_path / "set")
    assert "not DDTI" in refused(cli, tmp_path, "data", "convert", tmp_path / "set", "--out", tmp_path / "new")
    for path in raw.glob("*.xml"):
        path.write_text("<case>")
    assert "none of its 6 images" in refused(cli, tmp_path, "data", "convert", raw, "--out", tmp_path / "new")


def test_audit_of_the_raw_form(raw: Path) -> None:
    result = audit([raw])
    assert result["ok"] and result["sets"][0]["images"] == 6 and result["sets"][0]["cases"] == 5
    assert {Path(f["files"][0]).name for f in result["findings"]} == {"2.xml", "3.xml", "4.xml", "5.xml"}


def test_real_masks_agree_with_the_processed_form(shared_data: Path, tmp_path: Path) -> None:
    """Every seventh case: images and masks against those of the set's other form, and which files hold two views."""
    with (shared_data / "ddti" / "cases.csv").open(newline="") as file:
        processed = {(row["raw"], row["part"]): row["image"] for row in csv.DictReader(file)}
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((shared_data / "ddti-raw").glob("*.xml"))[::7]:
        for one in [path, *path.parent.glob(f"{path.stem}.jpg"), *path.parent.glob(f"{path.stem}_*.jpg")]:
            (few / one.name).symlink_to(one)
    convert(few, tmp_path / "out")
    dice = []
    with (tmp_path / "out" / "cases.csv").open(newline="") as file:
        made = {row["image"]: (Path(row["raw"]).stem, row["part"]) for row in csv.DictReader(file)}
    for sample in load_samples(tmp_path / "out"):
        number = processed.get(made[sample.name])
        if number is None or not sample.nodule:
            continue
        truth = read_gray(shared_data / "ddti" / "mask" / f"{number}.png") > 127
        mask = read_mask(sample.nodule, read_gray(sample.image).shape)
        if mask.shape == truth.shape:
            dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert len(dice) > 50 and np.mean(dice) > 0.99
    two = {raw for raw, part in processed if part == "left"}
    files = [p for p in few.iterdir() if p.suffix == ".jpg"]
    assert np.mean([(seam(read_gray(p)) is not None) == (p.stem in two) for p in files]) > 0.95
