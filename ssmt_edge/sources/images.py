"""A folder of images, in the order of the numbers in their names, or a single image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import SUFFIXES
from ssmt_edge.errors import SourceError
from ssmt_edge.sources import ASSUMED_FPS, Frame
from ssmt_edge.sources.base import BaseSource


def open_file(path: Path) -> ImageSource:
    """Raises SourceError for a folder without images."""
    return ImageSource(path)


class ImageSource(BaseSource):
    """Images of one folder (not of folders below it); sizes may differ. Deep gray values are scaled to 8 bits."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path
        self._files = [path]
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            self._files = sorted(found, key=_by_number)
        if not self._files:
            raise SourceError(f"{path} holds no images ({', '.join(SUFFIXES)}); give a folder of images")
        self.frame_count = len(self._files)

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            yield Frame(index, index * 1e3 / ASSUMED_FPS, _read(file))


def _by_number(file: Path) -> list[str | int]:
    # text and numbers alternate, so that text is never compared with a number
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", file.name))]


def _read(file: Path) -> NDArray[np.uint8]:
    try:
        image = cv2.imread(str(file), cv2.IMREAD_ANYCOLOR)
    except cv2.error:  # a header that claims an absurd size
        image = None
    if image is None:
        raise SourceError(f"{file} is not a readable image; remove or replace it")
    return cast("NDArray[np.uint8]", image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
