"""The table of networks; `network.Network` is what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ssmt_edge.errors import UsageError
from trainer.nets.network import Network
from trainer.nets.ssmt_lite import SsmtLite
from trainer.nets.ssmt_net import SsmtNet
from trainer.nets.transunet import TransUNet
from trainer.nets.uesa_net import UesaNet
from trainer.nets.unet import UNet
from trainer.nets.us_net import UsNet

NETWORKS: dict[str, Callable[..., Network]] = {
    "ssmt-net": SsmtNet,
    "ssmt-net-cnn": partial(SsmtNet, queries=0),
    "ssmt-lite": SsmtLite,
    "transunet": TransUNet,
    "unet": UNet,
    "us-net": UsNet,
    "uesa-net": UesaNet,
    # SSMT-Net with every part but little of each: for tests and for trying a command before a long run
    "ssmt-net-tiny": partial(
        SsmtNet,
        resnet={"hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1], "embedding_size": 16, "layer_type": "basic"},
        vit={"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96},
        fused=64,
        decoder=(48, 32, 16, 8),
        queries=4,
    ),
}

DESCRIPTIONS = {
    "ssmt-net": "SSMT-Net after the paper: ResNet-50 beside ViT-B/16, masked transformer decoders",
    "ssmt-net-cnn": "SSMT-Net without the masked transformer decoders: what they add",
    "ssmt-lite": "SSMT-Net's tasks at about 1 GMAC, for live streams",
    "transunet": "TransUNet: ResNetV2-50, then ViT-B/16 (nodule only)",
    "unet": "U-Net out of MONAI's parts (nodule only)",
    "us-net": "US-Net, after the abstract: no code is public (nodule only)",
    "uesa-net": "UESA-Net, after the abstract: no code is public (nodule only)",
    "ssmt-net-tiny": "every part of SSMT-Net, little of each: for trying a command",
}
"""a line on each network, for tables and help"""


def build_network(name: str, input_size: int) -> Network:
    """A network of the table with fresh weights; UsageError lists the names for an unknown one."""
    if name not in NETWORKS:
        raise UsageError(f"unknown network {name!r}; expected one of {', '.join(NETWORKS)}")
    if input_size % 32:
        raise UsageError(f"input size {input_size} is not a multiple of 32")
    return NETWORKS[name](input_size=input_size)
