"""Data that several tests use: a small synthetic set, and real ultrasound where the machine has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ssmt_edge.phantom import write_set


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real ultrasound data, which is never part of the repository; skips where it is absent."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    root = Path(os.environ.get("SSMT_EDGE_DATA", default))
    if not (root / "ddti").is_dir():
        pytest.skip(f"no real data at {root}; set SSMT_EDGE_DATA to a folder that holds ddti/")
    return root


@pytest.fixture(scope="session")
def phantom_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic data set of 16 frames (14 train, 2 val) and 4 test frames, 96 x 128 pixels; do not write to it."""
    out = tmp_path_factory.mktemp("phantoms") / "set"
    write_set(out, 16, 4, size=(96, 128), seed=7)
    return out
