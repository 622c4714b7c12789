"""ssmt-lite: SSMT-Net's tasks at about 1 GMAC, made of what CPUs and TensorRT run fast in INT8."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from trainer.nets.blocks import ConvBlock, MaskDecoder, ResidualBlock, SizeHead, TransformerLayer
from trainer.nets.network import Network, Outputs


class SsmtLite(Network):
    """Strided convolutions for local detail, a few global attention layers on the coarsest map, a decoder per task.

    Regular convolutions with channels in multiples of 16: depthwise ones save arithmetic but are bound by memory.

    Args:
        input_size: side S of the square input, a multiple of 16.
    """

    channels = 1  # gray in; no stem to fold
    shared = "norm"

    def __init__(
        self,
        input_size: int = 224,
        widths: tuple[int, int, int, int] = (32, 48, 96, 192),
        depths: tuple[int, int, int] = (1, 1, 1),
        attention_layers: int = 3,
        decoder: tuple[int, int, int] = (96, 48, 16),
    ) -> None:
        super().__init__()
        stem, *stages = widths
        self.stem = ConvBlock(1, stem, 3, stride=2)  # S / 2
        self.stages = nn.ModuleList()  # S / 4, S / 8, S / 16
        previous = stem
        for width, depth in zip(stages, depths, strict=True):
            blocks = [ConvBlock(previous, width, 3, stride=2), *(ResidualBlock(width) for _ in range(depth))]
            self.stages.append(nn.Sequential(*blocks))
            previous = width
        side = input_size // 16
        self.position = nn.Parameter(torch.zeros(1, side * side, previous))
        self.attention = nn.Sequential(*(TransformerLayer(previous, previous // 32) for _ in range(attention_layers)))
        self.norm = nn.LayerNorm(previous)
        skips = (widths[2], widths[1], widths[0])
        self.nodule = MaskDecoder(previous, skips, decoder)
        self.gland = MaskDecoder(previous, skips, decoder)
        # without skips, so that the code must hold the image
        self.reconstruction = MaskDecoder(previous, (), decoder)
        self.size = SizeHead(previous)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised gray frames [N, 1, S, S] to the outputs of the tasks asked for; see `Network`."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        grid = maps[-1]
        tokens = self.norm(self.attention(grid.flatten(2).transpose(1, 2) + self.position))  # [N, L, D]
        bottom = tokens.transpose(1, 2).unflatten(2, grid.shape[-2:])
        skips = maps[-2::-1]
        return self.decode(bottom, skips, tokens.mean(dim=1), x.shape[-1], tasks)

    def input_convolutions(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, self.stem[0])]
