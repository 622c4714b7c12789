"""What is wrong with data sets: files that cannot be used, and images that are in training and validation at once.

Every file is decoded once; what counts as a duplicate is in `likeness`.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssmt_edge import ddti
from ssmt_edge.dataset import LOSSY, held_back, load_unlabelled, read_listing, to_mask
from ssmt_edge.errors import DataError
from ssmt_edge.geometry import Gray
from ssmt_edge.layouts import MaskFiles, Sample, layout_of
from ssmt_edge.likeness import Fingerprint, alike, fingerprint

# what stops a training or falsifies its validation; the other kinds are for the user to judge
FAILING = ("case on both sides", "duplicates across splits", "unreadable", "image without mask", "mask of another size")


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    kind: str
    files: tuple[str, ...]
    what: str

    @property
    def fails(self) -> bool:
        return self.kind in FAILING


@dataclass(frozen=True)
class Seen:
    """What is kept of an image after it was decoded."""

    sample: Sample
    source: int
    """number of the data set"""
    print: Fingerprint


@dataclass
class _Set:
    """Tallies of one data set."""

    root: Path
    layout: str
    samples: list[Sample]
    sizes: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, Any]:
        splits = Counter(s.split for s in self.samples)
        order = [s for s in ("train", "val", "test", "unlabelled") if splits[s]]
        return {
            "root": str(self.root),
            "layout": self.layout,
            "images": len(self.samples),
            "cases": len({s.case for s in self.samples}),
            "splits": {split: splits[split] for split in order},
            "sizes": dict(self.sizes.most_common()),
            "nodule_masks": self.masks["nodule"],
            "gland_masks": self.masks["gland"],
            "empty_nodule_masks": self.empty["nodule"],
            "empty_gland_masks": self.empty["gland"],
            "mask_values": dict(self.values.most_common()),
        }


def audit(roots: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Looks at every file of the data sets, alone and against each other.

    Args:
        roots: folders in a labelled layout, DDTI as published, or folders of unlabelled images.
        progress: called with images done and images in all.

    Returns:
        {"ok": bool, "leakage": n, "sets": [counts by data set], "findings": [{"kind", "fails", "files", "what"}]},
        failing findings first. `leakage` counts findings that put the same image or case on both sides of a split;
        `ok` is False if any finding fails.

    Raises:
        DataError: a folder that is missing or holds no images, or a broken table of cases or folds.
    """
    findings: list[Finding] = []
    sets = [_open(root, findings) for root in roots]
    work = [(number, one, sample) for number, one in enumerate(sets) for sample in one.samples]
    seen: list[Seen] = []
    # decoding releases the interpreter's lock
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's opinions on size and metadata
        for done, (image, faults, tally) in enumerate(pool.map(lambda item: _look(item[2], item[0]), work)):
            findings += faults
            seen += [image] if image else []
            for counts, key in tally:
                getattr(work[done][1], counts)[key] += 1
            if progress:
                progress(done + 1, len(work))
    for one in sets:
        findings += _cases(one)
    findings += _duplicates(seen, [one.root for one in sets])
    findings.sort(key=lambda f: (not f.fails, FAILING.index(f.kind) if f.fails else 0, f.kind))
    return {
        "ok": not any(f.fails for f in findings),
        "leakage": sum(f.kind in FAILING[:2] for f in findings),
        "sets": [one.summary() for one in sets],
        "findings": [{"kind": f.kind, "fails": f.fails, "files": list(f.files), "what": f.what} for f in findings],
    }


def _open(root: Path, findings: list[Finding]) -> _Set:
    """The files of one data set; what does not fit together goes to `findings`."""
    if layout_of(root) is not None:
        listing = read_listing(root)
        if not listing.samples:
            raise DataError(f"{root} has no images at all")
        findings += [Finding("image without mask", (str(p),), f"has no {lack}") for p, lack in listing.without_mask]
        findings += [Finding("mask without image", (str(p),), "belongs to no image") for p in listing.without_image]
        return _Set(root, listing.layout, listing.samples)
    if ddti.is_raw(root):
        raw = ddti.read_raw(root)
        findings += [Finding("contours", (str(root / f.file),), f.what) for f in raw.faults]
        return _Set(root, "ddti-raw", [Sample(v.image, None, None, v.case, held_back(v.case)) for v in raw.views])
    images = [Sample(s.image, None, None, s.image.stem, "unlabelled") for s in load_unlabelled([root])]
    return _Set(root, "unlabelled", images)


