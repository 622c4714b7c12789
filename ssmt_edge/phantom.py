"""Synthetic B-mode frames of a thyroid, with exact masks of nodules and gland.

For tests, for gland labels where no real ones are at hand, and for trying the whole way without patients' data.
Anatomy is drawn in millimetres: skin, fat and strap muscles over one lobe (transverse or longitudinal) or two lobes
with isthmus and trachea, carotid, jugular vein, and nodules of the usual kinds; `bmode` makes frames of it. What a
network scores here says nothing about patients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import cv2
import numpy as np

from ssmt_edge import __version__
from ssmt_edge.bmode import DEFAULT_PROBE, PROBES, Field, Mask, Probe, Tissue, bmode, fan
from ssmt_edge.errors import SinkError, UsageError
from ssmt_edge.files import replacing_folder
from ssmt_edge.geometry import Gray

SIDES = (64, 1024)  # smallest and largest height and width of a frame, pixels
Kind = Literal["cyst", "hypo", "iso", "hyper", "mixed"]

# share of each kind of nodule; solid hypoechoic ones lead, as in clinical sets
KINDS: dict[Kind, float] = {"cyst": 0.14, "hypo": 0.42, "iso": 0.16, "hyper": 0.10, "mixed": 0.18}
NO_NODULE, TWO_NODULES = 0.05, 0.10  # shares of the frames


@dataclass(frozen=True)
class Phantom:
    """One synthetic frame."""

    image: Gray
    """uint8 [H, W], 0..255"""
    nodule: Mask
    """bool [H, W], all nodules; about 5 % of frames have none"""
    gland: Mask
    """bool [H, W], the gland with its nodules"""


def _layers(tissue: Tissue) -> Field:
    """Skin, fat, strap muscles and what lies below the gland; returns where the muscles end: mm [W]."""
    rng, z = tissue.rng, tissue.z
    bend = tissue.curve(25.0)
    skin = rng.uniform(0.8, 1.6) + 0.1 * tissue.curve(20.0)
    fat = skin + rng.uniform(1.0, 3.5) + 0.4 * bend
    muscle = fat + rng.uniform(2.5, 5.5) + 0.7 * bend + 0.4 * tissue.curve(15.0)
    # fibres and septa: long bright streaks that follow the layers' bend
    rows = np.arange(tissue.height, dtype=np.float32)[:, None] - (bend / tissue.mm).astype(np.float32)
    columns = np.broadcast_to(np.arange(tissue.width, dtype=np.float32), rows.shape)
    fibres = cv2.remap(tissue.noise(9.0, 0.55), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    septa = cv2.remap(tissue.noise(12.0, 1.1), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    deep = (
        -8.0
        + 4.5 * tissue.noise(9.0, 4.0)
        + 5.0 * np.clip(septa, 0.0, None) * np.clip(tissue.noise(6.0, 6.0), 0.0, None)
    )
    tissue.loss[:] = np.where(z > muscle, rng.uniform(0.0, 0.35), 0.0)
    # each layer over the deeper one
    tissue.echo[:] = np.where(z < muscle, rng.uniform(-11.0, -6.0) + 5.0 * fibres, deep)
    tissue.echo[:] = np.where(z < fat, rng.uniform(-9.0, -3.0) + 3.0 * septa + 2.0 * fibres, tissue.echo)
    tissue.echo[:] = np.where(z < skin, 4.0 + 2.0 * fibres, tissue.echo)
    for depth, amplitude in ((skin, 0.8), (fat, rng.uniform(0.5, 2.0)), (muscle, rng.uniform(0.8, 2.5))):
        broken = np.clip(0.5 + 0.6 * tissue.curve(6.0), 0.0, None)
        tissue.mirror += (amplitude * broken * np.exp(-(((z - depth) / 0.22) ** 2))).astype(np.float32)
    return cast(Field, muscle)


def _inside(tissue: Tissue, nodule: Mask, kind: Kind) -> None:
    """Paints a nodule of a kind: its echoes, halo, cystic parts, attenuation, wall and calcifications."""
    rng = tissue.rng
    level = {"cyst": (-36, -28), "hypo": (-16, -9), "iso": (-2, 1), "hyper": (6, 9), "mixed": (-11, -5)}[kind]
    loss = {"cyst": (-0.8, -0.4), "hypo": (0.0, 0.4), "iso": (-0.1, 0.1), "hyper": (0.0, 0.2), "mixed": (-0.3, 0.0)}
    texture = rng.uniform(0.8, 2.2) * tissue.noise(1.6, 1.2)
    tissue.echo[nodule] = (rng.uniform(*level) + texture)[nodule]
    tissue.loss[nodule] = rng.uniform(*loss[kind])
    tissue.mirror[nodule] = 0.0
    if kind == "mixed":
        holes = np.zeros_like(nodule)
        rows, columns = np.nonzero(nodule)
        reach = np.sqrt(nodule.sum() / np.pi) * tissue.mm
        for _ in range(rng.integers(1, 6)):
            pick = rng.integers(len(rows))
            at = (columns[pick] * tissue.mm, rows[pick] * tissue.mm)
            radius = reach * rng.uniform(0.15, 0.45)
            holes |= tissue.blob(at, (radius * rng.uniform(1.0, 1.5), radius), 0.15)
        holes &= tissue.grown(nodule, -0.5)
        tissue.echo[holes] = rng.uniform(-34.0, -24.0)
        tissue.loss[holes] = -0.5
        tissue.capsule(holes, 0.25)
    # isoechoic nodules are told by their halo alone; others have one now and then
    if kind == "iso" or (kind in ("hyper", "mixed") and rng.random() < 0.6):
        rim = nodule & ~tissue.grown(nodule, -rng.uniform(0.8, 1.4))
        tissue.echo[rim] = (rng.uniform(-15.0, -10.0) + 2.5 * tissue.noise(2.0, 2.0))[rim]
    tissue.capsule(nodule, rng.uniform(0.6, 1.4) if kind == "cyst" else rng.uniform(0.1, 0.5))
    if kind in ("hypo", "mixed") and rng.random() < 0.4:
        _calcifications(tissue, nodule)


def _calcifications(tissue: Tissue, nodule: Mask) -> None:
    """Bright grains; the coarse ones throw a shadow."""
    rng = tissue.rng
    rows, columns = np.nonzero(tissue.grown(nodule, -1.2))
    if not len(rows):
        return
    coarse = rng.random() < 0.4
    for _ in range(rng.integers(1, 3) if coarse else rng.integers(3, 12)):
        pick = rng.integers(len(rows))
        radius = rng.uniform(0.5, 1.2) if coarse else rng.uniform(0.12, 0.3)
        at = (columns[pick] * tissue.mm, rows[pick] * tissue.mm)
        grain = tissue.blob(at, (radius, max(0.5 * radius, 0.5 * tissue.mm)), 0.2)
        tissue.echo[grain] = rng.uniform(13.0, 20.0)
        tissue.loss[grain] = rng.uniform(10.0, 20.0) if coarse else 0.5


def _nodules(tissue: Tissue, lobes: Sequence[tuple[float, float, float, float]], top: float) -> list[tuple[Mask, Kind]]:
    """Outlines and kinds of 0 to 2 nodules inside lobes (x, z, radius along x and z, mm) below the depth `top`."""
    rng = tissue.rng
    draw = rng.random()
    wanted = 0 if draw < NO_NODULE else 2 if draw > 1.0 - TWO_NODULES else 1
    found: list[tuple[Mask, Kind]] = []
    taken = np.zeros((tissue.height, tissue.width), np.bool_)
    for _ in range(30):
        if len(found) == wanted:
            break
        kind = rng.choice(np.array(list(KINDS)), p=list(KINDS.values()))
        x, z, rx, rz = lobes[int(rng.integers(len(lobes)))]
        mean = float(np.clip(np.exp(rng.normal(np.log(6.4), 0.35)), 3.2, 12.0))
        flat = rng.uniform(0.85, 1.7) ** 0.5
        radii = (mean * flat, mean / flat)
        x += rng.uniform(-1, 1) * max(rx - radii[0], 0.5)
        z += rng.uniform(-1, 1) * max(rz - radii[1], 0.5)
        z = max(z, top + radii[1])
        rough = {"cyst": 0.04, "hypo": rng.uniform(0.05, 0.2)}.get(kind, rng.uniform(0.04, 0.12))
        mask = tissue.blob((x, z), radii, rough, rng.normal(0.0, 0.25))
        complete = np.pi * radii[0] * radii[1] / tissue.mm**2
        # most of it in the frame, and clear of the one before
        if mask.sum() > 0.75 * complete and not (taken & mask).any():
            taken |= tissue.grown(mask, 1.0)
            found.append((mask, kind))
    return found


def _trachea(tissue: Tissue, at: tuple[float, float], radius: float) -> Mask:
    """Bright front wall, then air: a shadow in which the wall echoes again and again."""
    mask = tissue.blob(at, (radius, radius * 0.9), 0.02)
    below = (tissue.z - (at[1] - 0.9 * radius)) / tissue.rng.uniform(2.2, 3.2)
    echoes = 9.0 * np.cos(2 * np.pi * below) - 5.0 * below
    tissue.echo[mask] = (-8.0 + echoes + 1.5 * tissue.noise(3.0, 1.0))[mask]
    tissue.loss[mask] = 1.6
    tissue.mirror[mask] = 0.0
    tissue.capsule(mask, tissue.rng.uniform(2.5, 5.0), front_only=True)
    return mask


def _vessel(tissue: Tissue, at: tuple[float, float], radii: tuple[float, float], wall: float) -> Mask:
    mask = tissue.blob(at, radii, 0.04, tissue.rng.normal(0.0, 0.2))
    tissue.echo[mask] = tissue.rng.uniform(-32.0, -22.0)
    tissue.loss[mask] = -0.25
    tissue.mirror[mask] = 0.0
    tissue.capsule(mask, wall)
    return mask


def _carotid(tissue: Tissue, end: float, out: int, z: float) -> Mask:
    """Carotid beside the gland's end `end` (mm), outwards (-1 or 1), now and then with the jugular vein."""
    rng = tissue.rng
    radius = rng.uniform(2.4, 3.6)
    x = end + out * (radius + 0.6)
    mask = _vessel(tissue, (x, z), (radius, radius), 0.8)
    if rng.random() < 0.5:  # the vein lies further out, flattened by the probe
        _vessel(tissue, (x + out * rng.uniform(5.0, 7.0), z - 3.0), (3.5, rng.uniform(1.0, 2.5)), 0.6)
    return mask


