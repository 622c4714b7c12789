"""A folder of PNG masks, one a frame."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from ssmt_edge.errors import SinkError
from ssmt_edge.files import replacing
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, writing
from ssmt_edge.sinks.base import BaseSink

_OURS = re.compile(r"mask_\d{6,}\.png")


def open_file(path: Path, context: SinkContext) -> MasksSink:
    """Raises SinkError if the folder cannot be created or written to."""
    return MasksSink(path)


class MasksSink(BaseSink):
    """`mask_000012.png` is the mask of frame 12: gray, 255 in the nodule, 0 elsewhere, in the frame's own size.

    A folder that holds such masks already is refused: they might be somebody's truth, or mix with this run's.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folder = path
        self._created = not path.exists()
        with writing(path):
            if path.is_dir() and any(_OURS.fullmatch(file.name) for file in path.iterdir()):
                raise SinkError(f"{path} holds masks already; remove them or give another folder")
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".ssmt-edge.part"
            probe.touch()
            probe.unlink()

    def _add(self, result: Result) -> None:
        file = self.path / f"mask_{result.frame:06d}.png"
        done, encoded = cv2.imencode(".png", result.mask.view(np.uint8) * np.uint8(255))
        if not done:
            raise SinkError(f"{file} cannot be encoded as PNG; its mask is {result.mask.shape}")
        with replacing(file) as part:
            part.write_bytes(encoded.tobytes())

    def _finish(self) -> None:
        if self._created and not self._written:
            with suppress(OSError):  # somebody else has put something there, or removed it
                self.path.rmdir()