def _look(sample: Sample, source: int) -> tuple[Seen | None, list[Finding], list[tuple[str, str]]]:
    """Decodes an image and its masks; returns also what to count, as (counter of `_Set`, key)."""
    findings: list[Finding] = []
    tally: list[tuple[str, str]] = []
    image: Gray | None = None
    try:
        image = decode(sample.image)
        tally.append(("sizes", f"{image.shape[1]}x{image.shape[0]}"))
    except DataError as error:
        findings.append(Finding("unreadable", (str(sample.image),), str(error)))
    for kind, files in (("nodule", sample.nodule), ("gland", sample.gland)):
        if files is not None:
            _look_at_masks(kind, files, image, findings, tally)
    return None if image is None else Seen(sample, source, fingerprint(image)), findings, tally


def _look_at_masks(
    kind: str, files: MaskFiles, image: Gray | None, findings: list[Finding], tally: list[tuple[str, str]]
) -> None:
    marked = False
    for path in (files,) if isinstance(files, Path) else files:
        try:
            mask = decode(path)
        except DataError as error:
            findings.append(Finding("unreadable", (str(path),), str(error)))
            return
        if image is not None and mask.shape != image.shape:
            sizes = f"{mask.shape[1]} x {mask.shape[0]}, its image {image.shape[1]} x {image.shape[0]}"
            findings.append(Finding("mask of another size", (str(path),), sizes))
        marked = marked or bool(to_mask(mask, path).any())
        name, oddity = _values(mask, path)
        tally.append(("values", name))
        if oddity:
            findings.append(Finding("mask values", (str(path),), oddity))
    tally.append(("masks", kind))
    if not marked:
        tally.append(("empty", kind))


def _values(mask: Gray, path: Path) -> tuple[str, str]:
    """Name of the set of a mask's values, and what is odd about it ("" if nothing is)."""
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    if set(values) <= {0, 255}:
        return "0 and 255", ""
    lossy = path.suffix.lower() in LOSSY
    if set(values) <= {0, 1} and not lossy:
        return "0 and 1", ""
    if values[-1] <= 127:
        return "no value above 127", f"its largest value is {values[-1]}, so it reads as empty: masks are > 127"
    if lossy:
        return "graded (JPEG)", ""
    between = int(((mask > 0) & (mask < 255)).sum())
    return "graded", f"{between} pixels are neither 0 nor 255; it is cut at > 127"


def decode(path: Path) -> Gray:
    """uint8 gray [H, W]; DataError also for a file that is cut off, of which OpenCV would return what is left."""
    try:
        with Image.open(path) as file:
            file.load()
            if file.mode in ("I;16", "I;16B", "I"):
                return (np.asarray(file).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
            return np.asarray(file.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), "").strip(" ':") or type(error).__name__
        raise DataError(f"not a complete image: {reason}") from None


def _cases(one: _Set) -> Iterable[Finding]:
    by_case: dict[str, list[Sample]] = defaultdict(list)
    for sample in one.samples:
        by_case[sample.case].append(sample)
    for case, samples in by_case.items():
        splits = sorted({s.split for s in samples})
        if len(splits) > 1:
            files = tuple(str(s.image) for s in samples)
            yield Finding("case on both sides", files, f"case {case} is in {' and '.join(splits)}")


def _duplicates(seen: list[Seen], roots: list[Path]) -> Iterable[Finding]:
    """Groups of images that are alike, each group one finding."""
    for group in alike([one.print for one in seen]):
        members = [seen[i] for i in group]
        samples = [one.sample for one in members]
        how = "the same pixels" if len({one.print.digest for one in members}) == 1 else "near-identical"
        splits = sorted({s.split for s in samples})
        sides = {"train" if s == "unlabelled" else s for s in splits}
        cases = {(one.source, one.sample.case) for one in members}
        places = sorted({one.source for one in members})
        kind = "duplicates across splits" if len(sides) > 1 else "duplicates"
        if kind == "duplicates" and len(places) > 1:
            kind = "duplicates across data sets"
        elif kind == "duplicates" and len(cases) == 1:
            kind = "near-identical views of one case"
        what = f"{how}, in {' and '.join(splits)}"
        if len(places) > 1:
            what += f" of {' and '.join(roots[i].name for i in places)}"
        what += f", {len(cases)} case" + ("s" if len(cases) > 1 else "")
        yield Finding(kind, tuple(str(s.image) for s in samples), what)