def _neck(tissue: Tissue) -> tuple[Mask, Mask]:
    """Paints the whole anatomy; returns nodule and gland masks."""
    rng = tissue.rng
    front = float(_layers(tissue).mean())
    half = rng.uniform(6.0, 9.0)  # half the lobe's thickness
    middle, z = tissue.wide * rng.uniform(0.42, 0.58), front + half * rng.uniform(0.8, 1.0)
    view = rng.choice(np.array(["lobe", "long", "both"]), p=[0.6, 0.25, 0.15])
    windpipe = rng.uniform(6.0, 8.0)  # radius
    gland = np.zeros((tissue.height, tissue.width), np.bool_)
    air = gland
    if view == "both":
        reach = windpipe + rng.uniform(4.0, 6.0)
        lobes = [(middle + side * reach, z, rng.uniform(6.5, 9.0), half) for side in (-1, 1)]
        isthmus = front + rng.uniform(1.0, 2.0)
        gland = tissue.blob((middle, isthmus), (reach, rng.uniform(1.5, 2.5)), 0.03)
        behind = (middle, isthmus + 1.5 + 0.9 * windpipe)
        air = tissue.blob(behind, (windpipe, 0.9 * windpipe), 0.0)
    else:
        lobes = [(middle, z, rng.uniform(9.0, 14.0) if view == "lobe" else rng.uniform(19.0, 28.0), half)]
    for x, depth, rx, rz in lobes:
        gland = gland | tissue.blob((x, depth), (rx, rz), 0.07, rng.normal(0.0, 0.12))
    nodules = [(m & ~tissue.grown(air, 0.5), kind) for m, kind in _nodules(tissue, lobes, max(front - 4.0, 2.5))]
    for mask, _ in nodules:
        gland = gland | tissue.grown(mask, rng.uniform(0.4, 1.5))  # the gland bulges around a nodule
    gland &= ~air

    texture = rng.uniform(0.4, 1.2) * tissue.noise(2.5, 1.8) + rng.uniform(0.3, 1.3) * tissue.noise(8.0, 8.0)
    tissue.echo[gland] = texture[gland]
    tissue.loss[gland] = rng.uniform(-0.1, 0.25)
    tissue.mirror[gland] *= 0.1
    tissue.capsule(gland, rng.uniform(0.2, 1.6))
    columns = np.nonzero(gland.any(axis=0))[0] * tissue.mm
    sides = [(columns[0], -1), (columns[-1], 1)]  # where the gland ends, and which way is outwards
    if view == "both":
        _trachea(tissue, behind, windpipe)
    elif view == "lobe":
        rng.shuffle(sides)
        end, out = sides.pop()
        gland &= ~_trachea(tissue, (end + out * 0.9 * windpipe, z + rng.uniform(-1.0, 3.0)), windpipe)
    for end, out in sides if view != "long" else []:
        gland &= ~_carotid(tissue, end, out, z + rng.uniform(-2.0, 3.0))
    for _ in range(rng.integers(0, 3)):  # small vessels, unlabelled: a dark spot is not yet a nodule
        x, depth, rx, rz = lobes[0]
        spot = (x + rng.uniform(-0.8, 0.8) * rx, depth + rng.uniform(-0.8, 0.8) * rz)
        _vessel(tissue, spot, (rng.uniform(0.5, 1.2), 0.5), 0.3)

    together = np.zeros_like(gland)
    for mask, kind in nodules:
        seen = mask & gland
        if seen.sum() > 0.5 * mask.sum():  # no slivers beside a trachea
            _inside(tissue, seen, kind)
            together |= seen
    return together, gland


