"""SSMT-Net (arXiv 2512.12662): parallel ResNet-50 and ViT-B/16 encoders, a decoder per task, size, reconstruction."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTModel

from trainer.nets.blocks import ConvBlock, MaskDecoder, SizeHead
from trainer.nets.encoders import Patches, load_encoder
from trainer.nets.network import Network, Outputs


class SsmtNet(Network):
    """Local features of a ResNet and global ones of a ViT meet at S / 16; each mask task has a decoder of its own.

    Encoders are those of `transformers`, so that `from_pretrained` weights fit by name. The paper leaves the fusion
    open: here both maps are concatenated and mixed by one 1 x 1 and one 3 x 3 convolution.

    Args:
        input_size: side S of the square input, a multiple of 32.
        resnet: overrides of `ResNetConfig`; the default is ResNet-50.
        vit: overrides of `ViTConfig`; the default is ViT-B/16.
        fused: channels after fusion.
        decoder: channels of the CNN decoder at S / 8, S / 4, S / 2 and S.
        queries: learnable queries of each masked transformer decoder, 0 for CNN decoders alone.
    """

    channels = 3  # gray repeated, so that ImageNet weights fit; folded to one channel at export
    shared = "vit.layernorm"  # not `fuse`: the size comes from the ViT alone

    def __init__(
        self,
        input_size: int = 224,
        resnet: dict[str, object] | None = None,
        vit: dict[str, object] | None = None,
        fused: int = 512,
        decoder: tuple[int, int, int, int] = (256, 128, 64, 16),
        queries: int = 16,
    ) -> None:
        super().__init__()
        resnet_config = ResNetConfig(**(resnet or {}))
        vit_config = ViTConfig(image_size=input_size, **(vit or {}))
        self.resnet = ResNetModel(resnet_config)
        self.vit = ViTModel(vit_config, add_pooling_layer=False)
        self.vit.embeddings.patch_embeddings = Patches(self.vit.embeddings.patch_embeddings.projection)
        widths = resnet_config.hidden_sizes  # 256, 512, 1024, 2048 at S / 4 .. S / 32
        dim = vit_config.hidden_size
        self.deepest = nn.Conv2d(widths[3], widths[2] // 2, 1)
        self.fuse = nn.Sequential(ConvBlock(widths[2] + widths[2] // 2 + dim, fused, 1), ConvBlock(fused, fused))
        skips = (widths[1], widths[0], resnet_config.embedding_size)
        self.nodule = MaskDecoder(fused, skips, decoder, depth=2, queries=queries)
        self.gland = MaskDecoder(fused, skips, decoder, depth=2, queries=queries)
        # without skips, so that the code must hold the image
        self.reconstruction = MaskDecoder(fused, (), decoder)
        self.size = SizeHead(dim)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised frames [N, 3, S, S] to the outputs of the tasks asked for; see `Network`."""
        stem = self.resnet.embedder.embedder(x)  # [N, 64, S / 2, S / 2], before the max pooling: the finest skip
        x4 = self.resnet.embedder.pooler(stem)
        maps = [stem]
        for stage in self.resnet.encoder.stages:
            x4 = stage(x4)
            maps.append(x4)
        tokens = self.vit(x).last_hidden_state  # [N, 1 + L, D]
        local = maps[3]  # S / 16
        wide = tokens[:, 1:].transpose(1, 2).unflatten(2, local.shape[-2:])
        deep = F.interpolate(self.deepest(maps[4]), size=local.shape[-2:], mode="bilinear", align_corners=False)
        bottom = self.fuse(torch.cat([local, deep, wide], dim=1))
        skips = [maps[2], maps[1], maps[0]]
        return self.decode(bottom, skips, tokens[:, 0], x.shape[-1], tasks)

    def input_convolutions(self) -> list[nn.Conv2d]:
        return [self.resnet.embedder.embedder.convolution, self.vit.embeddings.patch_embeddings.projection]

    def load_pretrained(self, resnet: str, vit: str) -> None:
        load_encoder(self.resnet, resnet)
        load_encoder(self.vit, vit, add_pooling_layer=False)
