"""Building blocks of the networks. Shapes in comments: N batch, C channels, H x W pixels, L tokens, D their width."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REFINED_SCALES = 3
"""layers of a masked transformer decoder: one each for the decoder's three coarsest scales, at most S/2 x S/2"""


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation (folded at export) and ReLU (fused by every backend)."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around an identity (He et al. 2016, basic block)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class Attention(nn.Module):
    """Multi-head attention over tokens; `context` defaults to the tokens themselves.

    `mask` [N, 1, Lq, Lk] is added to the logits: 0 where attention is allowed, a large negative number elsewhere.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q = self._split(self.query(x))  # [N, heads, Lq, D / heads]
        k, v = self.key_value(context).chunk(2, dim=-1)
        y = F.scaled_dot_product_attention(q, self._split(k), self._split(v), attn_mask=mask)
        return self.out(y.transpose(1, 2).flatten(2))  # [N, Lq, D]

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """Two linear layers with ReLU between: cheaper than GELU and friendlier to INT8."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


class SoftThreshold(nn.Module):
    """Soft thresholding with a learnt threshold: what is smaller in magnitude becomes 0, the rest moves towards 0.

    After deep residual shrinkage networks (Zhao et al. 2020): per frame and channel, the threshold is the mean
    magnitude times a learnt factor in 0..1, so that it can never remove everything.

    Args:
        channels: of what is shrunk.
        context: channels of what the factor is computed from, beside the mean magnitude.
    """

    def __init__(self, channels: int, context: int = 0) -> None:
        super().__init__()
        hidden = max(channels // 4, 8)
        self.factor = nn.Sequential(
            nn.Conv2d(channels + context, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Maps [N, channels, H, W] and, if any, context [N, context, 1, 1] to maps of the same shape."""
        magnitude = x.abs().mean(dim=(2, 3), keepdim=True)  # [N, C, 1, 1]
        given = magnitude if context is None else torch.cat([magnitude, context], dim=1)
        threshold = magnitude * self.factor(given)
        return F.relu(x - threshold) - F.relu(-x - threshold)


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward layer (Dosovitskiy et al. 2021)."""

    def __init__(self, dim: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.feed_forward = FeedForward(dim, ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class MaskedTransformerDecoder(nn.Module):
    """Learnable queries refine a mask, looking only where foreground was predicted so far, coarse to fine.

    Masked attention after Mask2Former (Cheng et al. 2022). One layer a scale: the queries attend to that scale's
    features inside the current mask (to all of them where the mask is empty), to each other, and then add a correction
    to the mask's logits, as products of query and pixel embeddings at the finest scale. A cell of a coarse scale is
    inside where any of its pixels is: averaging would lose small nodules. The features carry no position codes: where
    a pixel lies is in the encoder's map already.

    Args:
        channels: channels of the features of each scale, coarse to fine; the last also gives the pixel embedding.
        dim: query width D.
        queries: number of learnable queries Q.
    """

    def __init__(self, channels: Sequence[int], dim: int, queries: int, heads: int = 4) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim) * 0.02)
        self.project = nn.ModuleList(nn.Conv2d(c, dim, 1) for c in channels)
        self.cross = nn.ModuleList(Attention(dim, heads) for _ in channels)
        self.norm = nn.ModuleList(nn.LayerNorm(dim) for _ in channels)
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, ratio=2) for _ in channels)
        self.norm_out = nn.LayerNorm(dim)
        self.to_mask = nn.ModuleList(nn.Linear(dim, dim) for _ in channels)
        # Starts at zero: the refinement begins as the identity and cannot harm a good mask. It learns all the same,
        # because to_mask is not zero: the first step moves the weight, the next ones everything behind it.
        self.weight = nn.Parameter(torch.zeros(len(channels), queries))

    def forward(self, scales: Sequence[Tensor], logits: Tensor) -> list[Tensor]:
        """From features [N, C_i, H_i, W_i] and logits [N, 1, H, W] at the last scale's size, whose sides are multiples
        of all H_i and W_i: the logits after each layer, [N, 1, H, W]."""
        features = [project(s) for project, s in zip(self.project, scales, strict=True)]
        pixels = features[-1].flatten(2)  # [N, D, H * W]
        queries = self.queries.expand(logits.shape[0], -1, -1)  # [N, Q, D]
        refined = []
        for i, feature in enumerate(features):
            cell = logits.shape[-1] // feature.shape[-1]
            foreground = F.max_pool2d(logits.detach(), cell) if cell > 1 else logits.detach()
            inside = (foreground > 0).to(feature.dtype).flatten(2)  # [N, 1, H_i * W_i]
            empty = 1 - inside.amax(dim=2, keepdim=True)  # 1 where nothing was predicted: attend everywhere
            mask = ((inside + empty).clamp(max=1) - 1).unsqueeze(1) * 1e4  # -1e4 outside: representable in half
            tokens = feature.flatten(2).transpose(1, 2)  # [N, H_i * W_i, D]
            queries = queries + self.cross[i](self.norm[i](queries), tokens, mask)
            queries = self.layers[i](queries)
            kernels = self.to_mask[i](self.norm_out(queries))  # [N, Q, D]
            kernel = (self.weight[i].unsqueeze(-1) * kernels).sum(dim=1, keepdim=True)  # [N, 1, D]
            logits = logits + (kernel @ pixels).unflatten(2, logits.shape[-2:])
            refined.append(logits)
        return refined


class MaskDecoder(nn.Module):
    """One task's decoder: a CNN decoder with skips and, if `queries`, a masked transformer decoder over its scales.

    Args:
        bottom: channels of the coarsest map.
        skips: channels of the encoder maps to join, coarse to fine, each twice the size of the one before.
        widths: channels after each join; further widths than skips upsample without a join.
        depth: 3 x 3 convolutions after each join.
        queries: learnable queries of the masked transformer decoder, 0 for none.
        dim: width of its queries.
    """

    def __init__(
        self, bottom: int, skips: Sequence[int], widths: Sequence[int], depth: int = 1, queries: int = 0, dim: int = 64
    ) -> None:
        super().__init__()
        self.narrow, self.joins = nn.ModuleList(), nn.ModuleList()
        previous = bottom
        for i, width in enumerate(widths):
            skip = skips[i] if i < len(skips) else 0
            self.narrow.append(ConvBlock(previous, width, 1))  # before upsampling, where pixels are few
            rest = (ConvBlock(width, width) for _ in range(depth - 1))
            self.joins.append(nn.Sequential(ConvBlock(width + skip, width), *rest))
            previous = width
        self.head = nn.Conv2d(previous, 1, 1)
        self.refine = MaskedTransformerDecoder(widths[:REFINED_SCALES], dim, queries) if queries else None

    def forward(self, bottom: Tensor, skips: Sequence[Tensor], size: int) -> tuple[Tensor, list[Tensor]]:
        """Logits [N, 1, size, size] and, of the masked decoder, the coarser masks on the way to them: that of the CNN
        decoder and those after each layer but the last, [N, 1, H, W] at the finest scale that it looks at."""
        x, scales = bottom, []
        for i, (narrow, join) in enumerate(zip(self.narrow, self.joins, strict=True)):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="nearest")
            x = join(torch.cat([x, skips[i]], dim=1) if i < len(skips) else x)
            scales.append(x)
        logits = _resize(self.head(x), size)
        if self.refine is None:
            return logits, []
        scales = scales[:REFINED_SCALES]
        # the mean of the logits in a cell; the head is linear, so that the mean may come first, where INT8 likes it
        coarse = self.head(F.avg_pool2d(x, x.shape[-1] // scales[-1].shape[-1]))
        refined = self.refine(scales, coarse)
        return logits + _resize(refined[-1] - coarse, size), [coarse, *refined[:-1]]


class SkipDecoder(nn.Module):
    """U-Net's decoder: per level narrower, twice the size, joined with what comes of the skip, two convolutions.

    Args:
        widths: channels of the encoder's maps, fine to coarse, each half the size of the one before.
        skip: makes a module, from a level's channels, that takes the decoder's and the encoder's map, both
            [N, C, H, W], and returns what is joined.
    """

    def __init__(self, widths: Sequence[int], skip: Callable[[int], nn.Module]) -> None:
        super().__init__()
        finer, coarser = widths[-2::-1], widths[:0:-1]
        self.narrow = nn.ModuleList(ConvBlock(c, f, 1) for c, f in zip(coarser, finer, strict=True))
        self.skips = nn.ModuleList(skip(f) for f in finer)
        self.joins = nn.ModuleList(nn.Sequential(ConvBlock(2 * f, f), ConvBlock(f, f)) for f in finer)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, bottom: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Logits [N, 1, S, S] from the encoder's coarsest map and the finer ones, coarse to fine."""
        x = bottom
        for narrow, skip, join, encoded in zip(self.narrow, self.skips, self.joins, maps, strict=True):
            x = F.interpolate(narrow(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = join(torch.cat([x, skip(x, encoded)], dim=1))
        return self.head(x)


def _resize(x: Tensor, size: int) -> Tensor:
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


class SizeHead(nn.Sequential):
    """MLP from pooled features [N, D] to the nodule's area fraction [N, 1] in 0..1 (authors' widths for D = 768)."""

    def __init__(self, dim: int) -> None:
        hidden = [max(dim // 3, 32), max(dim // 6, 16), max(dim // 12, 8)]
        layers: list[nn.Module] = []
        for a, b in zip([dim, *hidden], [*hidden, 1], strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1], nn.Sigmoid())