def phantom(rng: np.random.Generator, size: tuple[int, int] = (256, 256), probe: Probe = DEFAULT_PROBE) -> Phantom:
    """One synthetic frame; the same generator state gives the same frame.

    Args:
        rng: source of every random choice.
        size: height and width in pixels, each 64..1024.
        probe: the transducer; `PROBES` names some.

    Raises:
        UsageError: a size outside that range.
    """
    _check_size(size)
    tissue = Tissue(rng, size, probe)
    nodule, gland = tissue.warped(_neck(tissue))
    image = bmode(tissue)
    if probe.radius is not None:
        image, nodule, gland = fan(tissue, (image, nodule, gland))
    return Phantom(image, nodule, gland)


def _check_size(size: tuple[int, int]) -> None:
    if not all(SIDES[0] <= side <= SIDES[1] for side in size):
        raise UsageError(f"a phantom of {size[1]} x {size[0]} pixels, expected sides of {SIDES[0]} to {SIDES[1]}")


README = """Synthetic thyroid ultrasound, made by ssmt-edge {version} (ssmt-edge data phantom), seed {seed},
probe {probe}.

{count} frames for training and validation and {test_count} for testing, {width} x {height} pixels. No patient was
scanned: a random anatomy was painted and imaged by a sketch of ultrasound physics. Good for tests, for gland labels
and for trying the whole way; results on it say nothing about patients.

Layout of TN3K: trainval-image, trainval-mask (nodules) and trainval-gland hold one PNG per frame, masks 0 or 255; the
same with test-; tn3k-trainval-fold0.json lists positions of trainval. An empty nodule mask means a frame without one.
Frame i depends on the seed and i alone, with the same versions of ssmt-edge, numpy and OpenCV.
"""


