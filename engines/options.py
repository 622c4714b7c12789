"""What can be asked of a build, and what a backend gets to build from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmt_edge.errors import UsageError
from ssmt_edge.spec import Precision

if TYPE_CHECKING:  # options can be named where the libraries behind these are not installed
    from engines.graph import Graph
    from engines.ranges import Calibration

Say = Callable[[str], None]
"""receives progress lines"""
Progress = Callable[[str, int, int], None]
"""receives what is being done, how much of it is done, and how much there is"""

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


@dataclass(frozen=True)
class BuildOptions:
    """What was asked for; kept in the manifest so that a build can be repeated."""

    precision: Precision
    backend: str = "auto"
    calib: Path | None = None
    """folder, video or DICOM file of ultrasound, or a `calibration.json` of the same checkpoint"""
    calib_frames: int = 256
    """at most so many frames, evenly spread"""
    max_dice_drop: float = 0.005
    data: Path | None = None
    """what labelled frames for the gate were read from, for the record"""
    split: str = "val"
    with_gland: bool = False
    """only when exporting from a checkpoint"""
    calib_method: str = "auto"
    """of `calibrate.METHODS`, or `auto`: whichever agrees best with FP32 on trial frames"""
    sensitivity: bool = False
    """int8: rank all layers, and keep the fewest out of INT8 such that the gate holds"""
    tensorrt: TensorRtOptions = field(default_factory=TensorRtOptions)
    """what only that backend takes"""

    def recorded(self, source: Path) -> dict[str, Any]:
        """The options as the command line takes them, by name: what `rebuild_command` repeats."""
        values = {**vars(self), **vars(self.tensorrt), "source": source}
        del values["tensorrt"], values["precision"], values["backend"]
        if self.data is None:
            del values["split"]
        listed = {name: ",".join(map(str, v)) or "none" if isinstance(v, tuple) else v for name, v in values.items()}
        return {name: str(v) if isinstance(v, Path) else v for name, v in listed.items()}


@dataclass(frozen=True)
class Job:
    """What a backend builds from."""

    graph: Graph
    """FP32"""
    calibration: Calibration | None
    """ranges of its tensors; None for fp32"""
    options: BuildOptions
    say: Say = lambda line: None
    progress: Progress = lambda what, done, total: None

    @property
    def precision(self) -> Precision:
        return self.options.precision
