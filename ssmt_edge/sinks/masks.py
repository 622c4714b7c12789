"""A folder of PNG masks, one a frame."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from ssmt_edge.errors import SinkError
from ssmt_edge.files import replacing
from ssmt_edge.segment import Result
from ssmt_edge.sinks import writing

_OURS = re.compile(r"mask_\d{6,}\.png")


def open_file(path: Path, fps: float | None) -> MasksSink:
    """Raises SinkError if the folder cannot be created or written to."""
    return MasksSink(path)


class MasksSink:
    """`mask_000012.png` is the mask of frame 12: gray, 255 in the nodule, 0 elsewhere, in the frame's own size.

    Masks of an earlier run in the same folder are replaced, those left over removed; other files are not touched.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._created = not path.exists()
        self._written: set[str] = set()
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            probe = path / ".ssmt-edge.part"
            probe.touch()
            probe.unlink()

    def write(self, result: Result) -> None:
        file = self._path / f"mask_{result.frame:06d}.png"
        done, encoded = cv2.imencode(".png", result.mask.view(np.uint8) * np.uint8(255))
        if not done:
            raise SinkError(f"{file} cannot be encoded as PNG; its mask is {result.mask.shape}")
        with writing(file), replacing(file) as part:
            part.write_bytes(encoded.tobytes())
        self._written.add(file.name)

    def close(self) -> None:
        with writing(self._path):
            if self._written:
                for file in self._path.iterdir():
                    if _OURS.fullmatch(file.name) and file.name not in self._written:
                        file.unlink()
            elif self._created:
                self._path.rmdir()
