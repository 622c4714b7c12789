"""PyTorch on a CPU as its documentation tells to run a network for latency: what engines have to beat there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssmt_edge.errors import BackendUnavailable
from ssmt_edge.spec import ModelSpec
from trainer.checkpoint import load_checkpoint
from trainer.deployed import Deployed

COMPILERS = ("g++", "clang++", "c++")


class CpuPeer:
    """A deployed network behind the Engine protocol, FP32, channels last."""

    max_batch = 1

    def __init__(self, deployed: Deployed, compiled: bool, threads: int) -> None:
        """BackendUnavailable where it shall be compiled and there is no compiler."""
        torch.set_num_threads(threads)
        self.spec: ModelSpec = deployed.spec
        self.outputs = deployed.outputs
        self._compiled = compiled
        self._run: Any = deployed.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self._run = _compile(self._run)

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """uint8 [1, 1, S, S] to the outputs by name."""
        # weights are frozen into compiled code under no_grad only
        with torch.no_grad() if self._compiled else torch.inference_mode():
            outputs = self._run(torch.from_numpy(frames))
        return {name: value.numpy() for name, value in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._run = None

    def __enter__(self) -> CpuPeer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _compile(module: Any) -> Any:
    import torch._inductor.config as inductor

    if not any(map(shutil.which, COMPILERS)):
        raise BackendUnavailable("torch.compile needs a C++ compiler on the PATH, such as g++; install one")
    inductor.freezing = True  # weights become constants in the layout that oneDNN likes
    return torch.compile(module, mode="max-autotune")


def load_deployed(checkpoint: Path, outputs: tuple[str, ...] | None) -> Deployed:
    """A checkpoint's network with these outputs; None: with all its tasks, as it was trained.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    loaded = load_checkpoint(checkpoint)
    return Deployed(loaded.network, loaded.spec, outputs or loaded.network.tasks).eval()
