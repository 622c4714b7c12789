"""US-Net after the abstract of its paper (Computers & Graphics 2024); no code is public, so the details are ours.

The abstract names: a U-Net with convolution-based self-attention and soft thresholding, multi-kernel curvature-based
edge attention, and skips that select channels by information entropy.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.nets.blocks import ConvBlock, SkipDecoder, SoftThreshold
from trainer.nets.network import Network, Outputs


class ConvolutionalAttention(nn.Module):
    """Self-attention by convolutions: where query and key agree, values pass; then soft thresholding.

    The products of attention are taken per position, between a query of the neighbourhood (3 x 3) and a key of wide
    surroundings (two 7-wide line convolutions), so that the cost grows with the pixels and not with their square.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.query = ConvBlock(channels, inner, 3)
        self.key = nn.Sequential(
            nn.Conv2d(channels, inner, (1, 7), padding=(0, 3)), nn.Conv2d(inner, inner, (7, 1), padding=(3, 0))
        )
        self.value = nn.Conv2d(channels, inner, 1)
        self.shrink = SoftThreshold(inner)
        self.out = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        agreement = torch.sigmoid(self.query(x) * self.key(x))
        return x + self.out(self.shrink(agreement * self.value(x)))


class CurvatureAttention(nn.Module):
    """Edge attention from the curvature of the map's level lines, with derivatives of several scales.

    Per scale, Gaussian derivatives d of the channels' mean give the curvature times the slope, bounded unlike the
    curvature itself: (d_xx d_y^2 - 2 d_x d_y d_xy + d_yy d_x^2) / (d_x^2 + d_y^2 + e), beside the slope itself.
    """

    def __init__(self, channels: int, kernels: tuple[int, ...] = (3, 5, 7)) -> None:
        super().__init__()
        for kernel in kernels:
            self.register_buffer(f"derivatives{kernel}", _gaussian_derivatives(kernel), persistent=False)
        self.kernels = kernels
        hidden = max(channels // 4, 8)
        self.to_gate = nn.Sequential(ConvBlock(2 * len(kernels), hidden), nn.Conv2d(hidden, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)  # [N, 1, H, W]
        edges = []
        for kernel in self.kernels:
            derivatives = F.conv2d(mean, getattr(self, f"derivatives{kernel}"), padding=kernel // 2)
            dx, dy, dxx, dyy, dxy = derivatives.split(1, dim=1)
            slope = dx * dx + dy * dy
            bend = (dxx * dy * dy - 2 * dx * dy * dxy + dyy * dx * dx) / (slope + 1e-3)
            edges += [bend, torch.sqrt(slope + 1e-6)]
        return x * (1 + torch.sigmoid(self.to_gate(torch.cat(edges, dim=1))))


def _gaussian_derivatives(kernel: int) -> Tensor:
    """First and second derivatives of a Gaussian (x, y, xx, yy, xy), sampled on a grid: [5, 1, kernel, kernel]."""
    sigma = kernel / 4
    y, x = torch.meshgrid(*[torch.arange(kernel, dtype=torch.float32) - kernel // 2] * 2, indexing="ij")
    bell = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    bell = bell / bell.sum()
    filters = [-x * bell, -y * bell, (x**2 - sigma**2) * bell, (y**2 - sigma**2) * bell, x * y * bell]
    filters = [f - f.mean() for f in filters]  # what is constant has no derivative
    return torch.stack([f / f.abs().sum() for f in filters])[:, None]


class EntropySelection(nn.Module):
    """Skip that keeps channels by the entropy of where they respond, softly, relative to the frame's other channels."""

    def __init__(self, channels: int, cells: int = 14) -> None:
        super().__init__()
        self.cells = cells
        self.slope = nn.Parameter(torch.ones(channels, 1, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        x = encoded
        pooled = F.avg_pool2d(x, max(1, x.shape[-1] // self.cells)).flatten(2)  # [N, C, cells^2]; no need for more
        share = torch.softmax(pooled, dim=2)
        entropy = -(share * torch.log(share + 1e-6)).sum(dim=2) / math.log(pooled.shape[2])  # [N, C], 0..1
        centred = entropy - entropy.mean(dim=1, keepdim=True)
        relative = centred / torch.sqrt((centred * centred).mean(dim=1, keepdim=True) + 1e-6)
        return x * torch.sigmoid(self.slope * relative[:, :, None, None] + self.shift)


class UsNet(Network):
    """US-Net after the abstract: the nodule alone.

    Edge attention follows the two finest levels, where edges are; self-attention the two coarsest.

    Args:
        input_size: side S of the square input, a multiple of 16.
        widths: channels at S, S / 2, S / 4, S / 8 and S / 16.
    """

    tasks = ("nodule",)
    channels = 1

    def __init__(self, input_size: int = 224, widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.levels, self.attentions = nn.ModuleList(), nn.ModuleList()
        kinds = (*[CurvatureAttention] * 2, nn.Identity, *[ConvolutionalAttention] * 2)
        previous = 1
        for width, kind in zip(widths, kinds, strict=True):
            self.levels.append(nn.Sequential(ConvBlock(previous, width), ConvBlock(width, width)))
            self.attentions.append(kind(width))
            previous = width
        self.nodule = SkipDecoder(widths, EntropySelection)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised gray frames [N, 1, S, S] to the outputs of the tasks asked for; see `Network`."""
        if "nodule" not in tasks:
            return {}
        maps: list[Tensor] = []
        for level, attention in zip(self.levels, self.attentions, strict=True):
            x = attention(level(F.max_pool2d(x, 2) if maps else x))
            maps.append(x)
        return {"nodule": self.nodule(maps[-1], maps[-2::-1]), "nodule_coarse": []}

    def input_convolutions(self) -> list[nn.Conv2d]:
        first = cast(nn.Sequential, self.levels[0])
        return [cast(nn.Conv2d, cast(nn.Sequential, first[0])[0])]
