"""PyTorch on a GPU as its documentation tells to run a network for speed: what TensorRT has to beat.

Half precision, channels last, cuDNN's own search for the fastest convolution, pinned memory for frames and masks.
Without a GPU the same runs on the CPU, uncompiled: to rehearse, its times say nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssmt_edge.errors import UsageError
from ssmt_edge.spec import ModelSpec
from trainer.checkpoint import load_checkpoint
from trainer.deployed import Deployed

HOW = {
    "eager": "PyTorch eager, FP16",
    "reduce-overhead": "torch.compile reduce-overhead (CUDA graphs), FP16",
    "max-autotune": "torch.compile max-autotune (CUDA graphs), FP16",
}
MAX_BATCH = 1024


class InHalf(nn.Module):
    """A network that computes in half precision between float32 frames and float32 outputs."""

    def __init__(self, network: nn.Module, channels: int) -> None:
        super().__init__()
        self.network, self.channels = network.half(), channels

    def forward(self, frames: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
        raw = self.network(frames.half(), outputs)
        return {name: raw[name].float() for name in outputs}  # networks may return more than that


class TorchPeer:
    """A deployed network behind the Engine protocol; `last_times_ms["compute"]` by the device's clock, on a GPU."""

    max_batch = MAX_BATCH

    def __init__(self, deployed: Deployed, how: str) -> None:
        self.spec: ModelSpec = deployed.spec
        self.outputs = deployed.outputs
        self.last_times_ms: dict[str, float] = {}
        self._gpu = torch.cuda.is_available()
        self._device = "cuda" if self._gpu else "cpu"
        torch.backends.cudnn.benchmark = True
        module = deployed.eval().to(self._device)
        if self._gpu:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = how != "eager"
        self._run: Any = module
        if self._compiled:
            torch._dynamo.reset()
            self._run = torch.compile(module, mode=how) if self._gpu else torch.compile(module, backend="eager")
        self._sets: dict[int, tuple[Tensor, Tensor]] = {}
        self._back: dict[int, list[Tensor]] = {}

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        # compiled code keeps buffers between calls, which inference mode would forbid it to change
        with torch.no_grad() if self._compiled else torch.inference_mode():
            return self._infer(frames) if self._gpu else self._infer_on_cpu(frames)

    def _infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        batch = len(frames)
        if batch not in self._sets:
            pinned = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=True)
            self._sets[batch] = pinned, torch.empty(frames.shape, dtype=torch.uint8, device=self._device)
        pinned, given = self._sets[batch]
        started, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        pinned.copy_(torch.from_numpy(frames))
        given.copy_(pinned, non_blocking=True)
        if self._compiled:
            torch.compiler.cudagraph_mark_step_begin()
        started.record()
        outputs = self._run(given)
        done.record()
        if batch not in self._back:
            self._back[batch] = [torch.empty(o.shape, dtype=o.dtype, pin_memory=True) for o in outputs]
        for host, output in zip(self._back[batch], outputs, strict=True):
            host.copy_(output, non_blocking=True)
        torch.cuda.synchronize()
        self.last_times_ms = {"compute": started.elapsed_time(done)}
        return {name: host.numpy().copy() for name, host in zip(self.outputs, self._back[batch], strict=True)}

    def _infer_on_cpu(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        outputs = self._run(torch.from_numpy(frames))
        return {name: value.numpy() for name, value in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._run = None
        self._sets, self._back = {}, {}
        if self._gpu:
            torch.cuda.empty_cache()

    def __enter__(self) -> TorchPeer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_peer(checkpoint: Path, how: str) -> TorchPeer:
    """A checkpoint's nodule and size, as an engine that was exported from it gives them.

    Args:
        how: a key of `HOW`.

    Raises:
        UsageError: another one.
        CheckpointError: see `load_checkpoint`.
    """
    loaded = load_checkpoint(checkpoint)
    outputs = tuple(name for name in ("nodule", "size") if name in loaded.spec.outputs)
    return peer_of(Deployed(loaded.network, loaded.spec, outputs), how)


def peer_of(deployed: Deployed, how: str) -> TorchPeer:
    """A network, which is changed, as an engine; UsageError unless `how` is a key of `HOW`."""
    if how not in HOW:
        raise UsageError(f"PyTorch {how!r}, expected one of {', '.join(HOW)}")
    deployed.network = InHalf(deployed.network, deployed.network.channels)  # type: ignore[assignment]
    return TorchPeer(deployed, how)


def versions() -> dict[str, Any]:
    """PyTorch, its CUDA and cuDNN, and the GPU that it sees."""
    gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": torch.cuda.get_device_name() if gpu else "cpu",
    }
