"""From samples on disk to augmented batches. Every random draw is derived from (seed, epoch, index).

So a run that was killed and resumed at an epoch sees exactly the images it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    RandAdjustContrast,
    RandAffine,
    RandFlip,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
)
from torch import Tensor
from torch.utils.data import Dataset

from ssmt_edge.dataset import Sample, read_gray, read_mask
from ssmt_edge.geometry import Gray, input_roi, to_input
from ssmt_edge.spec import ModelSpec

MASKS = ("nodule", "gland")


class RandSpeckle(RandomizableTransform):
    """Multiplicative Gaussian noise, blurred over `grain` pixels: speckle that differs from frame to frame."""

    def __init__(self, prob: float, strength: float) -> None:
        super().__init__(prob)
        self.strength = strength

    def __call__(self, image: Tensor) -> Tensor:
        self.randomize(None)
        if not self._do_transform:
            return image
        grain = self.R.randint(1, 4)
        height, width = image.shape[-2:]
        noise = self.R.standard_normal((1, 1, height // grain + 1, width // grain + 1)).astype(np.float32)
        smooth = torch.nn.functional.interpolate(torch.from_numpy(noise), size=(height, width), mode="bilinear")[0]
        return image * (1 + self.R.uniform(0, self.strength) * smooth)


class Augmentation:
    """Flips, rotations up to 10 degrees (both after the paper), zoom, shift, gain, contrast, blur and speckle.

    Left-right flips only: an image with the probe below does not occur. Shifts are up to 9 % of `input_size`.
    """

    def __init__(self, input_size: int) -> None:
        affine = RandAffine(
            prob=0.9,
            rotate_range=np.deg2rad(10),
            shear_range=0.1,
            scale_range=0.25,
            translate_range=input_size * 20 / 224,
            mode="bilinear",
            padding_mode="zeros",
        )
        self._geometry = (RandFlip(prob=0.5, spatial_axis=1), affine)
        self._gray = (
            RandScaleIntensity(factors=0.3, prob=0.7),
            RandAdjustContrast(gamma=(0.7, 1.5), prob=0.5),
            RandGaussianSmooth(sigma_x=(0.3, 1.0), sigma_y=(0.3, 1.0), prob=0.2),
            RandSpeckle(prob=0.5, strength=0.3),
        )

    def __call__(self, stack: Tensor, seed: int) -> Tensor:
        """Image and masks float32 [1 + masks, S, S], 0..255 and 0 or 1, likewise; `seed` decides everything."""
        draws = np.random.RandomState(seed)  # one for all: making them takes longer than some transforms
        with _plain_tensors():
            for move in self._geometry:  # image and masks together: one grid, one interpolation
                stack = move.set_random_state(state=draws)(stack)
            image = stack[:1]
            for change in self._gray:
                image = change.set_random_state(state=draws)(image)
        return torch.cat([image.clamp(0, 255), (stack[1:] > 0.5).float()])


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """MONAI without MetaTensor, which takes more time than the transforms themselves."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)


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
        self._augment = Augmentation(spec.input_size) if seed is not None else None
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

    def __getitem__(self, key: tuple[int, int] | int | None) -> dict[str, Any]:
        """The item of (epoch, index); an index alone stands for epoch 0, None for a blank frame without labels."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        stored = {"image": np.zeros_like(self._items[0]["image"])} if index is None else self._items[index]
        present = [name for name in MASKS if name in stored]
        stack = torch.from_numpy(np.stack([stored[name] for name in ("image", *present)])).float()
        stack[1:] = stack[1:] > 127
        if self._augment is not None and index is not None:
            stack = self._augment(stack, _item_seed(self.seed or 0, epoch, index))
        layers = dict(zip(("image", *present), stack[:, None], strict=True))
        data: dict[str, Any] = {"image": layers["image"]}
        for name in MASKS:
            data[name] = layers.get(name, torch.zeros_like(layers["image"]))
            data[f"has_{name}"] = torch.tensor(float(name in layers))
        data["size"] = data["nodule"].mean()
        data["index"] = -1 if index is None else index
        return data

    def gray_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the gray values, 0..255, over all samples as the network sees them."""
        means = np.array([item["image"].mean(dtype=np.float64) for item in self._items])
        squares = np.array([np.square(item["image"], dtype=np.float64).mean() for item in self._items])
        mean = means.mean()
        return float(mean), float(np.sqrt(squares.mean() - mean**2))


def _item_seed(seed: int, epoch: int, index: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])
