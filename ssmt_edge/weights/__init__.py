"""Shipped weights: where they are. What they are is said in the model card beside this file."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CHECKPOINT = _HERE / "ssmt-lite.safetensors"
"""for fine-tuning with `train --init`"""
ONNX = _HERE / "ssmt-lite.onnx"
"""for building engines without PyTorch"""
CALIBRATION = _HERE / "ssmt-lite.calibration.json"
"""ranges of its tensors, measured on the training frames"""
