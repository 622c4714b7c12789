"""What can be asked of the TensorRT builder; here so that the options can be named where TensorRT is not installed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssmt_edge.errors import UsageError

TACTIC_SOURCES = ("cublas", "cublas-lt", "cudnn", "edge-mask-convolutions", "jit-convolutions")


@dataclass(frozen=True)
class TensorRtOptions:
    """Defaults suit one stream on the machine that builds."""

    batch: tuple[int, int, int] | None = None
    """smallest, usual and largest batch of the optimisation profile; None: 1, 1 and the graph's largest"""
    workspace_mib: int | None = None
    """memory that a tactic may take while building and running, MiB; None for TensorRT's own limit (all)"""
    timing_cache: Path | None = None
    """folder of timing caches, one file a device and version; None for the user's cache folder"""
    optimisation_level: int | None = None
    """0 (fast build) to 5 (fast engine); None for TensorRT's own (3)"""
    version_compatible: bool = False
    """the engine also loads in later minor versions of the same major version"""
    hardware_compatible: bool = False
    """the engine also runs on other GPUs from Ampere on"""
    tactic_sources: tuple[str, ...] | None = None
    """of `TACTIC_SOURCES`; None for TensorRT's own choice, () for none of them"""
    dla: int | None = None
    """core of the deep learning accelerator; layers that it cannot run go to the GPU, and are listed"""

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2]:
            raise UsageError(f"batch {self.batch}, expected smallest, usual and largest in rising order, from 1")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"workspace of {self.workspace_mib} MiB, expected at least 1")
        if self.optimisation_level is not None and not 0 <= self.optimisation_level <= 5:
            raise UsageError(f"optimisation level {self.optimisation_level}, expected 0 to 5")
        if unknown := set(self.tactic_sources or ()) - set(TACTIC_SOURCES):
            raise UsageError(f"tactic source {sorted(unknown)[0]!r}, expected some of {', '.join(TACTIC_SOURCES)}")
        if self.dla is not None and self.dla < 0:
            raise UsageError(f"DLA core {self.dla}, expected 0 or above")
