"""The acoustics of a synthetic B-mode frame: maps of the tissue, and the frame a scanner would make of them.

A sketch of the physics: complex random scatterers times local reflectivity, interfaces that reflect in phase,
attenuation along the beam, a separable point-spread function that widens away from the focus, noise that is amplified
with depth, spatial compounding, log compression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray

Mask = NDArray[np.bool_]  # [H, W]
Field = NDArray[np.float32]  # [H, W], or [W] for curves


@dataclass(frozen=True)
class Probe:
    """What a transducer and its setting change in a frame. Everything else follows from the frequency."""

    mhz: float
    """centre frequency"""
    depth: tuple[float, float]
    """imaging depth in mm is drawn from this range"""
    radius: tuple[float, float] | None = None
    """radius of a convex face in mm is drawn from this range; None: a linear array"""

    @property
    def coarseness(self) -> float:
        """Wavelength against that at 12 MHz: the sizes of pulse and beam go with it."""
        return 12.0 / self.mhz


PROBES = {
    "linear-12MHz": Probe(12.0, (34.0, 48.0)),
    "linear-7MHz": Probe(7.0, (40.0, 58.0)),
    "convex-5MHz": Probe(5.0, (50.0, 75.0), (50.0, 60.0)),
}
DEFAULT_PROBE = PROBES["linear-12MHz"]


class Tissue:
    """Acoustic maps of a frame on its pixel grid, which organs are painted on; the imaging depth is drawn at random."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], probe: Probe = DEFAULT_PROBE) -> None:
        self.rng = rng
        self.probe = probe
        self.height, self.width = size
        self.mm = rng.uniform(*probe.depth) / self.height  # a pixel's side; the height is the imaging depth
        self.wide, self.deep = self.width * self.mm, self.height * self.mm
        self.z: Field = ((np.arange(self.height, dtype=np.float32) + 0.5) * self.mm)[:, None]
        self.echo: Field = np.zeros(size, np.float32)
        """backscatter, dB; 0 is normal gland"""
        self.loss: Field = np.zeros(size, np.float32)
        """attenuation there and back beyond what time-gain compensation restores, dB/mm"""
        self.mirror: Field = np.zeros(size, np.float32)
        """amplitude of smooth interfaces, which reflect in phase; 1 is the amplitude of normal gland"""

    def noise(self, along_x: float, along_z: float) -> Field:
        """Smooth random field [H, W] of about unit variance with grains of the given size in mm."""
        cells = (max(2, round(self.deep / along_z) + 1), max(2, round(self.wide / along_x) + 1))
        grains = self.rng.standard_normal(cells, np.float32)
        # interpolation between grains takes some of the variance
        return cast(Field, cv2.resize(1.3 * grains, (self.width, self.height), interpolation=cv2.INTER_CUBIC))

    def curve(self, along_x: float) -> Field:
        """Smooth random curve [W] of about unit variance."""
        return cast(Field, self.noise(along_x, 2 * self.deep)[0])

    def blob(self, at: tuple[float, float], radii: tuple[float, float], rough: float, tilt: float = 0.0) -> Mask:
        """An ellipse (mm) whose radius varies by the share `rough`, smoothly around it."""
        angle = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
        radius = np.ones_like(angle)
        for k in range(2, 7):
            radius += rough * self.rng.normal() / k**0.5 * np.cos(k * angle + self.rng.uniform(0, 2 * np.pi)) / 1.5
        radius = np.clip(radius, 0.6, 1.4)
        u, v = radii[0] * radius * np.cos(angle), radii[1] * radius * np.sin(angle)
        x = at[0] + u * np.cos(tilt) - v * np.sin(tilt)
        z = at[1] + u * np.sin(tilt) + v * np.cos(tilt)
        points = np.stack([x, z], axis=1) / self.mm - 0.5
        mask = np.zeros((self.height, self.width), np.uint8)
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
        return mask.astype(np.bool_)

    def grown(self, mask: Mask, by: float) -> Mask:
        """Dilated, or for a negative value eroded, by mm."""
        k = 2 * max(1, round(abs(by) / self.mm)) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k))
        change = cv2.dilate if by > 0 else cv2.erode
        return cast(Mask, change(mask.astype(np.uint8), kernel).astype(np.bool_))

    def warped(self, masks: Sequence[Mask]) -> list[Mask]:
        """Bends all maps, and the masks with them, by some tenths of a millimetre: no organ is an ellipse."""
        firm = np.minimum(self.z / 12.0, 1.0)  # the probe presses the skin flat
        bend = [firm * (0.45 * self.noise(7.0, 7.0) + 0.2 * self.noise(2.5, 2.5)) for _ in range(2)]
        columns, rows = np.meshgrid(np.arange(self.width, dtype=np.float32), np.arange(self.height, dtype=np.float32))
        x, y = ((at + by / self.mm).astype(np.float32) for at, by in zip((columns, rows), bend, strict=True))

        def moved(values: NDArray[Any]) -> NDArray[Any]:
            return cast("NDArray[Any]", cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

        self.echo, self.loss, self.mirror = moved(self.echo), moved(self.loss), moved(self.mirror)
        return [moved(mask.astype(np.float32)) > 0.5 for mask in masks]

    def capsule(self, mask: Mask, amplitude: float, front_only: bool = False) -> None:
        """A thin reflecting skin around a mask: strong where it faces the probe, gone where it runs along the beam."""
        margin = round(1.0 / self.mm) + 3
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        box = slice(max(y - margin, 0), y + height + margin), slice(max(x - margin, 0), x + width + margin)
        soft = cv2.GaussianBlur(mask[box].astype(np.float32), (0, 0), max(0.15 / self.mm, 0.6))
        down, across = cv2.Sobel(soft, cv2.CV_32F, 0, 1), cv2.Sobel(soft, cv2.CV_32F, 1, 0)
        cosine = np.abs(down) / (cv2.magnitude(down, across) + 1e-6)
        facing = (np.maximum(down, 0.0) if front_only else np.abs(down)) * cosine**5
        broken = np.clip(0.6 + 0.6 * self.noise(1.8, 1.8)[box], 0.0, None)
        self.mirror[box] += (amplitude * facing * broken).astype(np.float32)


def envelope(echoes: NDArray[np.float32], tissue: Tissue) -> Field:
    """Envelope [H, W] of complex echoes (real and imaginary part: [H, W, 2]) behind the point-spread function.

    The carrier is demodulated, as in a scanner's I/Q data: axially a Gaussian pulse, laterally a Gaussian beam that
    widens away from the focus, interpolated between three widths. White echoes keep their power.
    """
    rng = tissue.rng
    coarse = tissue.probe.coarseness  # at equal cycles and F-number pulse, beam and depth of focus go with wavelength
    pulse = max(rng.uniform(0.11, 0.2) * coarse / tissue.mm, 0.45)
    beam = max(rng.uniform(0.2, 0.36) * coarse / tissue.mm, 0.5)
    focus, rayleigh = tissue.deep * rng.uniform(0.3, 0.6), rng.uniform(10.0, 18.0) * coarse
    axial = _kernel(pulse)
    widths = beam * np.array([1.0, 1.6, 2.4])
    wanted = np.clip(beam * np.sqrt(1.0 + ((tissue.z - focus) / rayleigh) ** 2), widths[0], widths[-1])
    position = np.interp(wanted, widths, [0.0, 1.0, 2.0])[:, :, None]
    total = np.zeros_like(echoes)
    for i, width in enumerate(widths):
        share = np.clip(1.0 - np.abs(position - i), 0.0, 1.0).astype(np.float32)
        total += share * cv2.sepFilter2D(echoes, cv2.CV_32F, _kernel(float(width)), axial)
    return cast(Field, cv2.magnitude(total[:, :, 0], total[:, :, 1]))


def _kernel(sigma: float) -> NDArray[np.float32]:
    half = max(1, int(np.ceil(3 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    return cast("NDArray[np.float32]", (kernel / np.sqrt((kernel**2).sum())).astype(np.float32))


def bmode(tissue: Tissue) -> Gray:
    """The frame a scanner would show."""
    rng = tissue.rng
    # attenuation grows with frequency, and so do shadow and enhancement
    along_beams = np.cumsum(tissue.loss, axis=0, dtype=np.float32) * (tissue.mm / tissue.probe.coarseness)
    lost = cv2.GaussianBlur(along_beams, (0, 0), sigmaX=max(0.45 / tissue.mm, 0.5), sigmaY=0.3)
    depth = tissue.z / tissue.deep
    # fat and muscle above each beam weaken it differently
    uneven = 1.3 * tissue.curve(3.5) + 1.5 * tissue.curve(12.0)
    residue = (
        rng.uniform(-5.0, 3.0) * depth + rng.uniform(-4.0, 1.0) * depth**2 + rng.normal(0, 1.5) * np.sin(6 * depth)
    )
    residue = residue + uneven * np.minimum(3 * depth, 1.0)
    transfer = 10.0 ** ((residue - lost) / 20.0)
    floor = 10.0 ** ((rng.uniform(-32.0, -20.0) + 6.0 * depth) / 10.0)  # power of the noise, amplified with depth
    # scatterers and noise are both complex normal, so one draw stands for their sum
    diffuse = np.sqrt((10.0 ** (tissue.echo / 20.0) * transfer) ** 2 / 2 + floor).astype(np.float32)[:, :, None]
    phase = 1.2 * tissue.noise(6.0, 1.0)
    mirror = np.stack([np.cos(phase), np.sin(phase)], axis=2) * (tissue.mirror * transfer)[:, :, None]
    looks = int(rng.integers(1, 4))
    compound = np.zeros_like(tissue.echo)
    shape = (tissue.height, tissue.width, 2)
    for _ in range(looks):  # spatial compounding: the same anatomy under independent speckle
        echoes = rng.standard_normal(shape, np.float32) * diffuse + mirror
        compound += envelope(echoes.astype(np.float32), tissue) / looks
    decibel = 20.0 * np.log10(compound + 1e-6)
    dynamic_range, gray_of_gland = rng.uniform(48.0, 66.0), rng.uniform(78.0, 128.0)
    return cast(Gray, np.clip(gray_of_gland + 255.0 / dynamic_range * decibel, 0, 255).astype(np.uint8))


def fan(tissue: Tissue, images: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """What a convex probe shows: rows become arcs around its centre of curvature, columns become diverging beams.

    Beams keep their spacing at the depth of the gland (20 mm), so grains widen with depth as a convex array's do; the
    frame cuts off what lies beside it, and is 0 above the probe's face and beyond the depth.

    Args:
        tissue: of a probe with a radius, which is drawn here.
        images: [H, W] each, uint8 or bool.
    """
    assert tissue.probe.radius is not None
    radius = tissue.rng.uniform(*tissue.probe.radius)
    middle = radius + 20.0
    x = ((np.arange(tissue.width, dtype=np.float32) + 0.5) * tissue.mm - tissue.wide / 2)[None, :]
    below = tissue.z + radius  # from the centre of curvature
    columns = (np.arctan2(x, below) * middle + tissue.wide / 2) / tissue.mm - 0.5
    rows = (np.hypot(x, below) - radius) / tissue.mm - 0.5
    maps = columns.astype(np.float32), rows.astype(np.float32)
    bent = [cv2.remap(image.astype(np.uint8), *maps, interpolation=cv2.INTER_LINEAR) for image in images]
    return [values.astype(image.dtype) for values, image in zip(bent, images, strict=True)]
