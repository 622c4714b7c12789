"""What is decided on validation data after training: the temperature of the probabilities, then the threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssmt_edge.dataset import Sample, read_gray, read_mask
from ssmt_edge.errors import DataError
from ssmt_edge.evaluate import choose_threshold
from ssmt_edge.geometry import input_roi, to_input
from ssmt_edge.spec import ModelSpec
from trainer.deployed import Deployed, TorchEngine
from trainer.module import normalise
from trainer.nets.network import Network

LOWEST, HIGHEST = 0.2, 10.0
"""temperatures that are tried: masks that are all right, or all wrong, have none of their own"""


def decide(network: Network, spec: ModelSpec, validation: Sequence[Sample]) -> ModelSpec:
    """The spec with the temperature fitted on validation frames and, with it, the threshold of the best mean Dice.

    Args:
        network: set to evaluation mode.
        validation: frames with nodule masks.

    Raises:
        DataError: none of them, one without a nodule mask, or one that is unreadable.
    """
    network.eval()
    spec = replace(spec, temperature=fit_temperature(*validation_logits(network, spec, validation)))
    return replace(spec, threshold=choose_threshold(TorchEngine(Deployed(network, spec, ("nodule",))), validation))


@torch.inference_mode()
def validation_logits(network: Network, spec: ModelSpec, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """The nodule's logits and truth (0 or 1) of every second pixel and row of the network's input, both float32 [K].

    Padding of letterboxed frames is left out. Neighbouring pixels say nearly the same, so a quarter of them will do.
    """
    device = next(network.parameters()).device
    logits, truths = [], []
    for sample in samples:
        if sample.nodule is None:
            raise DataError(f"{sample.image} has no nodule mask; validation needs one for every image")
        gray = read_gray(sample.image)
        roi = input_roi([gray], spec)
        frame = torch.from_numpy(to_input(gray, roi, spec)).float()[None, None].to(device)
        found = network(normalise(frame, spec, network.channels), ("nodule",))["nodule"]
        assert isinstance(found, Tensor)
        truth = to_input(read_mask(sample.nodule, gray.shape).astype(np.uint8) * 255, roi, spec) > 127
        inside = to_input(np.full_like(gray, 255), roi, spec)[::2, ::2] > 127
        logits.append(found[0, 0, ::2, ::2].float().cpu()[torch.from_numpy(inside)])
        truths.append(torch.from_numpy(truth[::2, ::2][inside]).float())
    if not logits:
        raise DataError("no validation images to decide on, expected at least one")
    return torch.cat(logits), torch.cat(truths)


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature T that minimises the negative log-likelihood of sigmoid(logits / T), three decimals.

    Source: Guo et al., On Calibration of Modern Neural Networks (ICML 2017). The likelihood is convex in 1 / T, so a
    golden-section search over log T finds the minimum.

    Args:
        logits, truth: float32 [K].
    """

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits / math.exp(log_t), truth))

    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(LOWEST), math.log(HIGHEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-3:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return round(math.exp((low + high) / 2), 3)
