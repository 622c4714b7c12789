"""`ssmt-edge experiment`: the paper's tables and open questions, a verb each."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ssmt_edge.cli import cost
from ssmt_edge.cli.train import named
from ssmt_edge.errors import UsageError
from ssmt_edge.packages import needs

app = typer.Typer(no_args_is_help=True, help="Tables of the paper and its open questions: resumable, with intervals.")

TRAINED = {
    "ablation": "What each auxiliary task adds: five rows.",
    "transfer": "Train on the first data set; zero-shot and with few labels on the others.",
    "weights": "Loss weights on the simplex and adaptive ones, by data set and nodule size.",
    "labels": "5, 10, 15, 25, 50 and 100 % of the labelled cases.",
    "folds": "Cross-validation by case: the mean over all images of a data set.",
}

Out = Annotated[Path, typer.Option(help="Folder of the experiment; the same command again goes on in it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def trained(
    context: typer.Context,
    data: Annotated[
        list[Path], typer.Option(help="Labelled data set. Repeatable; the first one validates (transfer: the source).")
    ],
    out: Out,
    model: Annotated[str | None, typer.Option(help="Network, as for train.")] = None,
    unlabelled: Annotated[
        list[Path] | None, typer.Option(help="Folder of images for reconstruction pretraining. Repeatable.")
    ] = None,
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="supervised|both", help="both: reconstruction first. Default with --unlabelled or --config."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Supervised epochs.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, as for train.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of train. Repeatable.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, as in 0,1,2; every row is trained with each.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validation by case with so many folds.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cells trained at a time, each on one CPU thread if several.")] = 1,
    as_json: Json = False,
) -> None:
    from ssmt_edge.cli.terminal import say

    if phase is None and config is None and not unlabelled:
        phase = "supervised"
    given = {"data": data, "model": model, "phase": phase, "unlabelled": unlabelled or None, "epochs": epochs}
    with needs("trainer"):
        from trainer.config import resolve
        from trainer.experiments import PROTOCOLS
        from trainer.experiments.plan import Options
        from trainer.experiments.run import run

        run_config = resolve(config, {**given, **named(settings or [])})
        options = Options(run_config, _numbers(seeds) if seeds is not None else (run_config.seed,), folds)
        plan = PROTOCOLS[str(context.info_name)](options)
        try:
            result = run(plan, out, jobs, say, command())
        except KeyboardInterrupt:
            say(f"stopped; what is done is kept in {out}, and the same command goes on from there")
            raise
    show(result, out, as_json)


for _name, _help in TRAINED.items():
    app.command(_name, help=_help)(trained)
app.command()(cost.cost)


@app.command()
def domains(
    subject: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_ENGINE", help="Checkpoint file or engine folder.")],
    data: Annotated[
        list[Path], typer.Option(help="Labelled data set. Repeatable; the first is the network's own: held-out part.")
    ],
    out: Out,
    split: Annotated[
        str,
        typer.Option(
            metavar="train|val|test|all", help="Part of the others; all: what was held out of those trained on."
        ),
    ] = "all",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Json = False,
) -> None:
    """One network on every data set given, with the drop against its own."""
    from ssmt_edge.cli.evaluate import open_subject
    from ssmt_edge.cli.terminal import say
    from ssmt_edge.dataset import parse_split
    from ssmt_edge.files import sha256

    with needs("trainer"):
        from trainer.checkpoint import read_weights
        from trainer.experiments import domains as protocol

        named = [str(d) for d in data]
        with open_subject(subject, threads) as engine:
            # an engine does not say how its checkpoint was trained
            config = {} if subject.is_dir() else read_weights(subject)[2]
            digest = sha256(subject / "engine.json" if subject.is_dir() else subject)
            parts = protocol.parts_of(named, parse_split(split), config, engine.spec.trained_on)
            result = protocol.run(engine, digest, parts, config, out, command(), say)
    show(result, out, as_json)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--seeds {text!r}, expected whole numbers with commas, as in 0,1,2") from None


def command() -> str:
    """This command, to be printed with its table."""
    return shlex.join(["ssmt-edge", *sys.argv[1:]])


def show(result: dict[str, Any], out: Path, as_json: bool) -> None:
    """A result of `trainer.experiments`, after it was written to `out`: its table on stdout."""
    print(json.dumps(result, indent=2) if as_json else (out / "table.md").read_text(encoding="utf-8"))