def write_set(
    out: Path,
    count: int,
    test_count: int = 0,
    size: tuple[int, int] = (256, 256),
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    probe: str = "linear-12MHz",
) -> None:
    """Writes a synthetic data set in TN3K's layout, complete or not at all; every 8th frame is for validation.

    Args:
        out: folder to make; an existing one must be empty.
        count: frames for training and validation, 2..9999.
        test_count: frames of the test split, 0..9999.
        size: height and width in pixels, each 64..1024.
        seed: 0 or greater; frame i of a split depends on the seed and i alone.
        progress: called with frames done and frames in all, after each frame.
        probe: a name of `PROBES`.

    Raises:
        UsageError: an impossible count, size or seed, or an unknown probe.
        SinkError: `out` is in use or cannot be written.
    """
    for name, value, least in (("count", count, 2), ("test count", test_count, 0)):
        if not least <= value <= 9999:
            raise UsageError(f"a phantom set with {name} {value}, expected {least} to 9999")
    if seed < 0:
        raise UsageError(f"seed {seed}, expected 0 or greater")
    if probe not in PROBES:
        raise UsageError(f"probe {probe!r}, expected one of {', '.join(PROBES)}")
    _check_size(size)
    validation = list(range(7, count, 8)) or [count - 1]
    fold = {"train": sorted(set(range(count)) - set(validation)), "val": validation}
    try:
        if out.exists() and not out.is_dir():
            raise SinkError(f"{out} is a file; give a new or empty folder for the phantom set")
        if out.is_dir() and any(out.iterdir()):
            raise SinkError(f"{out} is not empty; give a new or empty folder for the phantom set")
        with replacing_folder(out) as folder:
            for part, (split, frames) in enumerate((("trainval", count), ("test", test_count))):
                for kind in ("image", "mask", "gland") if frames else ():
                    (folder / f"{split}-{kind}").mkdir()
                for i in range(frames):
                    frame = phantom(np.random.default_rng([seed, part, i]), size, PROBES[probe])
                    masks = [mask.astype(np.uint8) * 255 for mask in (frame.nodule, frame.gland)]
                    for kind, pixels in zip(("image", "mask", "gland"), (frame.image, *masks), strict=True):
                        encoded = cv2.imencode(".png", pixels)[1].tobytes()
                        (folder / f"{split}-{kind}" / f"{i:04d}.png").write_bytes(encoded)
                    if progress:
                        progress(part * count + i + 1, count + test_count)
            (folder / "tn3k-trainval-fold0.json").write_text(json.dumps(fold) + "\n", encoding="utf-8")
            text = README.format(
                version=__version__,
                seed=seed,
                probe=probe,
                count=count,
                test_count=test_count,
                width=size[1],
                height=size[0],
            )
            (folder / "README.txt").write_text(text, encoding="utf-8")
    except OSError as error:
        raise SinkError(f"cannot write the phantom set to {out}: {error.strerror}; choose another folder") from None
