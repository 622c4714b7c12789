"""From samples on disk to augmented batches. Every random draw is derived from (seed, epoch, index).

So a run that was killed and resumed at an epoch sees exactly the images it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianSmoothd,
    RandomizableTransform,
    RandScaleIntensityd,
)
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.utils.data import Dataset

from ssmt_edge.dataset import Sample, read_gray, read_mask
from ssmt_edge.geometry import Gray, input_roi, to_input
from ssmt_edge.spec import ModelSpec

MASKS = ("nodule", "gland")
Batch = dict[str, Tensor]


class RandSpeckled(RandomizableTransform, MapTransform):
    """Multiplicative Gaussian noise, blurred over `grain` pixels: speckle that differs from frame to frame."""

    def __init__(self, keys: Sequence[str], prob: float, strength: float) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.strength = strength

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        self.randomize(None)
        if not self._do_transform:
            return data
        grain = self.R.randint(1, 4)
        for key in self.keys:
            image = data[key]
            height, width = image.shape[-2:]
            noise = self.R.standard_normal((1, 1, height // grain + 1, width // grain + 1)).astype(np.float32)
            smooth = torch.nn.functional.interpolate(torch.from_numpy(noise), size=(height, width), mode="bilinear")[0]
            data[key] = image * (1 + self.R.uniform(0, self.strength) * smooth)
        return data


def augmentation(input_size: int) -> Compose:
    """Flips, rotations up to 10 degrees (both after the paper), zoom, shift, gain, contrast, blur and speckle.

    Left-right flips only: an image with the probe below does not occur. Shifts are up to 9 % of `input_size`.
    """
    geometry = RandAffined(
        keys=("image", *MASKS),
        prob=0.9,
        rotate_range=np.deg2rad(10),
        shear_range=0.1,
        scale_range=0.25,
        translate_range=input_size * 20 / 224,
        mode=("bilinear", "nearest", "nearest"),
        padding_mode="zeros",
    )
    return Compose(
        [
            RandFlipd(keys=("image", *MASKS), prob=0.5, spatial_axis=1),
            geometry,
            RandScaleIntensityd(keys="image", factors=0.3, prob=0.7),
            RandAdjustContrastd(keys="image", gamma=(0.7, 1.5), prob=0.5),
            RandGaussianSmoothd(keys="image", sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.2),
            RandSpeckled(keys="image", prob=0.5, strength=0.3),
        ],
        map_items=False,
    )


class Frames(Dataset[dict[str, Any]]):
    """Samples as network input, decoded, cropped and resized once and kept as bytes in memory.

    An item has `image` float32 [1, S, S] in 0..255, `nodule` and `gland` float32 [1, S, S] in {0, 1}, `size` (area
    fraction of the nodule in the input, 0..1), and `has_nodule`, `has_gland`: 1 where the label exists. A mask that
    does not exist is all zero and must not be used.

    Args:
        samples: image files with the masks that exist.
        spec: geometry of the input.
        seed: of the augmentation; None for none.
        progress: called once a decoded sample.

    Raises:
        DataError: an image or mask is unreadable, or sizes differ.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: ModelSpec,
        seed: int | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.samples = list(samples)
        self.seed = seed
        self.epoch = 0
        self._augment = augmentation(spec.input_size) if seed is not None else None
        self._items: list[dict[str, Gray]] = []
        for sample in self.samples:
            gray = read_gray(sample.image)
            roi = input_roi([gray], spec)
            item = {"image": to_input(gray, roi, spec)}
            for key in MASKS:
                path = getattr(sample, key)
                if path is not None:
                    item[key] = to_input(read_mask(path, gray.shape).astype(np.uint8) * 255, roi, spec)
            self._items.append(item)
            progress()

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        stored = self._items[index]
        blank = np.zeros_like(stored["image"])
        data: dict[str, Any] = {"image": torch.from_numpy(stored["image"]).float()[None]}
        for key in MASKS:
            data[key] = torch.from_numpy(stored.get(key, blank) > 127).float()[None]
        if self._augment is not None:
            self._augment.set_random_state(seed=_item_seed(self.seed or 0, self.epoch, index))
            augmented = self._augment(data)
            data = {key: convert_to_tensor(augmented[key], track_meta=False) for key in data}
            data["image"].clamp_(0, 255)
        for key in MASKS:
            data[f"has_{key}"] = torch.tensor(float(key in stored))
        data["size"] = data["nodule"].mean()
        data["index"] = index
        return data

    def gray_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the gray values, 0..255, over all samples as the network sees them."""
        means = np.array([item["image"].mean(dtype=np.float64) for item in self._items])
        squares = np.array([np.square(item["image"], dtype=np.float64).mean() for item in self._items])
        mean = means.mean()
        return float(mean), float(np.sqrt(squares.mean() - mean**2))


def _item_seed(seed: int, epoch: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])


class EpochSampler(torch.utils.data.Sampler[int]):
    """A permutation that depends on (seed, epoch) only; sets the epoch of the data set's augmentation, too."""

    def __init__(self, frames: Frames, seed: int) -> None:
        self.frames, self.seed, self.epoch = frames, seed, 0

    def set_epoch(self, epoch: int) -> None:  # Lightning calls it at every epoch's start, also after resuming
        self.epoch = self.frames.epoch = epoch

    def __iter__(self) -> Any:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.frames))
        return iter(order.tolist())

    def __len__(self) -> int:
        return len(self.frames)
