"""What one stream remembers from frame to frame."""

from __future__ import annotations

from ssmt_edge.geometry import Gray, Roi
from ssmt_edge.measure import Nodule
from ssmt_edge.smoothing import Smoother
from ssmt_edge.spec import ModelSpec
from ssmt_edge.tracking import Largest, Tracker

Place = tuple[Roi, tuple[int, ...]]
"""region and the frame's shape"""


class Memory:
    """What one stream remembers from frame to frame.

    Args:
        spec: of the engine.
        smooth: probabilities are smoothed over time, see `ssmt_edge.smoothing`.
    """

    def __init__(self, spec: ModelSpec, smooth: bool = False) -> None:
        self.largest = Largest()
        self._smoother = Smoother(spec.input_size) if smooth else None
        self._tracker = Tracker()
        self._place: Place | None = None
        self._index = -1
        self._gap = 0
        self._spacing: tuple[float, float] | None = None

    def begin(self, frame: int, place: Place) -> None:
        """A new frame with its index, region and size: how many were left out before it, and is it of another place?"""
        self._gap = 0 if self._place is None else max(0, frame - self._index - 1)
        if self._place is not None and place != self._place:
            self._tracker.reset()
            if self._smoother is not None:
                self._smoother.reset()
        self._index, self._place = frame, place

    def smoothed(self, output: Gray, inputs: Gray, threshold: float) -> Gray:
        """The network's probabilities [S, S], smoothed if that was asked for."""
        return output if self._smoother is None else self._smoother(output, inputs, threshold, self._gap)

    def known(self, frame: int, nodules: list[Nodule], spacing: tuple[float, float] | None) -> list[Nodule]:
        """The nodules with the numbers that they keep."""
        if spacing is not None and self._spacing not in (None, spacing):
            self.largest = Largest()  # millimetres by another scale do not compare
        self._spacing = spacing or self._spacing
        nodules = self._tracker.update(nodules, self._gap)
        self.largest.update(frame, nodules)
        return nodules
