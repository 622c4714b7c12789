"""Accuracy of anything behind the Engine protocol against labelled frames, in the frames' own pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import Sample, read_gray, read_mask
from ssmt_edge.errors import DataError
from ssmt_edge.geometry import Gray, Roi, input_roi, to_frame, to_input
from ssmt_edge.metrics import assd, counts, dice, hd95, iou, mean_of, share_outside, summarise
from ssmt_edge.reliability import Reliability
from ssmt_edge.spec import Engine
from ssmt_edge.unlike import unlike

THRESHOLDS = np.arange(0.20, 0.81, 0.05)
GLAND_LEVEL = 128  # probability 0.5: no threshold is chosen for the gland

Mask = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True)
class Seen:
    """What an engine makes of a labelled frame."""

    sample: Sample
    gray: Gray
    """uint8 [H, W]"""
    roi: Roi
    """the part of the frame that the network saw"""
    inputs: Gray
    """uint8 [S, S]"""
    outputs: dict[str, NDArray[Any]]
    """of the engine, for this one frame"""
    probability: Gray
    """of the nodule, x 255, [H, W]; 0 outside `roi`"""


def observe(engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] = lambda: None) -> Iterator[Seen]:
    """Each sample with the engine's outputs. DataError if an image is unreadable."""
    spec = engine.spec
    for sample in samples:
        gray = read_gray(sample.image)
        roi = input_roi([gray], spec)
        inputs = to_input(gray, roi, spec)
        outputs = engine.infer(inputs[None, None])
        yield Seen(sample, gray, roi, inputs, outputs, to_frame(outputs["nodule"][0, 0], roi, gray.shape, spec))
        progress()


