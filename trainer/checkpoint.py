"""Checkpoints: one safetensors file with weights, ModelSpec and configuration. No pickle, so nothing is executed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssmt_edge.errors import CheckpointError, UsageError
from ssmt_edge.files import replacing, sha256
from ssmt_edge.spec import ModelSpec
from trainer.nets import build_network
from trainer.nets.network import Network

FORMAT = "ssmt-edge-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A network in evaluation mode with what belongs to it."""

    network: Network
    spec: ModelSpec
    config: dict[str, Any]
    sha256: str


def save_checkpoint(path: Path, network: Network, spec: ModelSpec, config: dict[str, Any], half: bool = False) -> None:
    """Weights (in half precision if `half`), spec and configuration in one file, atomically."""
    tensors = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        tensors[name] = value.half() if half and value.is_floating_point() else value
    metadata = {"format": FORMAT, "spec": spec.to_json(), "config": json.dumps(config)}
    with replacing(path) as part:
        part.write_bytes(_with_metadata(save(tensors), metadata))


def _with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """A safetensors file's bytes with metadata in the order given: the library's own order is random, and equal
    checkpoints must have equal digests."""
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(content[8 : 8 + length])}).encode()
    header += b" " * (-len(header) % 8)  # the format aligns the tensors so
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def read_weights(path: Path) -> tuple[dict[str, Tensor], ModelSpec, dict[str, Any]]:
    """Tensors, spec and configuration of a checkpoint file.

    Raises:
        CheckpointError: missing, damaged, of another format or version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint (.safetensors)")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of ssmt-edge ({error}); expected the .safetensors file that train writes"
        ) from None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {metadata.get('format')!r}, expected {FORMAT!r}; train it again")
    try:
        return tensors, ModelSpec.from_json(metadata["spec"]), json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has unusable metadata ({error}); train it again") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """The network of a checkpoint file, float32, in evaluation mode.

    Raises:
        CheckpointError: as `read_weights`, or the weights do not fit the network that the spec names.
    """
    tensors, spec, config = read_weights(path)
    try:
        network = build_network(spec.model, spec.input_size)
    except UsageError as error:  # not the user's choice: the file's
        raise CheckpointError(f"{path} holds an {error}") from None
    try:
        network.load_state_dict({k: v.float() if v.dtype == torch.float16 else v for k, v in tensors.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        reason = reason.split(",")[0]  # the first of the names, which may be hundreds
        raise CheckpointError(f"{path} does not fit network {spec.model!r}: {reason}") from None
    network.eval().requires_grad_(False)
    return Checkpoint(network, spec, config, sha256(path))
