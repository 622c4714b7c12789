"""`calibration.json`: the ranges of a graph's tensors on real frames, and what was decided on them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ssmt_edge.errors import CalibrationError
from ssmt_edge.files import write_json
from ssmt_edge.spec import from_dict

METHODS = ("minmax", "percentile", "entropy")
VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """`calibration.json`: ranges of one graph's tensors on real frames, valid for one checkpoint."""

    checkpoint_sha256: str
    method: str
    """whose ranges are used, one of METHODS"""
    frames: int
    """distinct frames that the ranges were measured on"""
    frames_sha256: str
    """digest of these frames as network input"""
    source: str
    ranges: dict[str, tuple[float, float]]
    """lowest and highest value of each FP32 tensor, by its name in the graph"""
    clipped: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    """by method other than minmax: ranges of the tensors around layers, without their rarest values"""
    synthetic: bool = False
    """measured on phantoms: good enough for fp16, never for int8"""
    kept: tuple[str, ...] = ()
    """layers that INT8 leaves alone, see `engines.sensitivity`"""
    phantoms: float = 1.0
    """agreement on phantoms of the engine that passed the gate on real frames with these ranges: what a build without
    frames asks for, less the accepted loss"""
    version: int = VERSION

    def chosen(self) -> dict[str, tuple[float, float]]:
        """Ranges of `method`; the measured extremes for tensors that it says nothing of."""
        return {**self.ranges, **self.clipped.get(self.method, {})}

    def methods(self) -> list[str]:
        """Methods that this file has ranges of."""
        return ["minmax", *(name for name in METHODS if name in self.clipped)]

    def by(self, method: str) -> Calibration:
        """The same with the ranges of another method; CalibrationError if it has none."""
        if method not in self.methods():
            raise CalibrationError(
                f"the calibration holds ranges by {', '.join(self.methods())}, not by {method}; calibrate on frames "
                "again, or use one of these"
            )
        return replace(self, method=method)

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def load_calibration(path: Path, checkpoint_sha256: str) -> Calibration:
    """Reads a `calibration.json`; CalibrationError if damaged, of another version, or made for other weights."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise ValueError(f"expected an object of version {VERSION}")
        values["ranges"] = _pairs(values["ranges"])
        values["clipped"] = {method: _pairs(ranges) for method, ranges in values.get("clipped", {}).items()}
        if values.get("method") not in ("minmax", *values["clipped"]) or not {*values["clipped"]} <= {*METHODS}:
            raise ValueError(f"method {values.get('method')!r}, expected one of {', '.join(METHODS)} with its ranges")
        calibration = from_dict(Calibration, values)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CalibrationError(f"{path} is not a calibration file ({error}); calibrate on frames again") from None
    if calibration.checkpoint_sha256 != checkpoint_sha256:
        raise CalibrationError(
            f"{path} was made for the checkpoint {calibration.checkpoint_sha256[:12]}, this graph comes from "
            f"{checkpoint_sha256[:12]}; calibrate on frames again"
        )
    return calibration


def _pairs(ranges: Any) -> dict[str, tuple[float, float]]:
    """Ranges from JSON; ValueError for one that cannot be meant."""
    pairs = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
    for name, (low, high) in pairs.items():
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(f"range {low} to {high} of {name}")
    return pairs
