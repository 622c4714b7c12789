"""Draws docs/overlay.png: the first phantoms of a seed, their true nodules, what an engine marks. Maintainers only.

    python scripts/readme_picture.py ENGINE

Takes the frames as they come: a picture of chosen ones would promise too much.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

import ssmt_edge
from ssmt_edge.metrics import dice
from ssmt_edge.overlay import caption, draw
from ssmt_edge.phantom import phantom

SIZE = (300, 400)


def main() -> None:
    columns = []
    with ssmt_edge.load(sys.argv[1]) as engine:
        for index in range(3):
            frame = phantom(np.random.default_rng((11, index)), SIZE)
            result = engine(frame.image)
            truth = cv2.cvtColor(frame.image, cv2.COLOR_GRAY2RGB)
            outline, _ = cv2.findContours(frame.nodule.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(truth, outline, -1, (0, 255, 0), 1, cv2.LINE_AA)
            columns.append(np.vstack([truth, caption(draw(result), result)]))
            print(f"phantom {index}: Dice {dice(result.mask, frame.nodule):.3f}")
    picture = np.hstack(columns)
    path = Path(__file__).resolve().parent.parent / "docs" / "overlay.png"
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(path)


if __name__ == "__main__":
    main()
