"""Which files of a folder are images, and which masks belong to them: the layouts of public ultrasound sets.

    {trainval,test}-{image,mask}/     TN3K, also the synthetic set (with {trainval,test}-gland/ beside)
    thyroid-{image,mask}/             TG3K: the masks are gland masks
    image/ mask/                      DDTI (processed or converted) and any image/mask folder
    benign/ malignant/ normal/        BUSI as published: `benign (1).png`, `benign (1)_mask.png`, `..._mask_1.png`

Nothing is decoded here. A `cases.csv` beside the last three says which case an image belongs to, and its split.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ssmt_edge.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
BUSI_CLASSES = ("benign", "malignant", "normal")
MaskFiles = Path | tuple[Path, ...]
"""one file, or several whose union is the mask"""
Layout = Literal["tn3k", "tg3k", "image/mask", "busi"]


@dataclass(frozen=True)
class Sample:
    """One image file with the masks that exist for it."""

    image: Path
    nodule: MaskFiles | None = None
    gland: MaskFiles | None = None
    case: str = ""
    """patient or case; images of one case never lie on both sides of a split"""
    split: str = "train"

    @property
    def name(self) -> str:
        return self.image.stem


@dataclass
class Listing:
    """The files of a data set, and what does not fit together."""

    layout: Layout
    samples: list[Sample] = field(default_factory=list)
    """every image, in a fixed order; split "" where the data set states none"""
    without_mask: list[tuple[Path, str]] = field(default_factory=list)
    """images that lack a mask, each with what was expected"""
    without_image: list[Path] = field(default_factory=list)
    """masks that belong to no image"""


def layout_of(root: Path) -> Layout | None:
    """The layout of a folder, None if it has none of them."""
    if (root / "trainval-image").is_dir() or (root / "test-image").is_dir():
        return "tn3k"
    if (root / "thyroid-image").is_dir():
        return "tg3k"
    if (root / "image").is_dir():
        return "image/mask"
    if any(next((root / name).glob("*_mask.*"), None) for name in BUSI_CLASSES):
        return "busi"
    return None


def list_files(root: Path, fold: int = 0) -> Listing | None:
    """Images and masks of a data set folder, None if it has no known layout.

    Args:
        root: the folder.
        fold: which of TN3K's fold files names the validation images.

    Raises:
        DataError: a fold file or a table of cases that makes no sense.
    """
    layout = layout_of(root)
    if layout is None:
        return None
    listing = Listing(layout)
    if layout == "tn3k":
        _tn3k(root, fold, listing)
    elif layout == "tg3k":
        _pair(root / "thyroid-image", root / "thyroid-mask", "gland", listing)
        held = _held_out(root / "tg3k-trainval.json", listing.samples, root / "thyroid-image")
        listing.samples = [replace(s, split="val" if i in held else "train") for i, s in enumerate(listing.samples)]
    elif layout == "image/mask":
        _pair(root / "image", root / "mask", "nodule", listing)
    else:
        _busi(root, listing)
    if layout != "tn3k":
        listing.samples = _with_cases(root / "cases.csv", listing.samples)
    return listing


def images_in(folder: Path) -> list[Path]:
    """Image files of one folder, numbered names in numerical order (TN3K's fold files count positions in it)."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    return sorted(files, key=lambda p: (0, int(p.stem), p.stem) if p.stem.isdecimal() else (1, 0, p.stem))


def fold_files(root: Path) -> list[int]:
    """Numbers of the fold files that a TN3K folder has, in order."""
    found = (re.fullmatch(r"tn3k-trainval-fold(\d+)", p.stem) for p in root.glob("tn3k-trainval-fold*.json"))
    return sorted(int(match[1]) for match in found if match)


def _pair(images: Path, masks: Path, kind: Literal["nodule", "gland"], listing: Listing) -> None:
    """Images and masks of the same stem."""
    by_stem = {p.stem: p for p in images_in(masks)} if masks.is_dir() else {}
    files = images_in(images)
    for image in files:
        mask = by_stem.get(image.stem)
        if mask is None:
            listing.without_mask.append((image, f"{kind} mask in {masks}"))
        nodule, gland = (mask, None) if kind == "nodule" else (None, mask)
        listing.samples.append(Sample(image, nodule, gland, image.stem, ""))
    stems = {p.stem for p in files}
    listing.without_image += [mask for stem, mask in by_stem.items() if stem not in stems]


def _held_out(path: Path, samples: Sequence[Sample], folder: Path) -> set[int]:
    """Validation positions of a file {"train": [int], "val": [int]}; empty if there is no such file."""
    if not path.is_file():
        return set()
    try:
        held = {int(i) for i in json.loads(path.read_text())["val"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f'{path} is not a fold file {{"train": [int], "val": [int]}}: {error}') from None
    if held and max(held) >= len(samples):  # positions would name other images than meant
        raise DataError(f"{path} lists position {max(held)}, but {folder} holds {len(samples)} images; complete it")
    return held


def _tn3k(root: Path, fold: int, listing: Listing) -> None:
    fold_file = root / f"tn3k-trainval-fold{fold}.json"
    if fold and not fold_file.is_file():
        has = ", ".join(map(str, fold_files(root))) or "none"
        raise DataError(f"{root} has no fold file {fold_file.name}; it has folds: {has}")
    for part in ("trainval", "test"):
        folder = root / f"{part}-image"
        if not folder.is_dir():
            continue
        before = len(listing.samples)
        _pair(folder, root / f"{part}-mask", "nodule", listing)
        samples = listing.samples[before:]
        held = _held_out(fold_file, samples, folder) if part == "trainval" else set()
        glands = root / f"{part}-gland"
        gland = {p.stem: p for p in images_in(glands)} if glands.is_dir() else {}
        for position, sample in enumerate(samples):
            split = "test" if part == "test" else "val" if position in held else "train" if held else ""
            # trainval and test share file names, and are different patients
            listing.samples[before + position] = replace(
                sample, gland=gland.get(sample.name), case=f"{part}-{sample.name}", split=split
            )
        stems = {s.name for s in samples}
        listing.without_image += [mask for stem, mask in gland.items() if stem not in stems]


def _busi(root: Path, listing: Listing) -> None:
    for name in BUSI_CLASSES:
        files = images_in(root / name) if (root / name).is_dir() else []
        masks: dict[str, list[Path]] = {}
        for path in files:
            if match := is_busi_mask(path):
                masks.setdefault(match[1], []).append(path)
        images = [path for path in files if not is_busi_mask(path)]
        for image in images:
            found = masks.pop(image.stem, [])
            if not found:
                listing.without_mask.append((image, f"{image.stem}_mask.png beside it"))
            nodule: MaskFiles | None = None if not found else found[0] if len(found) == 1 else tuple(found)
            listing.samples.append(Sample(image, nodule, None, image.stem, ""))
        listing.without_image += [path for orphans in masks.values() for path in orphans]


def is_busi_mask(path: Path) -> re.Match[str] | None:
    """Whether a file is named like one of BUSI's masks; group 1 is the image's stem."""
    return re.fullmatch(r"(.+)_mask(?:_\d+)?", path.stem)


def _with_cases(table: Path, samples: list[Sample]) -> list[Sample]:
    """The samples with the cases and splits that the table states."""
    if not table.is_file():
        return samples
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:  # Excel starts the file with a byte order mark
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} is not a CSV file in UTF-8: {error}") from None
    stated = {}
    for row in rows:
        if not {"image", "case", "split"} <= row.keys():
            raise DataError(f"{table} lacks a column; expected image, case and split")
        if row["split"] not in ("train", "val", "test", "", None):
            raise DataError(f"{table} puts {row['image']} into split {row['split']!r}; expected train, val or test")
        stated[row["image"]] = (row["case"] or row["image"], row["split"] or "")
    unstated = [(s.case, s.split) for s in samples]
    pairs = [stated.get(s.name, other) for s, other in zip(samples, unstated, strict=True)]
    return [replace(s, case=case, split=split) for s, (case, split) in zip(samples, pairs, strict=True)]
