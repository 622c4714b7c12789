"""Labelled and unlabelled images as samples with a split, by case.

A `Sample` names files; nothing is decoded until `read_gray` / `read_mask`. Which folders are understood: `layouts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import DataError, UsageError
from ssmt_edge.geometry import Gray
from ssmt_edge.layouts import SUFFIXES, Listing, MaskFiles, Sample, fold_files, is_busi_mask, layout_of, list_files

__all__ = [
    "SUFFIXES",
    "Sample",
    "Split",
    "held_back",
    "in_fold",
    "is_labelled",
    "load_folded",
    "load_samples",
    "load_unlabelled",
    "parse_split",
    "read_gray",
    "read_listing",
    "read_mask",
    "summary",
    "to_mask",
    "with_labels",
]

Split = Literal["train", "val", "test", "all"]
LOSSY = (".jpg", ".jpeg")


def read_gray(path: Path) -> Gray:
    """uint8 gray [H, W]; DataError if the file is no readable image."""
    try:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # a header that promises more pixels than OpenCV takes
        image = None
    if image is None:
        raise DataError(f"{path} is not a readable image; remove or replace it")
    return cast(Gray, image)


def read_mask(files: MaskFiles, image_shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """bool [H, W], the union of the files as `to_mask` reads each; DataError if one does not fit the image."""
    together = np.zeros(image_shape[:2], np.bool_)
    for path in (files,) if isinstance(files, Path) else files:
        mask = read_gray(path)
        if mask.shape != image_shape[:2]:
            raise DataError(
                f"{path} is {mask.shape[1]} x {mask.shape[0]}, but its image is {image_shape[1]} x {image_shape[0]}; "
                "image and mask must have the same size"
            )
        together |= to_mask(mask, path)
    return together


def to_mask(gray: Gray, path: Path) -> NDArray[np.bool_]:
    """bool [H, W] of a mask file's gray values: > 127 (JPEG masks have soft edges), or == 1 in masks of 0 and 1.

    JPEG never counts as a mask of 0 and 1: a value of 1 in it is noise.
    """
    if path.suffix.lower() not in LOSSY and gray.max(initial=0) == 1:
        return cast("NDArray[np.bool_]", gray == 1)
    return gray > 127


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
    return layout_of(root) is not None


def parse_split(text: str) -> Split:
    """A split's name; UsageError lists the names for an unknown one."""
    if text not in get_args(Split):
        raise UsageError(f"split {text!r}, expected one of {', '.join(get_args(Split))}")
    return cast(Split, text)


def load_samples(root: Path, split: Split = "all", fold: int = 0) -> list[Sample]:
    """Labelled samples of a data set folder, in a fixed order.

    Args:
        root: folder in one of the layouts of `ssmt_edge.layouts`.
        split: which samples.
        fold: number of TN3K's fold file to split by; without any a fixed share of cases is held back.

    Raises:
        DataError: a folder that is missing, in none of the layouts, without images in `split`, or with an image that
            has no mask.
    """
    listing = read_listing(root, fold)
    if listing.without_mask:
        image, expected = listing.without_mask[0]
        raise DataError(f"{image} has no {expected}; add the mask or remove the image")
    chosen = [s for s in listing.samples if split == "all" or s.split == split]
    if not chosen:
        found = sorted({s.split for s in listing.samples})
        raise DataError(f"{root} has no images in split {split!r}; it has {', '.join(found) or 'no images at all'}")
    return chosen


def load_folded(root: Path, fold: int, folds: int) -> list[Sample]:
    """All labelled samples, split for cross-validation: by TN3K's fold files where there are several, else `in_fold`.

    Raises:
        UsageError: no such fold, or another number of folds than the data set's own.
        DataError: as `load_samples`.
    """
    own = fold_files(root)
    if len(own) > 1:  # a single one is a plain split, as phantoms have it
        if folds != len(own) or fold not in own:
            raise UsageError(
                f"fold {fold} of {folds}, but {root} brings its own folds {', '.join(map(str, own))}; ask for one of "
                f"{len(own)}"
            )
        return load_samples(root, fold=fold)
    return in_fold(load_samples(root), fold, folds)


def read_listing(root: Path, fold: int = 0) -> Listing:
    """Every file of a labelled data set, complete or not, with each sample's split decided.

    Raises:
        DataError: a folder that is missing or in none of the layouts, or a broken table of cases or folds.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give the folder of a data set")
    listing = list_files(root, fold)
    if listing is None and any(root.glob("*.xml")):
        raise DataError(f"{root} holds XML files; if it is DDTI as published, run: ssmt-edge data convert {root}")
    if listing is None:
        raise DataError(
            f"{root} holds no data set: expected image/ and mask/ (DDTI), trainval-image/ and trainval-mask/ (TN3K), "
            "thyroid-image/ and thyroid-mask/ (TG3K) or benign/, malignant/ and normal/ (BUSI)"
        )
    listing.samples = [s if s.split else replace(s, split=held_back(s.case)) for s in listing.samples]
    return listing


def load_unlabelled(roots: Sequence[Path]) -> list[Sample]:
    """Every image below the folders, in a fixed order. DataError if there is none.

    Sub-folders of masks are skipped: `mask`, `masks`, `gland` and names that end so (`trainval-mask`); so are files
    named like BUSI's masks (`benign (1)_mask.png`).
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
            and not is_busi_mask(p)
        ]
        if not found:
            raise DataError(f"{root} holds no images ({', '.join(SUFFIXES)})")
        samples += [Sample(p) for p in found]
    return samples


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Counts that a run prints and saves: images, cases, masks by task, empty nodule masks."""
    empty = sum(1 for s in samples if s.nodule and not _marked(s.nodule))
    return {
        "images": len(samples),
        "cases": len({s.case for s in samples}),
        "nodule_masks": sum(s.nodule is not None for s in samples),
        "empty_nodule_masks": empty,
        "gland_masks": sum(s.gland is not None for s in samples),
    }


def _marked(files: MaskFiles) -> bool:
    return any(to_mask(read_gray(p), p).any() for p in ((files,) if isinstance(files, Path) else files))
