"""What goes over the wire: pictures and status to the page, and what the page may say, with its bounds.

A picture is one binary message: the length of its header (uint32, little endian), the header (JSON), the frame (JPEG).
Mask and lines travel as points, so that the page draws them as its user likes; points count from the picture's corner,
in frame pixels.
"""

from __future__ import annotations

import json
import math
import struct
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from ssmt_edge.measure import Nodule
from ssmt_edge.overlay import cut
from ssmt_edge.segment import Result
from ssmt_edge.sources import public_name
from ssmt_edge.viewer.feed import Feed, Point

LONGEST_SIDE = 1280
"""larger pictures are scaled down to it"""
JPEG_QUALITY = 85
CONTOURS = 200
"""pieces of a mask that are sent at most, the longest outlines first"""
SMALLEST_ROI = 16
"""pixels a side"""


@dataclass(frozen=True)
class Picture:
    """A result on its way to the pages; `data` is the same for all of them."""

    stream: int
    result: Result
    data: bytes


def encode(stream: int, result: Result, uncut: bool) -> Picture:
    """The message for one result; the frame is cut to its region unless `uncut`."""
    seen = result if uncut else cut(result)
    height, width = seen.pixels.shape[:2]
    header = {
        "stream": stream,
        "frame": result.frame,
        "size": [width, height],
        "origin": [0, 0] if uncut else [result.roi.x, result.roi.y],
        "contours": _contours(seen.mask),
        "nodules": [_nodule(i, nodule) for i, nodule in enumerate(seen.nodules)],
        "unlike": result.unlike,
    }
    text = json.dumps(_plain(header), allow_nan=False, separators=(",", ":")).encode()
    return Picture(stream, result, struct.pack("<I", len(text)) + text + _jpeg(seen.pixels))


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    image: Any = pixels
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if image.ndim == 3 and image.shape[2] == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return data.tobytes()


def _contours(mask: NDArray[np.bool_]) -> list[list[int]]:
    """x0, y0, x1, y1, ... of outlines and holes, to be filled by the even-odd rule; pixel centres."""
    found, _ = cv2.findContours(np.ascontiguousarray(mask).view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    longest = sorted(found, key=len, reverse=True)[:CONTOURS]
    return [cv2.approxPolyDP(points, 0.5, True).ravel().tolist() for points in longest]


def _nodule(place: int, nodule: Nodule) -> dict[str, Any]:
    in_mm = nodule.long_mm is not None
    return {
        "number": place + 1 if nodule.identity is None else nodule.identity,
        "long": nodule.long_mm if in_mm else nodule.long_px,
        "short": nodule.short_mm if in_mm else nodule.short_px,
        "area": nodule.area_mm2 if in_mm else nodule.area_px,
        "unit": "mm" if in_mm else "px",
        "probability": nodule.probability,
        "lines": [nodule.long_line, nodule.short_line],
    }


def status(feeds: list[Feed], speeds: list[float | None], points: list[list[Point]]) -> str:
    """How every stream does, as one JSON text."""
    streams = [_stream(*each) for each in zip(feeds, speeds, points, strict=True)]
    return json.dumps(_plain({"now": time.perf_counter(), "streams": streams}), allow_nan=False)


def _stream(feed: Feed, fps: float | None, points: list[Point]) -> dict[str, Any]:
    health, segmenter, newest = feed.context.health, feed.context.segmenter, feed.newest
    known = health is not None and health.latency.count
    return {
        "name": public_name(feed.context.source.name if feed.context.source else "") or f"stream {feed.number + 1}",
        "live": feed.live,
        "state": feed.state,
        "trouble": feed.trouble,
        "age": None if newest is None else time.perf_counter() - feed.arrived,
        "fps": fps,
        "p50": health.latency.percentile(50) if health and known else None,
        "p99": health.latency.percentile(99) if health and known else None,
        "dropped": health.dropped if health else None,
        "overruns": health.overruns if health else None,
        "threshold": segmenter.threshold if segmenter else None,
        "roi": None if newest is None else [newest.roi.x, newest.roi.y, newest.roi.width, newest.roi.height],
        "spacing": None if newest is None else newest.spacing_mm,
        "mm_per_pixel": segmenter.mm_per_pixel if segmenter else None,
        "recording": _recording(feed),
        "points": points,
    }


def _recording(feed: Feed) -> dict[str, Any] | None:
    recording = feed.recording
    if recording is None:
        return None
    return {
        "running": recording.running,
        "seconds": time.perf_counter() - recording.started,
        "frames": recording.frames,
        "missed": recording.missed,
        "errors": recording.errors,
        "files": [path.name for path in recording.paths],
    }


def _plain(value: Any) -> Any:
    """For JSON: floats of four decimals, None for NaN and infinity."""
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return value if value and isinstance(value[0], int) else [_plain(item) for item in value]
    return value


class _Said(BaseModel):
    """What a page says: exact types, finite numbers, no other fields."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


StreamNumber = Annotated[int, Field(ge=0, le=255)]


class OfStream(_Said):
    stream: StreamNumber


class SetThreshold(OfStream):
    threshold: float = Field(gt=0, lt=1)


class SetSpacing(OfStream):
    mm_per_pixel: float | None = Field(ge=1e-4, le=10)
    """None: what the source says"""


Position = Annotated[int, Field(ge=0, le=65535)]
Side = Annotated[int, Field(ge=SMALLEST_ROI, le=65535)]


class Box(_Said):
    x: Position
    y: Position
    width: Side
    height: Side


class SetRoi(OfStream):
    roi: Box | Literal["auto"]


class TakeSnapshot(OfStream):
    frame: int | None = Field(None, ge=0, le=2**53)
    """the one that the page shows; None for the newest"""


class SetRecording(OfStream):
    on: bool


class FromPage(_Said):
    """Over the WebSocket: `shown` acknowledges the oldest picture on its way, `watch` and `frozen` say what to send."""

    shown: bool | None = None
    """whether the acknowledged picture is on the screen now"""
    watch: list[StreamNumber] | None = Field(None, max_length=256)
    frozen: bool | None = None
