"""Synthetic scanner screens: phantoms in a linear, trapezoid or convex scan area, among text, rulers, bars and logos.

The true scan area is known, so that finding it can be measured (`ssmt_edge.scan_area`). A sketch of what scanners show,
not the screen of a certain product; all names and figures in it are made up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.bmode import PROBES, Field, Mask
from ssmt_edge.geometry import Gray
from ssmt_edge.phantom import phantom

Kind = Literal["linear", "trapezoid", "convex"]
KINDS: tuple[Kind, ...] = ("linear", "trapezoid", "convex")
SIZES = ((640, 480), (720, 576), (800, 600), (1024, 768), (1280, 720), (1280, 960), (1920, 1080))
"""width and height of a screen, pixels"""

HEAD = ("SYNTHETIC ULTRASOUND", "PHANTOM 0042", "ID 000-000", "THYROID R", "NO PATIENT", "MI 0.9 TIs 0.3", "12:34:56")
FIGURES = ("P 100", "12L6", "9.0", "31 fps", "DR 65", "2DG 96", "FR 42Hz", "D 4.0cm", "G 58", "XBeam 3", "Map D")


@dataclass(frozen=True)
class Screen:
    """The first frames of a synthetic stream."""

    frames: list[Gray]
    """uint8 [H, W] each; text and rulers stand still, tissue moves a little"""
    area: Mask
    """bool [H, W], the true scan area"""
    nodule: Mask
    """bool [H, W], nodules of the first frame"""
    kind: Kind


@dataclass(frozen=True)
class _Beams:
    """Where every pixel of the screen lies among the beams; outside the scan area without meaning."""

    across: Field
    """[H, W], 0 at the first beam, 1 at the last"""
    down: Field
    """[H, W], 0 at the probe, 1 at the imaging depth"""
    area: Mask
    """[H, W]"""


def screen(rng: np.random.Generator, kind: Kind, count: int = 8, size: tuple[int, int] | None = None) -> Screen:
    """The first frames of a synthetic stream; the same generator state gives the same frames.

    Args:
        rng: source of every random choice.
        kind: form of the scan area.
        count: frames, 1 or more.
        size: width and height in pixels, at least 320 x 240; drawn from `SIZES` by default.
    """
    width, height = size or SIZES[int(rng.integers(len(SIZES)))]
    beams = _beams(rng, kind, width, height)
    probe = PROBES["linear-7MHz" if kind == "convex" else "linear-12MHz"]
    source = phantom(rng, (400, 480), probe)
    tissue = _contact(rng, source.image)
    ground = int(rng.choice(np.array([0, 0, 0, 3, 16, 34])))
    still = _Furniture(rng, beams.area, ground).image
    gain, reject, noise = rng.uniform(0.5, 1.5), rng.uniform(0.0, 14.0), rng.uniform(1.5, 5.0)
    drift = rng.normal(0.0, 0.004, 2)
    frames, nodule = [], np.zeros((height, width), np.bool_)
    quality = int(rng.integers(70, 96)) if rng.random() < 0.4 else None
    for i in range(count):
        shown = _converted(tissue, beams, drift * i).astype(np.float32) * gain - reject
        shown += noise * rng.standard_normal(shown.shape, np.float32)
        frame = np.where(beams.area, np.clip(shown, 0, 255), ground).astype(np.uint8)
        frame = np.maximum(frame, still) if ground == 0 else np.where(still > 0, still, frame).astype(np.uint8)
        if quality is not None:
            coded = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            frame = cast(Gray, cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE))
        frames.append(frame)
        if i == 0:
            nodule = (_converted(source.nodule.astype(np.uint8), beams, drift * 0) > 0) & beams.area
    return Screen(frames, beams.area, nodule, kind)


def _beams(rng: np.random.Generator, kind: Kind, width: int, height: int) -> _Beams:
    """A scan area that leaves room for text at the top or bottom and on at least one side."""
    deep = height * rng.uniform(0.62, 0.88)
    top = rng.uniform(0.0, height - deep) if rng.random() < 0.85 else 0.0
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    y -= top
    if kind == "linear":
        wide = min(deep * rng.uniform(0.7, 1.35), 0.78 * width)
        x -= rng.uniform(0.1 * width, 0.95 * width - wide)
        across, down = x / wide, y / deep
    else:
        half = np.deg2rad(rng.uniform(22.0, 37.0) if kind == "convex" else rng.uniform(7.0, 17.0))
        share = rng.uniform(0.25, 0.5)  # of the depth below the apex that lies above the probe's face
        if kind == "trapezoid":
            face = deep * rng.uniform(0.6, 1.0)
            above = face / 2 / np.tan(half)
            reach = above + deep
        else:
            reach = deep / (1 - share * np.cos(half))
            above = share * reach
        spread = reach * np.sin(half)
        play = max(0.46 * width - spread, 0.0)  # a wide sector is cut off by the sides of the screen
        middle = width / 2 + rng.uniform(-play, play)
        x -= middle
        below = y + (above * np.cos(half) if kind == "convex" else above)  # from the apex
        angle, radius = np.arctan2(x, below), np.hypot(x, below)
        across = angle / (2 * half) + 0.5
        down = (radius - above) / (reach - above)
        if kind == "trapezoid":  # a flat face; the end of the beams is flat on some scanners
            flat_end = rng.random() < 0.5
            face_at = above / np.cos(angle)
            end_at = reach / np.cos(angle) if flat_end else np.full_like(angle, reach)
            down = (radius - face_at) / (end_at - face_at)
        if kind == "convex" and rng.random() < 0.2:  # the screen's window cuts off the corners
            cut = np.abs(x) > spread * rng.uniform(0.75, 0.95)
            across = np.where(cut, 2.0, across)
    area = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
    return _Beams(across.astype(np.float32), down.astype(np.float32), area)


def _contact(rng: np.random.Generator, tissue: Gray) -> Gray:
    """The phantom [depth, beams], on some screens with beams at one or both ends in bad contact, or losing depth."""
    height, width = tissue.shape
    weight = np.ones((height, width), np.float32)
    across = np.linspace(0.0, 1.0, width, dtype=np.float32)[None, :]
    down = np.linspace(0.0, 1.0, height, dtype=np.float32)[:, None]
    for side in (across, 1 - across):
        if rng.random() < 0.3:
            reach = rng.uniform(0.05, 0.2)
            lost = np.clip((reach - side) / 0.06 + 0.5, 0, 1) * np.clip((down - rng.uniform(0.05, 0.4)) / 0.1, 0, 1)
            weight *= 1 - lost * rng.uniform(0.8, 1.0)
    for _ in range(int(rng.integers(0, 3))):  # shadows
        at, wide, start = rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.1), rng.uniform(0.1, 0.6)
        below = np.clip((down - start) / 0.05, 0, 1)
        weight *= 1 - rng.uniform(0.6, 1.0) * np.exp(-(((across - at) / wide) ** 4)) * below
    if rng.random() < 0.3:  # penetration ends, at another depth in every beam
        ends = rng.uniform(0.7, 1.0) + 0.06 * np.interp(across, np.linspace(0, 1, 8), rng.normal(size=8))
        weight *= 1 - 0.85 * np.clip((down - ends) / 0.15, 0, 1)
    return cast(Gray, (tissue * weight).astype(np.uint8))


def _converted(values: Gray, beams: _Beams, shift: NDArray[Any]) -> Gray:
    """Beams [depth, beams] on the screen, moved by a share of the width and of the depth."""
    height, width = values.shape
    columns = (beams.across + np.float32(shift[0])) * (width - 1)
    rows = (beams.down + np.float32(shift[1])) * (height - 1)
    return cast(Gray, cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


class _Furniture:
    """Everything around a scan area, drawn on black: text, rulers, marks; some of it touches the area."""

    def __init__(self, rng: np.random.Generator, area: Mask, ground: int) -> None:
        self.rng, self.area, self.ground = rng, area, ground
        self.height, self.width = area.shape
        self.unit = self.height / 480
        self.line = max(1, round(self.unit))
        self.bright = int(rng.integers(150, 256))
        self.image: Gray = np.zeros(area.shape, np.uint8)
        self.x, self.y, self.w, self.h = cv2.boundingRect(area.astype(np.uint8))
        self.words()
        self.bar()
        self.ruler()
        for draw in (self.focus, self.logo, self.thumbnail, self.buttons, self.gain_curve):
            if rng.random() < 0.5:
                draw()

    def text(self, words: str, x: float, y: float, scale: float) -> None:
        place, font = (round(x), round(y)), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(self.image, words, place, font, scale * self.unit, self.bright, self.line, cv2.LINE_AA)

    def some(self, words: Sequence[str], count: int) -> list[str]:
        return [str(word) for word in self.rng.permutation(np.array(words))[:count]]

    def free(self, rows: slice, columns: slice) -> bool:
        return not self.area[rows, columns].any()

    def words(self) -> None:
        """A line at the top or bottom of the screen, one below the area, a column of figures beside it."""
        unit, rng = self.unit, self.rng
        line = 14 * unit if self.y > 18 * unit else self.height - 8 * unit
        for i, words in enumerate(self.some(HEAD, int(rng.integers(1, 4)))):
            self.text(words, (0.02 + 0.3 * i) * self.width, line, 0.45)
        end = self.y + self.h
        if self.height - end > 22 * unit:
            self.text(self.some(HEAD, 1)[0], self.x + 0.1 * self.w, end + 18 * unit, rng.uniform(0.4, 0.7))
        right, left = self.width - self.x - self.w, self.x
        if max(left, right) > 70 * unit:
            column = self.x + self.w + 0.3 * (right - 60 * unit) if right > left else 0.3 * (left - 60 * unit)
            step = rng.uniform(12.0, 20.0) * unit
            for i, words in enumerate(self.some(FIGURES, int(rng.integers(4, 12)))):
                self.text(words, max(column, 2), 30 * unit + (i + 1) * step, 0.35)

    def bar(self) -> None:
        """The bar of gray levels at one side of the screen."""
        thick, tall = round(self.rng.uniform(7, 16) * self.unit), round(self.rng.uniform(0.25, 0.6) * self.height)
        margin = round(6 * self.unit)
        left = int(self.rng.choice(np.array([margin, self.width - margin - thick])))
        rows, columns = slice(round(0.3 * self.height), round(0.3 * self.height) + tall), slice(left, left + thick)
        if self.free(slice(None), columns):
            self.image[rows, columns] = np.linspace(255, self.ground, tall).astype(np.uint8)[:, None]

    def ruler(self) -> None:
        """Ticks of depth on one side of the area, and the mark of the probe's orientation above it."""
        gap = self.rng.uniform(0.0, 10.0) * self.unit
        start, way = (self.x - gap, -1) if self.rng.random() < 0.5 else (self.x + self.w + gap, 1)
        for i in range(int(self.rng.integers(6, 21))):
            y, long = round(self.y + self.h * i / 10), (8 if i % 5 == 0 else 4) * self.unit
            cv2.line(self.image, (round(start), y), (round(start + way * long), y), self.bright, self.line)
        if self.y > 12 * self.unit:
            at = round(self.x + 0.2 * self.w), round(self.y - 7 * self.unit)
            cv2.circle(self.image, at, round(4 * self.unit), self.bright, -1)

    def focus(self) -> None:
        x, y, unit = self.x + self.w + 14 * self.unit, self.y + self.rng.uniform(0.2, 0.8) * self.h, self.unit
        corners = [(x, y), (x + 8 * unit, y - 5 * unit), (x + 8 * unit, y + 5 * unit)]
        cv2.fillPoly(self.image, [np.round(corners).astype(np.int32)], self.bright)

    def logo(self) -> None:
        unit, x, y = self.unit, round(self.width - 40 * self.unit), round(26 * self.unit)
        if self.free(slice(0, round(50 * unit)), slice(round(self.width - 75 * unit), self.width)):
            cv2.ellipse(self.image, (x, y), (round(26 * unit), round(14 * unit)), 0, 0, 360, self.bright, -1)
            cv2.putText(self.image, "US", (x - round(10 * unit), y + round(5 * unit)), 2, 0.5 * unit, 0, 1)

    def thumbnail(self) -> None:
        """A small picture of another view in a lower corner."""
        tall, wide = round(self.rng.uniform(50, 80) * self.unit), round(self.rng.uniform(50, 90) * self.unit)
        rows = slice(self.height - tall, self.height)
        for columns in (slice(0, wide), slice(self.width - wide, self.width)):
            if self.free(rows, columns):
                self.image[rows, columns] = np.maximum(1, cv2.resize(phantom(self.rng, (64, 64)).image, (wide, tall)))
                return

    def buttons(self) -> None:
        top, unit = round(self.height - 22 * self.unit), self.unit
        if self.free(slice(top, self.height), slice(None)):
            for i in range(6):
                left = round((0.2 + 0.1 * i) * self.width)
                corner = left + round(0.08 * self.width), top + round(16 * unit)
                cv2.rectangle(self.image, (left, top), corner, 70, -1)
                cv2.putText(self.image, f"F{i}", (left + 4, top + round(12 * unit)), 0, 0.35 * unit, 230, 1)

    def gain_curve(self) -> None:
        rows = np.linspace(self.y, self.y + self.h, 12)
        points = np.stack([self.x + self.w + (20 + 12 * np.sin(rows / self.h * 3)) * self.unit, rows], axis=1)
        cv2.polylines(self.image, [np.round(points).astype(np.int32)], False, self.bright // 2, 1, cv2.LINE_AA)
