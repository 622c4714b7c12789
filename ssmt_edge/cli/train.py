"""`ssmt-edge train`: from data folders to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ssmt_edge.packages import needs


def train(
    out: Annotated[Path, typer.Option(help="Run folder; must be new or empty unless --resume.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled data set (TN3K, TG3K, DDTI, image/mask). Repeatable; the first one validates."),
    ] = None,
    model: Annotated[str, typer.Option(help="ssmt-net, ssmt-lite or ssmt-net-tiny.")] = "ssmt-net",
    phase: Annotated[str, typer.Option(metavar="pretrain|supervised|both", help="Which phases to run.")] = "both",
    unlabelled: Annotated[
        list[Path] | None, typer.Option(help="Folder of images for the reconstruction phase. Repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run folder stopped.")] = False,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start the weights from.")] = None,
    pretrained: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="RESNET VIT", help="Encoder weights of ssmt-net: hub names or local folders."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Supervised epochs.")] = 60,
    pretrain_epochs: Annotated[int, typer.Option(min=1, help="Reconstruction epochs.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    lr: Annotated[float, typer.Option(help="Peak learning rate of Adam; the cosine ends at 1e-6.")] = 1e-4,
    weight_decay: Annotated[float, typer.Option(min=0)] = 1e-4,
    cross_entropy: Annotated[
        float, typer.Option(min=0, help="Weight of cross-entropy beside Dice; 0 is the paper's loss.")
    ] = 0.5,
    averaging: Annotated[
        float, typer.Option(min=0, max=0.9999, help="Decay a step of the weights' moving average; 0 for none.")
    ] = 0.0,
    input_size: Annotated[
        int, typer.Option(min=32, max=2048, help="Side of the square input, a multiple of 32.")
    ] = 224,
    crop: Annotated[str, typer.Option(metavar="scan-area|none", help="What is cut from a frame.")] = "scan-area",
    resize: Annotated[str, typer.Option(metavar="stretch|letterbox", help="How it becomes square.")] = "stretch",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that load and augment images.")] = 2,
    precision: Annotated[str, typer.Option(metavar="auto|32|bf16", help="Arithmetic of training.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network: reconstruction on unlabelled images, then all tasks, each where its label exists."""
    from ssmt_edge.cli.terminal import say

    with needs("trainer"):
        from trainer.config import TrainConfig
        from trainer.fit import train as fit

        config = TrainConfig(
            model=model,
            data=tuple(str(d) for d in data or ()),
            unlabelled=tuple(str(d) for d in unlabelled or ()),
            phase=phase,  # type: ignore[arg-type]  # TrainConfig checks it
            epochs=epochs,
            pretrain_epochs=pretrain_epochs,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            cross_entropy=cross_entropy,
            averaging=averaging,
            input_size=input_size,
            crop=crop,
            resize=resize,
            seed=seed,
            workers=workers,
            precision=precision,
            pretrained=pretrained,
        )
        result = fit(config, out, resume, init, say=say)
    if as_json:
        print(json.dumps(result, indent=2))
    elif "val" in result:
        val = result["val"]
        print(
            f"{result['checkpoint']}: val Dice {val['dice']:.4f}, IoU {val['iou']:.4f} (mean over {val['n']} images), "
            f"threshold {result['threshold']}"
        )
    else:
        print(f"{result['checkpoint']}: pretrained on {result['images']} images")
