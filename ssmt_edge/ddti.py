"""DDTI as published: one XML file a case with contours in pixels, and images that may hold two views side by side.

    CASE.jpg, CASE_VIEW.jpg      gray, 560 x 360; CASE.jpg is view 1, or the case's only view
    CASE.xml                     <case> with fields, and <mark><image>VIEW</image><svg>JSON contours</svg></mark>

`convert` turns it into image/, mask/ and cases.csv. What is broken in the set (XML or contours cut off, empty contours,
contours of images that do not exist) is reported and left out, never fatal.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import held_back, read_gray
from ssmt_edge.errors import DataError, SinkError
from ssmt_edge.files import replacing_folder, write_csv
from ssmt_edge.geometry import Gray

Contour = NDArray[np.float32]  # [points, 2], x and y in pixels of the whole image
FIELDS = (
    "age",
    "sex",
    "composition",
    "echogenicity",
    "margins",
    "calcifications",
    "tirads",
    "reportbacaf",
    "reporteco",
)
SEAM = 2.5  # step between two views, in medians of the steps between columns; single views of DDTI reach 2.4
OUTSIDE = 8.0  # pixels that a contour may leave its image by: hands overshoot, but not into the next screen


@dataclass(frozen=True)
class Fault:
    """Something of the set that cannot be used."""

    file: str
    what: str


@dataclass(frozen=True)
class View:
    """One image file of a case with its contours."""

    image: Path
    case: str
    view: str
    contours: list[Contour]


@dataclass
class RawSet:
    views: list[View] = field(default_factory=list)
    """every image, in numerical order; those without a usable contour, too"""
    fields: dict[str, dict[str, str]] = field(default_factory=dict)
    """`FIELDS` by case, "" where the file states nothing"""
    faults: list[Fault] = field(default_factory=list)


def is_raw(root: Path) -> bool:
    """Whether a folder holds DDTI as published: at least one CASE.xml with an image of that case."""
    return root.is_dir() and any(_images_of(root, path.stem) for path in root.glob("*.xml"))


def _images_of(root: Path, case: str) -> dict[str, Path]:
    """Images of a case by view; "" is the one without a number."""
    found = {}
    for path in root.glob(f"{case}*"):
        match = re.fullmatch(rf"{re.escape(case)}(?:_(\d+))?", path.stem)
        if match and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            found[match[1] or ""] = path
    return found


def read_raw(root: Path) -> RawSet:
    """Every view of the set with its contours; no image is decoded.

    Raises:
        DataError: the folder holds no DDTI in this form.
    """
    if not is_raw(root):
        raise DataError(f"{root} is not DDTI as published: expected files CASE.xml and CASE.jpg or CASE_VIEW.jpg")
    result = RawSet()
    for xml in sorted(root.glob("*.xml"), key=lambda p: (len(p.stem), p.stem)):
        case = xml.stem
        images = _images_of(root, case)
        marks: dict[str, list[Contour]] = {}
        values = dict.fromkeys(FIELDS, "")
        try:
            tree = ET.parse(xml).getroot()
        except (ET.ParseError, ValueError, LookupError) as error:  # the last two for encodings that it does not know
            result.faults.append(Fault(xml.name, f"not complete XML: {error}"))
        else:
            values = {name: " ".join((tree.findtext(name) or "").split()) for name in FIELDS}
            marks = _marks(tree, xml.name, result.faults)
        result.fields[case] = values
        if "" in images:  # view 1, unless the case has but one image and its contours have another number
            only = next(iter(marks)) if len(images) == len(marks) == 1 else "1"
            images = {only: images.pop(""), **images}
        for view in [view for view, contours in marks.items() if contours and view not in images]:
            result.faults.append(Fault(xml.name, f"contours of view {view}, which has no image"))
        result.views += [View(path, case, view, marks.get(view, [])) for view, path in sorted(images.items())]
    return result


def _marks(tree: ET.Element, name: str, faults: list[Fault]) -> dict[str, list[Contour]]:
    """Contours by view; an empty list where a view's contours cannot be used."""
    marks: dict[str, list[Contour]] = {}
    for mark in tree.iter("mark"):
        view = (mark.findtext("image") or "").strip()
        contours = marks.setdefault(view, [])
        text = (mark.findtext("svg") or "").strip()
        try:
            shapes = json.loads(text) if text else []
            for shape in shapes:
                if shape.get("regionType") == "arrow":  # points at something, encloses nothing
                    faults.append(Fault(name, f"view {view}: an arrow, no contour"))
                    continue
                points = np.array([(p["x"], p["y"]) for p in shape["points"]], np.float32).reshape(-1, 2)
                if len(points) < 3 or not np.isfinite(points).all():
                    faults.append(Fault(name, f"view {view}: a contour of {len(points)} points"))
                    continue
                contours.append(points)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            contours.clear()  # a mask with nodules missing is worse than none
            faults.append(Fault(name, f"view {view}: contours are damaged after {len(text)} characters ({error})"))
            continue
        if not shapes:
            faults.append(Fault(name, f"view {view}: no contours"))
    return marks


