"""From a checkpoint to the deployed ONNX graph. The only module of `engines` that knows PyTorch."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim
import torch
from numpy.typing import NDArray
from torch import nn

from engines import onnxruntime_cpu
from engines.graph import OPSET, Graph, round_weights, save_graph
from engines.options import Say
from engines.parity import max_difference, phantom_frames
from engines.tidy import tidy
from ssmt_edge.errors import ExportError
from trainer.checkpoint import load_checkpoint
from trainer.deployed import Deployed

# one gray level: what rounding alone may do; the contract allows two
TOLERANCE = 2 / 255


def export(
    checkpoint: Path,
    with_gland: bool = False,
    max_batch: int = 32,
    half_weights: bool = False,
    out: Path | None = None,
    say: Say = lambda line: None,
) -> Graph:
    """Exports a checkpoint and compares with PyTorch after every step, on phantoms.

    Args:
        checkpoint: file of `trainer.checkpoint`.
        with_gland: adds the output `gland`.
        max_batch: largest batch that engines will accept.
        half_weights: store weights in half precision (half the file, FP32 arithmetic).
        out: ONNX file to write, None for none.
        say: receives a line a step.

    Raises:
        CheckpointError: the file cannot be used.
        ExportError: no nodule or gland labels were trained, or a step changes the outputs by more than 2/255.
    """
    loaded = load_checkpoint(checkpoint)
    wanted = ("nodule", "gland", "size") if with_gland else ("nodule", "size")
    for name in ("nodule", "gland") if with_gland else ("nodule",):
        if name not in loaded.spec.outputs:
            raise ExportError(f"{checkpoint} was never trained with {name} labels; train with them, or leave it out")
    reference = Deployed(loaded.network, loaded.spec, tuple(w for w in wanted if w in loaded.spec.outputs)).eval()
    frames = phantom_frames(loaded.spec, min(4, max_batch))
    expected = _torch_outputs(reference, frames)

    folded = fold_gray(reference)
    _check("gray folded into the first convolutions", _torch_outputs(folded, frames), expected, say)

    graph = Graph(_to_onnx(folded, max_batch), loaded.spec, loaded.sha256, max_batch)
    _check("ONNX", _onnx_outputs(graph, frames), expected, say)

    graph = replace(graph, model=tidy(_simplify(graph.model)))
    _check("simplified", _onnx_outputs(graph, frames), expected, say)

    if half_weights:
        graph = round_weights(graph)
        _check("weights stored in half precision", _onnx_outputs(graph, frames), expected, say)
    if out is not None:
        save_graph(graph, out, half_weights)
    return graph


def export_plain(checkpoint: Path) -> Graph:
    """A checkpoint's network as it was trained: every task's decoder, the channels that it was built for, nothing
    folded into the first convolution, nothing simplified; for batch 1. What anybody gets who exports a network plainly.

    Outputs are the network's own tasks: `nodule` and `gland` (also where no gland label was ever seen) uint8
    [1, 1, S, S], `size` float32 [1], `reconstruction` float32 [1, 1, S, S], normalised gray.

    Raises:
        CheckpointError: the file cannot be used.
        ExportError: the graph's outputs differ from PyTorch's by more than 2/255.
    """
    loaded = load_checkpoint(checkpoint)
    plain = Deployed(loaded.network, loaded.spec, loaded.network.tasks).eval()
    graph = Graph(_to_onnx(plain, 1), loaded.spec, loaded.sha256, 1)
    frames = phantom_frames(loaded.spec, 1)
    _check("ONNX, as trained", _onnx_outputs(graph, frames), _torch_outputs(plain, frames), lambda line: None)
    return graph


def fold_gray(deployed: Deployed) -> Deployed:
    """The same function with one input channel and the gray scale inside the first convolutions.

    Exact: the channels are equal, so their weights add up, and the mean is subtracted before any padding. (Folding
    the mean as well would be wrong at zero-padded borders.)
    """
    network = copy.deepcopy(deployed.network)
    for convolution in network.input_convolutions():
        weight = convolution.weight.double().sum(dim=1, keepdim=True) * deployed.spec.gray_scale
        convolution.weight = nn.Parameter(weight.float(), requires_grad=False)
        convolution.in_channels = 1
    network.channels = 1
    unscaled = replace(deployed.spec, gray_scale=1.0)
    return Deployed(network, unscaled, deployed.outputs).eval()


def _to_onnx(deployed: Deployed, max_batch: int) -> onnx.ModelProto:
    size = deployed.spec.input_size
    # a batch of 1 would be taken for a constant, which is right only where nothing else is asked for
    example = torch.zeros((min(2, max_batch), 1, size, size), dtype=torch.uint8)
    batch = torch.export.Dim("N", min=1, max=max_batch) if max_batch > 1 else None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            deployed,
            (example,),
            input_names=["frame"],
            output_names=list(deployed.outputs),
            opset_version=OPSET,
            dynamic_shapes=({0: batch},) if batch else None,
            external_data=False,
            dynamo=True,
        )
    if program is None:
        raise ExportError("PyTorch's exporter returned no graph; check the versions of torch and onnxscript")
    model: onnx.ModelProto = program.model_proto
    found = {o.domain: o.version for o in model.opset_import}.get("", 0)
    if found != OPSET:
        raise ExportError(f"PyTorch's exporter wrote opset {found}, expected {OPSET}; install the pinned versions")
    return model


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    simplified, valid = onnxsim.simplify(model)
    if not valid:
        raise ExportError("onnxsim could not validate its simplified graph; install the pinned versions")
    del simplified.graph.value_info[:]
    for node in simplified.graph.node:
        del node.metadata_props[:]  # the exporter's stack traces: half a megabyte and machine paths
        node.doc_string = ""
    for value in (*simplified.graph.input, *simplified.graph.output, *simplified.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del simplified.graph.metadata_props[:]
    cleaned: onnx.ModelProto = simplified
    return cleaned


@torch.inference_mode()
def _torch_outputs(deployed: Deployed, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    outputs = deployed(torch.from_numpy(frames))
    return {name: value.numpy() for name, value in zip(deployed.outputs, outputs, strict=True)}


def _onnx_outputs(graph: Graph, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    with onnxruntime_cpu.open_graph(graph) as engine:
        return engine.infer(frames)


def _check(step: str, found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]], say: Say) -> None:
    difference = max_difference(found, expected)
    say(f"{step}: largest difference {max(difference.values()):.4f}")
    for name, value in difference.items():
        if not value <= TOLERANCE:
            raise ExportError(
                f"after the step '{step}' the output {name!r} differs from PyTorch by {value:.4f}, allowed "
                f"{TOLERANCE:.4f}; this network or these versions cannot be exported"
            )
