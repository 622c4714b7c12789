"""`ssmt-edge train`: from data folders to a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmt_edge.packages import needs


def train(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Run folder; must be new or empty unless --resume.")],
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options given here win over it.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting, also weights.nodule=0.7. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run folder stopped.")] = False,
    init: Annotated[Path | None, typer.Option(help="Checkpoint to start the weights from.")] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled data set (TN3K, TG3K, DDTI, image/mask). Repeatable; the first one validates."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network, such as ssmt-lite or unet. Default: ssmt-net.")] = None,
    phase: Annotated[
        str | None, typer.Option(metavar="pretrain|supervised|both", help="Which phases to run. Default: both.")
    ] = None,
    unlabelled: Annotated[
        list[Path] | None, typer.Option(help="Folder of images for the reconstruction phase. Repeatable.")
    ] = None,
    pretrained: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="RESNET VIT", help="Encoder weights of ssmt-net: hub names or local folders."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Supervised epochs. Default: 60.")] = None,
    pretrain_epochs: Annotated[int | None, typer.Option(help="Reconstruction epochs. Default: 20.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Frames a batch, over all processes together. Default: 16.")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(help="Batches an optimiser step. Default: 1.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of Adam; the cosine ends at 1e-6. Default: 1e-4.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of Adam. Default: 1e-4.")] = None,
    cross_entropy: Annotated[
        float | None, typer.Option(help="Weight of cross-entropy beside Dice; 0 is the paper's loss. Default: 0.5.")
    ] = None,
    weighting: Annotated[
        str | None, typer.Option(metavar="fixed|uncertainty|gradnorm", help="How tasks are weighed. Default: fixed.")
    ] = None,
    averaging: Annotated[
        float | None, typer.Option(help="Decay a step of the weights' moving average. Default: 0, none.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better val Dice after which to stop. Default: 0, never.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Of nodule, gland, size, reconstruction. Default: all.")
    ] = None,
    fold: Annotated[int | None, typer.Option(help="Fold of the first data set, by case, that validates.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds. Default: 5.")] = None,
    label_fraction: Annotated[
        float | None, typer.Option(help="Share of the cases whose labels are used. Default: 1.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option(metavar="none|encoder", help="encoder: train decoders and heads only.")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side of the square input, a multiple of 32. Default: 224.")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(metavar="scan-area|none", help="What is cut from a frame. Default: scan-area.")
    ] = None,
    resize: Annotated[
        str | None, typer.Option(metavar="stretch|letterbox", help="How it becomes square. Default: stretch.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw. Default: 0.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load and augment images. Default: 2.")] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="auto|32|bf16|fp16", help="Arithmetic of training. Default: auto.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="Training processes a node: GPUs, or CPU processes. Default: 1."),
    ] = None,
    nodes: Annotated[int | None, typer.Option(help="Machines that train together. Default: 1.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning's strategy; auto: ddp for several processes.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic", help="Only algorithms that repeat bit by bit, also on a GPU.")
    ] = None,
    tensorboard: Annotated[bool | None, typer.Option("--tensorboard", help="Write TensorBoard's files, too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a network: reconstruction on unlabelled images, then all tasks, each where its label exists."""
    from ssmt_edge.cli.terminal import say

    others = ("out", "config", "settings", "resume", "init", "as_json")
    given = {
        name: value for name, value in context.params.items() if name not in others and value not in (None, [], ())
    }
    with needs("trainer"):
        from trainer.config import resolve
        from trainer.fit import train as fit

        result = fit(resolve(config, {**given, **named(settings or [])}), out, resume, init, say=say)
    if not result:  # another process of the same run reports
        return
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


def named(settings: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; UsageError for one without `=`."""
    from ssmt_edge.errors import UsageError

    for setting in settings:
        if "=" not in setting:
            raise UsageError(f"--set {setting}: expected NAME=VALUE, for example --set lr_end=1e-5")
    return dict(setting.split("=", 1) for setting in settings)