def seam(gray: Gray) -> int | None:
    """Column where the second of two views side by side begins, None for a single view.

    Two views meet in a step of brightness that runs the whole height of the frame, or in a black strip of some columns,
    which has two such steps. DDTI's scanner puts it a little right of the middle.

    Args:
        gray: uint8 [H, W], the whole scanner frame.
    """
    height, width = gray.shape
    if min(height, width) < 64:  # no scanner frame
        return None
    rows = gray[height // 12 : height - height // 12].astype(np.int16)
    steps = np.abs(np.diff(rows, axis=1)).mean(axis=0)
    typical = float(np.median(steps[width // 4 : -width // 4]))
    first, last = round(0.47 * width), round(0.58 * width)
    found = [x for x in range(first, last) if steps[x - 1] > SEAM * max(typical, 0.5)]
    if not found:
        return None
    strongest = max(found, key=lambda x: steps[x - 1])
    strip = [x for x in found if abs(x - strongest) <= 0.018 * width]
    return round((strip[0] + strip[-1]) / 2)


def draw(contours: list[Contour], shape: tuple[int, int]) -> Gray:
    """uint8 [H, W], 255 inside of any contour and on it."""
    mask = np.zeros(shape, np.uint8)
    for points in contours:
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)
    return cast(Gray, mask)


def convert(root: Path, out: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Writes image/, mask/ (PNG, 0 or 255) and cases.csv, complete or not at all.

    An image with two views becomes two, `CASE_VIEW-left` and `-right`; one of them without any contour is left out,
    because nobody looked for its nodule. The split is `held_back` of the case.

    Args:
        root: DDTI as published.
        out: folder to make; an existing one must be empty.
        progress: called with images done and images in all.

    Returns:
        {"images": n, "cases": n, "splits": {split: n}, "skipped": [{"file", "why"}], "faults": [{"file", "what"}]}

    Raises:
        DataError: `root` is no such set, or nothing of it can be used.
        SinkError: `out` is in use or cannot be written.
    """
    raw = read_raw(root)
    skipped: list[dict[str, str]] = []
    table: list[dict[str, Any]] = []
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SinkError(f"{out} is not empty; give a new or empty folder for the converted set")
    try:
        with replacing_folder(out) as folder:
            for kind in ("image", "mask"):
                (folder / kind).mkdir()
            for done, view in enumerate(raw.views):
                table += _convert_view(view, folder, raw, skipped)
                if progress:
                    progress(done + 1, len(raw.views))
            if not table:
                raise DataError(f"{root}: none of its {len(raw.views)} images has a usable contour; nothing to convert")
            write_csv(folder / "cases.csv", table)
    except OSError as error:
        raise SinkError(f"cannot write the converted set to {out}: {error.strerror}; choose another folder") from None
    return {
        "images": len(table),
        "cases": len({row["case"] for row in table}),
        "splits": {split: sum(row["split"] == split for row in table) for split in ("train", "val")},
        "skipped": skipped,
        "faults": [{"file": fault.file, "what": fault.what} for fault in raw.faults],
    }


def _convert_view(view: View, folder: Path, raw: RawSet, skipped: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Writes the images and masks of one file; returns their rows of the table."""

    def skip(part: str, why: str) -> None:
        skipped.append({"file": view.image.name + (f" {part}" if part else ""), "why": why})

    if not view.contours:
        skip("", "no usable contour")
        return []
    try:
        gray = read_gray(view.image)
    except DataError:
        skip("", "not a readable image")
        return []
    height, width = gray.shape
    inside = [c for c in view.contours if _overshoot(c, gray.shape) <= OUTSIDE]
    if len(inside) < len(view.contours):
        what = f"view {view.view}: {len(view.contours) - len(inside)} contours leave the image of {width} x {height}"
        raw.faults.append(Fault(f"{view.case}.xml", what))
    mask = draw(inside, gray.shape)
    x = seam(gray)
    parts = {"full": slice(0, width)} if x is None else {"left": slice(0, x), "right": slice(x, width)}
    rows = []
    for part, columns in parts.items():
        pixels = int(np.count_nonzero(mask[:, columns]))
        if not pixels:
            skip(part, "no contour in this part")
            continue
        name = f"{view.case}_{view.view}" + ("" if part == "full" else f"-{part}")
        for kind, values in (("image", gray), ("mask", mask)):
            encoded = cv2.imencode(".png", values[:, columns])[1].tobytes()
            (folder / kind / f"{name}.png").write_bytes(encoded)
        row = {"image": name, "case": view.case, "view": view.view, "part": part, "split": held_back(view.case)}
        rows.append({**row, "mask_pixels": pixels, "raw": view.image.name, **raw.fields[view.case]})
    return rows


def _overshoot(points: Contour, shape: tuple[int, ...]) -> float:
    """By how many pixels a contour leaves an image of the given height and width."""
    ends = np.array([shape[1] - 1, shape[0] - 1], np.float32)
    return float(max((-points).max(), (points - ends).max()))
