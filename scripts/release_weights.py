"""Turns a finished training run into the files that the package ships. Maintainers only; needs the extra `train`.

    python scripts/release_weights.py RUN --data DDTI

writes to ssmt_edge/weights: the checkpoint in half precision, the ONNX file made from it, and calibration ranges
measured on the training split of the data set. The model card beside them is written by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.calibrate import collect, measure_ranges
from engines.export import export
from ssmt_edge import weights
from trainer.checkpoint import load_checkpoint, save_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run folder of ssmt-edge train")
    parser.add_argument("--data", type=Path, required=True, help="data set whose training split calibrates")
    arguments = parser.parse_args()

    trained = load_checkpoint(arguments.run / "model.safetensors")
    # the checkpoint and its folders as the public knows them, not as one machine does
    names = {key: [Path(folder).name for folder in trained.config[key]] for key in ("data", "unlabelled")}
    config = {**trained.config, **names}
    save_checkpoint(weights.CHECKPOINT, trained.network, trained.spec, config, half=True)
    # exported from the shipped file, so that ONNX, ranges and engines carry its digest
    graph = export(weights.CHECKPOINT, half_weights=True, out=weights.ONNX, say=print)
    samples = collect(arguments.data, graph.spec, most=512, say=print)
    measure_ranges(graph, samples, f"{arguments.data.name}, training split").save(weights.CALIBRATION)
    for path in (weights.CHECKPOINT, weights.ONNX, weights.CALIBRATION):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
