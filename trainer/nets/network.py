"""The interface that all networks share, so that trainer, export and engines never ask which one it is."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

Outputs = dict[str, Tensor | list[Tensor]]


class Network(nn.Module):
    """Base of all networks."""

    channels: int
    """input channels: 1, or 3 equal ones so that ImageNet weights fit"""

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised frames [N, channels, S, S] to the outputs of the tasks asked for, of:

        nodule, gland                   logits [N, 1, S, S]
        nodule_coarse, gland_coarse     lists of logits of coarser masks, for deep supervision; come with the task
        reconstruction                  normalised gray [N, 1, S, S]
        size                            nodule area fraction [N], 0..1
        """
        raise TypeError(f"{type(self).__name__} defines no forward")

    def input_convolutions(self) -> list[nn.Conv2d]:
        """The convolutions that read the frame itself; export folds gray channels and scale into them."""
        raise TypeError(f"{type(self).__name__} defines no input_convolutions")

    def load_pretrained(self, resnet: str, vit: str) -> None:
        """Encoder weights from the hub or from local folders in the hub's format. OSError without network or cache;
        RuntimeError for weights of other sizes; ValueError for missing weights or a network without such encoders."""
        raise ValueError(f"{type(self).__name__} has no ResNet and ViT encoders")