def evaluate(engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Every figure of docs/evaluation.md, as means over images, per image, and by nodule size.

    Args:
        engine: with its spec's threshold.
        samples: frames with a nodule mask each; gland masks are used where they exist and the engine has that output.
        progress: called once a frame.

    Returns:
        What `metrics.summarise` returns, and

        `calibration`: see `Reliability.summary`, over the pixels of the scan area;
        `size`: mean absolute errors of the nodule's share of the network's input, `mae_output` of the engine's own
        estimate (None without one) and `mae_mask` of its mask's area;
        `gland`: see `evaluate_gland`, None without labels or output;
        `unlike`: `median` and `share_above_1` over images, see `ssmt_edge.unlike`; None if the spec lacks it.

    Raises:
        DataError: an image or mask is unreadable, sizes differ, or a sample has no nodule mask.
    """
    _need_nodules(samples)
    level = threshold_level(engine.spec.threshold)
    rows: list[dict[str, Any]] = []
    glands = []
    reliability = Reliability()
    for seen in observe(engine, samples, progress):
        truth = _nodule_mask(seen)
        mask = seen.probability >= level
        reliability.add(seen.probability[seen.roi.slices], truth[seen.roi.slices])
        hit, false, missed = counts(mask, truth)
        row = {
            "image": seen.sample.name,
            "case": seen.sample.case,
            "dice": dice(mask, truth),
            "iou": iou(mask, truth),
            "hd95": hd95(mask, truth),
            "assd": assd(mask, truth),
            "area_fraction": float(truth.mean()),
            "true_positive": hit,
            "false_positive": false,
            "false_negative": missed,
            **_sizes(seen, truth, engine, level),
            "unlike": unlike(seen.inputs, engine.spec),
        }
        if gland := _gland_row(seen, engine):
            row |= gland
            glands.append({"case": seen.sample.case, **gland})
        rows.append(row)
    return {
        **summarise(rows),
        "calibration": reliability.summary(engine.spec.temperature),
        "size": {
            "mae_output": _mean_error(rows, "size_output"),
            "mae_mask": _mean_error(rows, "size_mask"),
            "mean_truth": float(np.mean([row["size_truth"] for row in rows])),
        },
        "gland": _summarise_gland(glands),
        "unlike": _summarise_unlike([row["unlike"] for row in rows]),
    }


def evaluate_gland(
    engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The gland's figures alone, for data sets without nodule masks (TG3K).

    Returns:
        `n` and the means, `..._sd` and `..._interval` of `dice`, `outside` (share of the predicted gland outside the
        true one) and `nodule_outside` (share of the predicted nodule outside the true gland; over images where one was
        predicted). A true nodule, where known, counts as part of the gland. `per_image` has `gland_dice`,
        `gland_outside` and `nodule_outside`.

    Raises:
        DataError: an image or mask is unreadable, sizes differ, a sample has no gland mask, or the engine does not
            give the gland.
    """
    rows: list[dict[str, Any]] = []
    for seen in observe(engine, samples, progress):
        gland = _gland_row(seen, engine)
        if gland is None:
            lack = "no mask" if seen.sample.gland is None else f"no gland from this {engine.spec.model}"
            raise DataError(f"{seen.sample.image}: {lack}; give masks of nodules, or of the gland and a network for it")
        rows.append({"image": seen.sample.name, "case": seen.sample.case, **gland})
    summary = _summarise_gland(rows)
    if summary is None:
        raise DataError("no images to evaluate, expected at least one")
    return {**summary, "per_image": [{k: _or_none(v) for k, v in row.items()} for row in rows]}


def choose_threshold(engine: Engine, samples: Sequence[Sample]) -> float:
    """The decision threshold of `THRESHOLDS` with the best mean Dice; the one nearest 0.5 if several are as good.

    Raises:
        DataError: see `evaluate`.
    """
    _need_nodules(samples)
    scores = np.zeros(len(THRESHOLDS))
    for seen in observe(engine, samples):
        truth = _nodule_mask(seen)
        scores += [dice(seen.probability >= threshold_level(t), truth) for t in THRESHOLDS]
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    return round(float(min(THRESHOLDS[best], key=lambda t: abs(t - 0.5))), 2)


def threshold_level(threshold: float) -> int:
    """The smallest uint8 probability that counts as foreground for a threshold of 0..1."""
    return max(1, round(threshold * 255))


def _need_nodules(samples: Sequence[Sample]) -> None:
    for sample in samples:
        if sample.nodule is None:
            raise DataError(f"{sample.image} has no nodule mask; evaluate needs one for every image of the split")


def _nodule_mask(seen: Seen) -> Mask:
    assert seen.sample.nodule is not None
    return read_mask(seen.sample.nodule, seen.gray.shape)


def _sizes(seen: Seen, truth: Mask, engine: Engine, level: int) -> dict[str, Any]:
    """The nodule's share of the network's input: true, estimated by the engine, and of its mask."""
    square = to_input(truth.astype(np.uint8) * 255, seen.roi, engine.spec) > 127
    estimate = seen.outputs.get("size")
    return {
        "size_truth": float(square.mean()),
        "size_output": None if estimate is None else float(estimate[0]),
        "size_mask": float((seen.outputs["nodule"][0, 0] >= level).mean()),
    }


def _mean_error(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    errors = [abs(row[name] - row["size_truth"]) for row in rows if row[name] is not None]
    return float(np.mean(errors)) if errors else None


def _gland_row(seen: Seen, engine: Engine) -> dict[str, Any] | None:
    """The gland's figures of one frame; None without a gland mask or output."""
    if seen.sample.gland is None or "gland" not in seen.outputs:
        return None
    truth = read_mask(seen.sample.gland, seen.gray.shape)
    mask = to_frame(seen.outputs["gland"][0, 0], seen.roi, seen.gray.shape, engine.spec) >= GLAND_LEVEL
    nodule = seen.probability >= threshold_level(engine.spec.threshold)
    # some data sets cut nodules out of the gland
    thyroid = truth | _nodule_mask(seen) if seen.sample.nodule else truth
    return {
        "gland_dice": dice(mask, truth),
        "gland_outside": share_outside(mask, thyroid),
        "nodule_outside": share_outside(nodule, thyroid),
    }


def _summarise_gland(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    summary: dict[str, Any] = {"n": len(rows)}
    for name in ("gland_dice", "gland_outside", "nodule_outside"):
        defined = [row for row in rows if not math.isnan(row[name])]
        summary |= mean_of(name.replace("gland_", ""), [r[name] for r in defined], [r["case"] for r in defined])
    return summary


def _summarise_unlike(scores: Sequence[float | None]) -> dict[str, Any] | None:
    known = [score for score in scores if score is not None]
    if not known:
        return None
    return {"median": float(np.median(known)), "share_above_1": float(np.mean(np.array(known) > 1))}


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
