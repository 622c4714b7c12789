"""Probabilities over time: a mask that flickers less and does not trail behind a nodule that moves.

The former frame's result is carried along with the tissue, by dense optical flow between the two network inputs (DIS:
Kroeger et al., ECCV 2016, at a quarter of the size), and mixed with the new probabilities as log-odds. Both sides of
the threshold count equally far: a nodule that the network is in two minds about would else be lost, since networks are
surer of background. Where the carried image is brighter or darker than the new one (tissue that came from outside the
plane, a wrong flow) it counts for less; speckle averages out there. Where the whole frame differs it is another scene,
and nothing is carried over. docs/smoothing.md has the figures.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray

WEIGHT = 0.7
"""share of the carried result where the images agree; a single frame's error fades to a tenth in seven frames"""
TOLERANCE = 0.1
"""difference of the images' local means, relative to them, at which that share has fallen to 1/e"""
SAME_SCENE = 0.6
"""correlation of the images, -1..1, below which nothing is carried over"""
FIRM = 2.0
"""log-odds from the threshold at which a frame has its full say: more sureness does not outvote the frames beside it"""

_SCALE = 4  # flow is found on images smaller by this factor
_WINDOW = (7, 7)  # where local means are taken, pixels of the small image
_DARK = 8.0  # gray levels; keeps noise in black parts from counting as change

Floats = NDArray[np.float32]
_Array = TypeVar("_Array", Gray, Floats)


class Smoother:
    """Smooths the probabilities of one stream, in the network's own pixels, frame after frame.

    Args:
        size: side S of the network's input, pixels, at least 32.

    Raises:
        ValueError: a smaller size.
    """

    def __init__(self, size: int) -> None:
        if size < 32:
            raise ValueError(f"size is {size} pixels, expected at least 32")
        self.size = size
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._small_size = max(size // _SCALE, 24)  # DIS needs some pixels to work on
        self._grid = _grid(size), _grid(self._small_size)
        self._before: tuple[Gray, Floats] | None = None
        """small image and smoothed log-odds from the threshold, [S, S], of the frame before"""

    def __call__(self, probability: Gray, inputs: Gray, threshold: float, gap: int = 0) -> Gray:
        """The frame's probabilities, smoothed.

        Args:
            probability: uint8 [S, S], the engine's `nodule` of this frame, probability x 255.
            inputs: uint8 [S, S], the network input that it was computed from.
            threshold: of the mask that is made of the result, 0..1, both excluded; may change from frame to frame.
            gap: frames of the source left out since the last call, >= 0: what is older counts for less.

        Returns:
            uint8 [S, S], probability x 255: `probability` itself for the first frame and after a cut, and where the
            frames agree.

        Raises:
            ValueError: an array of another shape or dtype, or a threshold out of range.
        """
        for name, array in (("probability", probability), ("inputs", inputs)):
            if array.dtype != np.uint8 or array.shape != (self.size, self.size):
                raise ValueError(f"{name} is {array.dtype} {list(array.shape)}, expected uint8 {[self.size] * 2}")
        small = cast(Gray, cv2.resize(inputs, (self._small_size,) * 2, interpolation=cv2.INTER_AREA))
        say, beyond = (cast(Floats, cv2.LUT(probability, table)) for table in _tables(threshold))
        carried = self._carried(small, WEIGHT ** (gap + 1)) if self._before else None
        if carried is None:
            self._before = small, say
            return probability
        former, weight = carried
        say += weight * (former - say)
        self._before = small, say
        # what the frame said beyond FIRM comes back as far as the frames agree, and never on the other side
        surer = np.maximum(beyond * say, 0) / np.float32(FIRM)
        return _probability(say + np.copysign(surer, say), threshold)

    def reset(self) -> None:
        """Forgets what was: for another region, another frame size, or a stream that was lost and came back."""
        self._before = None

    def _carried(self, small: Gray, weight: float) -> tuple[Floats, Floats] | None:
        """The former log-odds moved to where the tissue is now, and their weight, [S, S] each; None after a cut."""
        assert self._before is not None
        former, odds = self._before
        # None: no flow to start from
        flow = cast(Floats, self._flow.calc(small, former, None))  # type: ignore[call-overload]
        moved = _warped(former, flow, self._grid[1])
        if not cv2.matchTemplate(small, moved, cv2.TM_CCOEFF_NORMED)[0, 0] >= SAME_SCENE:
            return None
        change = cast(Floats, cv2.blur(cv2.subtract(small, moved, dtype=cv2.CV_32F), _WINDOW))
        level = cv2.blur(small, _WINDOW).astype(np.float32) + np.float32(_DARK)
        trust = np.float32(weight) * np.exp(-((change / (TOLERANCE * level)) ** 2))
        full = (self.size, self.size)
        flow = cast(Floats, cv2.resize(flow, full) * np.float32(self.size / self._small_size))
        return _warped(odds, flow, self._grid[0]), cast(Floats, cv2.resize(trust, full))


def _grid(size: int) -> Floats:
    """Each pixel's own place (x, y), float32 [size, size, 2]."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    return np.dstack([columns, rows])


def _warped(values: _Array, flow: Floats, grid: Floats) -> _Array:
    """`values` fetched from where `flow` [H, W, 2] points."""
    x, y = cv2.split(grid + flow)
    return cast(_Array, cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


@lru_cache(maxsize=8)
def _tables(threshold: float) -> tuple[Floats, Floats]:
    """For each value of a probability x 255: its log-odds from the threshold, up to FIRM, and what lies beyond."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold is {threshold}, expected a value between 0 and 1")
    share = np.clip(np.arange(256) / 255, 0.001, 0.999)
    odds = np.log(share / (1 - share)) - math.log(threshold / (1 - threshold))
    say = np.clip(odds, -FIRM, FIRM)
    return say.astype(np.float32), (odds - say).astype(np.float32)


def _probability(odds: Floats, threshold: float) -> Gray:
    """Log-odds from the threshold to uint8 probability x 255."""
    against = cast(Floats, cv2.exp(-odds)) * np.float32((1 - threshold) / threshold)
    return cast(Gray, cv2.convertScaleAbs(cv2.divide(255.0, against + np.float32(1))))
