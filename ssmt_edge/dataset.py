"""Labelled and unlabelled image folders in the layouts of TN3K, TG3K, DDTI and the synthetic set.

A `Sample` names files; nothing is decoded until `read_gray` / `read_mask`. The layout is told from the folders:

    {trainval,test}-{image,mask}/     TN3K, also the synthetic set (with {trainval,test}-gland/ beside)
    thyroid-{image,mask}/             TG3K: the masks are gland masks
    image/ mask/ [cases.csv]          DDTI (processed) and any image/mask folder
    *.png, *.jpg                      unlabelled images, searched recursively
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import DataError, UsageError
from ssmt_edge.geometry import Gray

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True)
class Sample:
    """One image file with the masks that exist for it."""

    image: Path
    nodule: Path | None = None
    gland: Path | None = None
    case: str = ""
    """patient or case; images of one case never lie on both sides of a split"""
    split: str = "train"

    @property
    def name(self) -> str:
        return self.image.stem


def read_gray(path: Path) -> Gray:
    """uint8 gray [H, W]; DataError if the file is no readable image."""
    try:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        image = None
    if image is None:
        raise DataError(f"{path} is not a readable image; remove or replace it")
    return cast(Gray, image)


def read_mask(path: Path, image_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """bool [H, W], value > 127 (JPEG masks have soft edges); DataError if it does not fit the image."""
    mask = read_gray(path)
    if mask.shape != image_shape[:2]:
        raise DataError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]}, but its image is {image_shape[1]} x {image_shape[0]}; "
            "image and mask must have the same size"
        )
    return mask > 127


def _images(folder: Path) -> list[Path]:
    """Image files of one folder, numbered names in numerical order (TN3K's fold files count positions in it)."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=lambda p: (0, int(p.stem), p.stem) if p.stem.isdecimal() else (1, 0, p.stem))


def _pairs(images: Path, masks: Path, kind: str) -> list[tuple[Path, Path]]:
    by_stem = {p.stem: p for p in _images(masks)} if masks.is_dir() else {}
    pairs = []
    for image in _images(images):
        if image.stem not in by_stem:
            raise DataError(f"{image} has no {kind} mask in {masks}; add the mask or remove the image")
        pairs.append((image, by_stem[image.stem]))
    return pairs


def _tn3k(root: Path) -> list[Sample]:
    samples = []
    folds = {}
    fold = root / "tn3k-trainval-fold0.json"
    if fold.is_file():
        try:
            content = json.loads(fold.read_text())
            folds = {int(i): "val" for i in content["val"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{fold} is not a fold file {{"train": [int], "val": [int]}}: {error}') from None
    for part in ("trainval", "test"):
        folder = root / f"{part}-image"
        if not folder.is_dir():
            continue
        glands = root / f"{part}-gland"
        gland = {p.stem: p for p in _images(glands)} if glands.is_dir() else {}
        pairs = _pairs(folder, root / f"{part}-mask", "nodule")
        if part == "trainval" and folds and max(folds) >= len(pairs):  # positions would name other images than meant
            raise DataError(f"{fold} lists position {max(folds)}, but {folder} holds {len(pairs)} images; complete it")
        for position, (image, mask) in enumerate(pairs):
            split = "test" if part == "test" else folds.get(position, "train")
            samples.append(Sample(image, mask, gland.get(image.stem), f"{part}-{image.stem}", split))
    return samples


def _tg3k(root: Path) -> list[Sample]:
    pairs = _pairs(root / "thyroid-image", root / "thyroid-mask", "gland")
    samples = [Sample(image, None, mask, image.stem) for image, mask in pairs]
    split_file = root / "tg3k-trainval.json"
    if split_file.is_file():
        try:
            held = {int(i) for i in json.loads(split_file.read_text())["val"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f'{split_file} is not a split file {{"train": [int], "val": [int]}}: {error}') from None
        samples = [replace(s, split="val") if i in held else s for i, s in enumerate(samples)]
    return samples


def _image_mask(root: Path) -> list[Sample]:
    cases: dict[str, tuple[str, str]] = {}
    table = root / "cases.csv"
    if table.is_file():
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:  # Excel starts the file with a byte order mark
                rows = list(csv.DictReader(file))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table} is not a CSV file in UTF-8: {error}") from None
        for row in rows:
            if not {"image", "case", "split"} <= row.keys():
                raise DataError(f"{table} lacks a column; expected image, case and split")
            if row["split"] not in ("train", "val", "test", "", None):
                raise DataError(f"{table} puts {row['image']} into split {row['split']!r}; expected train, val or test")
            cases[row["image"]] = (row["case"] or row["image"], row["split"] or "")
    samples = []
    for image, mask in _pairs(root / "image", root / "mask", "nodule"):
        case, split = cases.get(image.stem, (image.stem, ""))
        samples.append(Sample(image, mask, None, case, split or held_back(case)))
    return samples


def held_back(case: str, share: float = 0.125) -> str:
    """`val` for a fixed pseudo-random share of cases, else `train`: for data sets that bring no split of their own."""
    value = int.from_bytes(hashlib.sha256(case.encode()).digest()[:4], "big") / 2**32
    return "val" if value < share else "train"


def in_fold(samples: Sequence[Sample], fold: int, folds: int) -> list[Sample]:
    """The samples split anew for cross-validation by case: those of `fold` become `val`, the others `train`.

    Cases in the order of their SHA-256 are dealt to the folds in turn, so a case's fold depends on nothing but the set
    of cases. A `test` split stays out of it.

    Raises:
        UsageError: `fold` is not one of 0..folds - 1, or there are fewer cases than folds.
    """
    cases = sorted({s.case for s in samples if s.split != "test"}, key=lambda c: hashlib.sha256(c.encode()).digest())
    if not 0 <= fold < folds or folds > len(cases):
        raise UsageError(
            f"fold {fold} of {folds}, expected 0..{folds - 1} and no more folds than the {len(cases)} cases"
        )
    held = set(cases[fold::folds])
    return [s if s.split == "test" else replace(s, split="val" if s.case in held else "train") for s in samples]


def with_labels(samples: Sequence[Sample], fraction: float, seed: int) -> list[Sample]:
    """The samples of a share of the cases, 0 < fraction <= 1; at least one case.

    The order of cases depends on the seed alone, so the 5 % set is part of the 10 % set.
    """
    cases = sorted({s.case for s in samples}, key=lambda c: hashlib.sha256(f"{seed}/{c}".encode()).digest())
    kept = set(cases[: max(1, round(fraction * len(cases)))])
    return [s for s in samples if s.case in kept]


def is_labelled(root: Path) -> bool:
    """Whether a folder has one of the labelled layouts."""
    return any((root / name).is_dir() for name in ("trainval-image", "test-image", "thyroid-image", "image"))


def parse_split(text: str) -> Split:
    """A split's name; UsageError lists the names for an unknown one."""
    if text not in get_args(Split):
        raise UsageError(f"split {text!r}, expected one of {', '.join(get_args(Split))}")
    return cast(Split, text)


def load_samples(root: Path, split: Split = "all") -> list[Sample]:
    """Labelled samples of a data set folder, in a fixed order.

    Raises DataError for a folder that is missing, in none of the layouts, without images in `split`, or with an image
    that has no mask.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of a data set")
    if (root / "trainval-image").is_dir() or (root / "test-image").is_dir():
        samples = _tn3k(root)
        # without a fold file a fixed share is held back for validation
        if not any(s.split == "val" for s in samples):
            samples = [s if s.split == "test" else replace(s, split=held_back(s.case)) for s in samples]
    elif (root / "thyroid-image").is_dir():
        samples = _tg3k(root)
    elif (root / "image").is_dir():
        samples = _image_mask(root)
    else:
        raise DataError(
            f"{root} holds no data set: expected image/ and mask/ (DDTI), trainval-image/ and trainval-mask/ (TN3K) "
            "or thyroid-image/ and thyroid-mask/ (TG3K)"
        )
    chosen = [s for s in samples if split == "all" or s.split == split]
    if not chosen:
        found = sorted({s.split for s in samples})
        raise DataError(f"{root} has no images in split {split!r}; it has {', '.join(found) or 'no images at all'}")
    return chosen


def load_unlabelled(roots: Sequence[Path]) -> list[Sample]:
    """Every image below the folders, in a fixed order. DataError if there is none.

    Sub-folders of masks are skipped: `mask`, `masks`, `gland` and names that end so (`trainval-mask`).
    """
    samples: list[Sample] = []
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; give a folder of images")
        found = [
            p
            for p in sorted(root.rglob("*"))
            if p.suffix.lower() in SUFFIXES
            and not p.name.startswith(".")
            and not any(part.endswith(("mask", "masks", "gland")) for part in p.relative_to(root).parts[:-1])
        ]
        if not found:
            raise DataError(f"{root} holds no images ({', '.join(SUFFIXES)})")
        samples += [Sample(p) for p in found]
    return samples


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts that a run prints and saves: images, cases, masks by task, empty nodule masks."""
    empty = sum(1 for s in samples if s.nodule and not (read_gray(s.nodule) > 127).any())
    return {
        "images": len(samples),
        "cases": len({s.case for s in samples}),
        "nodule_masks": sum(s.nodule is not None for s in samples),
        "empty_nodule_masks": empty,
        "gland_masks": sum(s.gland is not None for s in samples),
    }
