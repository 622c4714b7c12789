"""UESA-Net after the abstract of its paper (arXiv 2509.22763); no code is public, so the details are ours.

The abstract names: a U-shape, encoder attention along the horizontal, vertical and depth directions with threshold
shrinkage, and a decoder with pairwise shrinkage against the encoder's features.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.nets.blocks import ConvBlock, SkipDecoder, SoftThreshold
from trainer.nets.network import Network, Outputs


class DirectionalAttention(nn.Module):
    """Attention along rows, columns and channels ("depth"), then threshold shrinkage, around an identity.

    Along each direction the map is averaged over the others, and a gate in 0..1 is computed from the profile: by
    7-wide convolutions along rows and columns, by two linear layers over the channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.horizontal = _gate(channels, hidden, (1, 7))
        self.vertical = _gate(channels, hidden, (7, 1))
        self.depth = _gate(channels, hidden, (1, 1))
        self.shrink = SoftThreshold(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        along_row = x.mean(dim=2, keepdim=True)  # [N, C, 1, W]
        along_column = x.mean(dim=3, keepdim=True)  # [N, C, H, 1]
        everywhere = along_row.mean(dim=3, keepdim=True)  # [N, C, 1, 1]
        gated = x * self.horizontal(along_row) * self.vertical(along_column) * self.depth(everywhere)
        return x + self.out(self.shrink(gated))


def _gate(channels: int, hidden: int, kernel: tuple[int, int]) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, kernel, padding=padding),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, channels, 1),
        nn.Sigmoid(),
    )


class PairwiseShrinkage(nn.Module):
    """A skip that differs from the decoder's map only where it differs clearly.

    The difference of the encoder's and the decoder's map is soft-thresholded, with a threshold computed from both, and
    added to the decoder's map: small differences are taken for speckle, large ones for edges.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = SoftThreshold(channels, context=2 * channels)

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        pair = torch.cat([m.abs().mean(dim=(2, 3), keepdim=True) for m in (decoded, encoded)], dim=1)
        return decoded + self.shrink(encoded - decoded, pair)


class UesaNet(Network):
    """UESA-Net after the abstract: the nodule alone.

    Args:
        input_size: side S of the square input, a multiple of 16.
        widths: channels at S, S / 2, S / 4, S / 8 and S / 16.
    """

    tasks = ("nodule",)
    channels = 1

    def __init__(self, input_size: int = 224, widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        previous = 1
        for width in widths:
            blocks = [ConvBlock(previous, width), ConvBlock(width, width), DirectionalAttention(width)]
            self.levels.append(nn.Sequential(*blocks))
            previous = width
        self.nodule = SkipDecoder(widths, PairwiseShrinkage)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised gray frames [N, 1, S, S] to the outputs of the tasks asked for; see `Network`."""
        if "nodule" not in tasks:
            return {}
        maps: list[Tensor] = []
        for level in self.levels:
            x = level(F.max_pool2d(x, 2) if maps else x)
            maps.append(x)
        return {"nodule": self.nodule(maps[-1], maps[-2::-1]), "nodule_coarse": []}

    def input_convolutions(self) -> list[nn.Conv2d]:
        first = cast(nn.Sequential, self.levels[0])
        return [cast(nn.Conv2d, cast(nn.Sequential, first[0])[0])]
