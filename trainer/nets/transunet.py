"""TransUNet (arXiv 2102.04306), the baseline that SSMT-Net is measured against: the nodule alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BitConfig, BitModel, ViTConfig, ViTModel

from trainer.nets.blocks import ConvBlock
from trainer.nets.encoders import load_encoder
from trainer.nets.network import Network, Outputs

# where the hub's hybrid of the same two encoders, google/vit-hybrid-base-bit-384, keeps its ResNet
_HYBRID = {r"^vit\.embeddings\.patch_embeddings\.backbone\.bit\.": ""}


class CascadedUpsampler(nn.Module):
    """Decoder: per level twice the size, joined with the encoder's map if there is one, two 3 x 3 convolutions.

    Args:
        bottom: channels of the coarsest map.
        skips: channels of the encoder's maps, coarse to fine; further widths than skips upsample without a join.
        widths: channels before the first level and after each.
    """

    def __init__(self, bottom: int, skips: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.enter = ConvBlock(bottom, widths[0])
        self.levels = nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            joined = before + (skips[i] if i < len(skips) else 0)
            self.levels.append(nn.Sequential(ConvBlock(joined, after), ConvBlock(after, after)))
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, bottom: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Logits [N, 1, S, S] from the map at S / 16 and those at S / 8, S / 4 and S / 2."""
        x = self.enter(bottom)
        for i, level in enumerate(self.levels):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = level(torch.cat([x, skips[i]], dim=1) if i < len(skips) else x)
        return self.head(x)


class TransUNet(Network):
    """ResNetV2-50 up to S / 16, a ViT-B/16's layers on its map, a CNN decoder with the ResNet's maps as skips.

    Against the authors' code: the ViT keeps its class token (the hub's position embeddings have one); bilinear
    upsampling without aligned corners; the stem's weights are not standardised, so that export can fold the gray
    scale into them, which the group normalisation behind it cancels anyway; no dropout.

    Args:
        input_size: side S of the square input, a multiple of 16.
        resnet: overrides of `BitConfig`; the default is ResNetV2-50 with 3, 4 and 9 blocks.
        vit: overrides of `ViTConfig`; the default is ViT-B.
        decoder: channels of the decoder at S / 16, S / 8, S / 4, S / 2 and S.
    """

    tasks = ("nodule",)
    channels = 3  # gray repeated, so that ImageNet weights fit; folded to one channel at export

    def __init__(
        self,
        input_size: int = 224,
        resnet: dict[str, object] | None = None,
        vit: dict[str, object] | None = None,
        decoder: tuple[int, int, int, int, int] = (512, 256, 128, 64, 16),
    ) -> None:
        super().__init__()
        three = {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024], "depths": [3, 4, 9]}
        config = BitConfig(**{**three, **(resnet or {})})
        self.resnet = BitModel(config)
        stem = config.embedding_size
        self.resnet.embedder.convolution = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        *fine, widest = config.hidden_sizes
        # every position of the ResNet's map is a patch
        self.vit = ViTModel(
            ViTConfig(image_size=input_size // 16, patch_size=1, num_channels=widest, **(vit or {})),
            add_pooling_layer=False,
        )
        self.nodule = CascadedUpsampler(self.vit.config.hidden_size, (*fine[::-1], stem), decoder)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised frames [N, 3, S, S] to the outputs of the tasks asked for; see `Network`."""
        if "nodule" not in tasks:
            return {}
        embedder = self.resnet.embedder  # called piece by piece: the map before the pooling is the finest skip
        stem = embedder.norm(embedder.convolution(x))  # [N, 64, S / 2, S / 2]
        maps = [stem, F.max_pool2d(stem, 3, stride=2, padding=1)]
        for stage in self.resnet.encoder.stages:
            maps.append(stage(maps[-1]))
        grid = maps[-1]  # [N, 1024, S / 16, S / 16]
        tokens = self.vit(grid).last_hidden_state[:, 1:]  # [N, L, D]
        bottom = tokens.transpose(1, 2).unflatten(2, grid.shape[-2:])
        return {"nodule": self.nodule(bottom, [maps[3], maps[2], maps[0]]), "nodule_coarse": []}

    def input_convolutions(self) -> list[nn.Conv2d]:
        return [self.resnet.embedder.convolution]

    def load_pretrained(self, resnet: str, vit: str) -> None:
        """See `Network`. `resnet` is a hybrid ViT such as google/vit-hybrid-base-bit-384 or a BitModel of bottleneck
        layers; of `vit` the patch projection is left out, which here reads the ResNet's map."""
        loaded = load_encoder(self.resnet, resnet, key_mapping=_HYBRID)
        weight = loaded.embedder.convolution.weight.detach().float()
        deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        with torch.no_grad():  # standardised here once, see above
            self.resnet.embedder.convolution.weight.copy_((weight - mean) / (deviation**2 + 1e-8).sqrt())
        load_encoder(self.vit, vit, own=("embeddings.patch_embeddings.",), add_pooling_layer=False)
