"""The interface that all networks share, so that trainer, export and engines never ask which one it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from trainer.nets.blocks import MaskDecoder, SizeHead

TASKS = ("nodule", "gland", "size", "reconstruction")
"""each also the name of its decoder or head in the network"""
Outputs = dict[str, Tensor | list[Tensor]]


class Network(nn.Module):
    """Base of all networks."""

    tasks: tuple[str, ...] = TASKS
    """what it can learn, of `TASKS`: `nodule` always; baselines nothing else, as their authors have it"""
    channels: int
    """input channels: 1, or 3 equal ones so that ImageNet weights fit"""
    shared: str
    """dotted name of the module whose output is the last that all tasks have in common, where there are several; see
    `trainer.weighting`"""
    nodule: nn.Module
    gland: nn.Module
    reconstruction: MaskDecoder
    size: SizeHead
    frozen = False

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised frames [N, channels, S, S] to the outputs of the tasks asked for; one that is not among `tasks` of
        the network is left out. Outputs:

        nodule, gland                   logits [N, 1, S, S]
        nodule_coarse, gland_coarse     lists of logits of coarser masks, for deep supervision; come with the task,
                                        empty where a network has none
        reconstruction                  normalised gray [N, 1, S, S]
        size                            nodule area fraction [N], 0..1
        """
        raise TypeError(f"{type(self).__name__} defines no forward")

    def decode(
        self, bottom: Tensor, skips: Sequence[Tensor], pooled: Tensor, size: int, tasks: Collection[str]
    ) -> Outputs:
        """The tasks' outputs from the encoder's maps: what every network's `forward` ends with.

        Args:
            bottom: coarsest map [N, C, H, W].
            skips: finer maps, coarse to fine.
            pooled: one vector a frame [N, D], for the size.
            size: side S of the outputs.
            tasks: of `nodule`, `gland`, `reconstruction`, `size`.
        """
        out: Outputs = {}
        for task in ("nodule", "gland"):
            if task in tasks:
                out[task], out[f"{task}_coarse"] = getattr(self, task)(bottom, skips, size)
        if "reconstruction" in tasks:
            out["reconstruction"], _ = self.reconstruction(bottom, [], size)
        if "size" in tasks:
            out["size"] = self.size(pooled)[:, 0]
        return out

    def input_convolutions(self) -> list[nn.Conv2d]:
        """The convolutions that read the frame itself; export folds gray channels and scale into them."""
        raise TypeError(f"{type(self).__name__} defines no input_convolutions")

    def freeze_encoder(self) -> None:
        """Leaves only decoders and heads to train; the frozen part stays in evaluation mode from now on."""
        self.frozen = True
        for child in self._encoder():
            child.requires_grad_(False).eval()
        for parameter in self.parameters(recurse=False):  # position embeddings
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        if self.frozen:  # its batch statistics belong to the data it was trained on
            for child in self._encoder():
                child.eval()
        return self

    def _encoder(self) -> list[nn.Module]:
        return [child for name, child in self.named_children() if name not in TASKS]

    def load_pretrained(self, resnet: str, vit: str) -> None:
        """Encoder weights from the hub or from local folders in the hub's format. OSError without network or cache;
        RuntimeError for weights of other sizes; ValueError for missing weights or a network without such encoders."""
        raise ValueError(f"{type(self).__name__} has no ResNet and ViT encoders")
