"""What PyTorch itself counts for a network: the check of `engines.count`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssmt_edge.spec import ModelSpec
from trainer.checkpoint import save_checkpoint
from trainer.nets import NETWORKS, build_network

__all__ = ["NETWORKS", "random_checkpoint", "torch_mac"]


def torch_mac(name: str, input_size: int) -> int:
    """Multiply-accumulates a frame of a whole network, all its tasks, by PyTorch's counter (which counts two
    operations for each, of convolutions, matrix products and attention). Nothing is computed and no weight is made.

    Raises:
        UsageError: unknown network, or a size that it does not take.
    """
    with torch.device("meta"):
        network = build_network(name, input_size).eval().requires_grad_(False)
        frame = torch.zeros(1, network.channels, input_size, input_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(frame, network.tasks)
    return int(counter.get_total_flops()) // 2


def random_checkpoint(name: str, input_size: int, path: Path) -> None:
    """A checkpoint of fresh weights, all tasks declared trained: for what does not depend on weights."""
    torch.manual_seed(0)
    network = build_network(name, input_size)
    outputs = tuple(task for task in ("nodule", "gland", "size") if task in network.tasks)
    save_checkpoint(path, network, ModelSpec(name, input_size, gray_mean=60.0, gray_scale=0.02, outputs=outputs), {})
