"""U-Net (Ronneberger et al. 2015) out of MONAI's parts, the plainest baseline: the nodule alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn

from trainer.nets.network import Network, Outputs


class Expanding(nn.Module):
    """The expanding half of MONAI's BasicUNet."""

    def __init__(self, whole: BasicUNet) -> None:
        super().__init__()
        self.joins = nn.ModuleList([whole.upcat_4, whole.upcat_3, whole.upcat_2, whole.upcat_1])
        self.head = whole.final_conv

    def forward(self, bottom: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """Logits [N, 1, S, S] from the map at S / 16 and those at S / 8 .. S."""
        x = bottom
        for join, skip in zip(self.joins, skips, strict=True):
            x = join(x, skip)
        return self.head(x)


class UNet(Network):
    """MONAI's BasicUNet with batch normalisation and ReLU, which export folds and fuses, on one gray channel.

    The widths are those of the original. Upsampling is a 1 x 1 convolution and bilinear, not a transposed
    convolution, which no backend here runs in INT8.

    Args:
        input_size: side S of the square input, a multiple of 16.
        widths: channels at S, S / 2, S / 4, S / 8 and S / 16.
    """

    tasks = ("nodule",)
    channels = 1

    def __init__(
        self, input_size: int = 224, widths: tuple[int, int, int, int, int] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        whole = BasicUNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            features=(*widths, widths[0]),
            act=("RELU", {"inplace": True}),
            norm=("batch", {"affine": True}),
            bias=False,
            upsample="nontrainable",
        )
        # in two halves, so that one can be frozen
        self.contracting = nn.ModuleList([whole.conv_0, whole.down_1, whole.down_2, whole.down_3, whole.down_4])
        self.nodule = Expanding(whole)

    def forward(self, x: Tensor, tasks: Collection[str]) -> Outputs:
        """Normalised gray frames [N, 1, S, S] to the outputs of the tasks asked for; see `Network`."""
        if "nodule" not in tasks:
            return {}
        maps = [x]
        for level in self.contracting:
            maps.append(level(maps[-1]))
        *skips, bottom = maps[1:]
        return {"nodule": self.nodule(bottom, skips[::-1]), "nodule_coarse": []}

    def input_convolutions(self) -> list[nn.Conv2d]:
        return [next(m for m in self.contracting.modules() if isinstance(m, nn.Conv2d))]
