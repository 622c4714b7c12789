"""What an engine computes, in PyTorch: the reference that every later form is compared with."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmt_edge.spec import ModelSpec
from trainer.checkpoint import load_checkpoint
from trainer.module import normalise
from trainer.nets.network import Network


class Deployed(nn.Module):
    """uint8 frames [N, 1, S, S] to uint8 probabilities x 255 and the size: normalisation, network, sigmoid.

    The nodule's logits are divided by the spec's temperature (Guo et al. 2017, On Calibration of Modern Neural
    Networks), so every engine made from it has it.

    Args:
        network: of `trainer.nets`, in evaluation mode.
        outputs: of `nodule`, `gland`, `size`, `reconstruction`; returned in this order, the last as the network gives
            it.
    """

    def __init__(self, network: Network, spec: ModelSpec, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.spec, self.outputs = network, spec, outputs

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        raw = self.network(normalise(frame.float(), self.spec, self.network.channels), self.outputs)
        if "nodule" in raw and self.spec.temperature != 1:
            raw["nodule"] = raw["nodule"] * (1 / self.spec.temperature)  # a product, which INT8 knows as part of a head
        return tuple(
            # + 0.5: a cast truncates
            (torch.sigmoid(raw[name]) * 255 + 0.5).to(torch.uint8) if name in ("nodule", "gland") else raw[name]
            for name in self.outputs
        )


class TorchEngine:
    """A checkpoint behind the Engine protocol, on a GPU if there is one: for evaluation."""

    max_batch = 64

    def __init__(self, deployed: Deployed) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.deployed = deployed.to(self.device)

    @property
    def spec(self) -> ModelSpec:
        return self.deployed.spec

    @torch.inference_mode()
    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        outputs = self.deployed(torch.from_numpy(frames).to(self.device))
        return {name: value.cpu().numpy() for name, value in zip(self.deployed.outputs, outputs, strict=True)}

    def close(self) -> None:
        self.deployed.to("cpu")

    def __enter__(self) -> TorchEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: Path, threads: int | None = None) -> TorchEngine:
    """A checkpoint as an engine with its trained outputs, on a GPU if there is one.

    Args:
        threads: CPU threads of PyTorch (process-wide), None to leave them.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    checkpoint = load_checkpoint(path)
    if threads:
        torch.set_num_threads(threads)
    outputs = tuple(name for name in ("nodule", "gland", "size") if name in checkpoint.spec.outputs)
    return TorchEngine(Deployed(checkpoint.network, checkpoint.spec, outputs))
