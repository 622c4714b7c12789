"""`ssmt-edge evaluate`: Dice of a checkpoint or an engine on a labelled split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssmt_edge.errors import UsageError
from ssmt_edge.packages import needs

if TYPE_CHECKING:
    from ssmt_edge.spec import Engine


def evaluate(
    subject: Annotated[Path, typer.Argument(metavar="CHECKPOINT_OR_ENGINE", help="Checkpoint file or engine folder.")],
    data: Annotated[Path, typer.Option(help="Labelled data set.")],
    split: Annotated[str, typer.Option(metavar="train|val|test|all", help="Which part of it.")] = "val",
    out: Annotated[Path | None, typer.Option(help="JSON file with every figure and every image's figures.")] = None,
    csv: Annotated[Path | None, typer.Option(help="CSV file with a row an image.")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for a sheet of the worst images and a reliability diagram."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER.json", help="Earlier --out of the same images: paired comparison.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Dice, IoU and surface distances against truth, in the frames' own pixels, as means over images."""
    from rich.progress import Progress

    from ssmt_edge.cli.terminal import errors
    from ssmt_edge.dataset import load_samples, parse_split
    from ssmt_edge.evaluate import evaluate as measure
    from ssmt_edge.evaluate import evaluate_gland
    from ssmt_edge.evaluation_files import draw
    from ssmt_edge.files import write_csv, write_json
    from ssmt_edge.statistics import compare

    samples = load_samples(data, parse_split(split))
    other = _read_result(against) if against is not None else None
    title = f"{subject.name} on {data.name} {split}"
    gland_only = not any(sample.nodule for sample in samples)
    if gland_only and (other is not None or pictures is not None):
        raise UsageError(f"{data} has gland masks only; --against and --pictures are for nodules, leave them out")
    with open_subject(subject, threads) as engine:
        with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
            task = bar.add_task("frames", total=len(samples))
            how = evaluate_gland if gland_only else measure
            scores = how(engine, samples, progress=lambda: bar.advance(task))
        scores["threshold"] = engine.spec.threshold
        if other is not None:
            scores["against"] = {"file": str(against), **compare(scores, other)}
        if out is not None:
            write_json(out, scores)
        if csv is not None:
            write_csv(csv, scores["per_image"])
        if pictures is not None:  # last: without matplotlib the figures are there all the same
            draw(pictures, engine, samples, scores, title)
    if as_json:
        print(json.dumps(scores, indent=2))
    elif gland_only:
        _print_figures(title, _gland_figures(scores))
    else:
        _print(title, scores)


def _read_result(path: Path) -> dict[str, Any]:
    from ssmt_edge.errors import DataError

    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} is not a result that evaluate wrote with --out ({error})") from None


def _print(title: str, scores: dict[str, Any]) -> None:
    from ssmt_edge.cli.terminal import table

    bounds = scores["size_bounds"]
    rows = [("all", scores)]
    if scores["empty_truth"]["n"]:
        rows.append(("with a nodule", scores["with_nodule"]))
    names = {
        "empty": "no nodule",
        "small": f"< {bounds['small'][1]:.0%}",
        "medium": f"{bounds['medium'][0]:.0%} to < {bounds['medium'][1]:.0%}",
        "large": f"{bounds['large'][0]:.0%} and more",
    }
    rows += [(names[size], s) for size, s in scores["by_size"].items()]
    table(
        f"{title}, threshold {scores['threshold']} (means over images, intervals by case)",
        ("nodule, of frame", "n", "Dice", "sd", "95 %", "IoU", "HD95", "ASSD, px"),
        [
            (
                name,
                str(s["n"]),
                _figure(s["dice"], 4),
                _figure(s["dice_sd"], 2),
                _interval(s["dice_interval"], 3),
                *(_figure(s[k], d) for k, d in (("iou", 4), ("hd95", 1), ("assd", 1))),
            )
            for name, s in rows
        ],
    )
    pooled, size, calibration = scores["pooled"], scores["size"], scores["calibration"]
    figures = [
        ("Dice and IoU by counts pooled over all pixels", f"{pooled['dice']:.4f}, {pooled['iou']:.4f}"),
        ("mean error of the nodule's area share, of the mask", f"{size['mae_mask']:.4f}"),
        ("mean error of the nodule's area share, of the size output", _figure(size["mae_output"], 4)),
        ("expected calibration error", f"{calibration['ece']:.4f}"),
    ]
    if calibration["temperature"] != 1:
        figures.append(("... at temperature 1", f"{calibration['ece_at_temperature_1']:.4f}"))
    if scores["empty_truth"]["n"]:
        figures.append(("images without a nodule, and marked", "{n}, {marked}".format(**scores["empty_truth"])))
    if scores["unlike"]:
        figures.append(("images unlike the training set", f"{scores['unlike']['share_above_1']:.1%} of {scores['n']}"))
    if scores["gland"]:
        figures += _gland_figures(scores["gland"])
    _print_figures("", figures)
    if found := scores.get("against"):
        table(
            f"difference to {found['file']} (paired by image, sign flips of whole cases)",
            ("figure", "n", "cases", "difference", "95 % interval", "p"),
            [
                (
                    name,
                    str(f["n"]),
                    str(f["cases"]),
                    f"{f['difference']:+.4f}",
                    _interval(f["interval"], 4),
                    f"{f['p']:.4f}",
                )
                for name, f in found.items()
                if isinstance(f, dict)
            ],
        )


def _print_figures(title: str, figures: list[tuple[str, str]]) -> None:
    from ssmt_edge.cli.terminal import table

    table(title, ("figure", "value"), figures)


def _gland_figures(gland: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("images with a gland mask", str(gland["n"])),
        ("gland: Dice", _figure(gland["dice"], 4)),
        ("gland: share of it outside the true gland", _figure(gland["outside"], 4)),
        ("nodule: share of it outside the true gland", _figure(gland["nodule_outside"], 4)),
    ]


def open_subject(path: Path, threads: int | None) -> Engine:
    """An engine folder or a checkpoint file behind the same protocol."""
    if path.is_file() and path.suffix == ".onnx":
        raise UsageError(
            f"{path} is an ONNX file; give the engine folder that build-engine made of it, or a checkpoint"
        )
    if path.suffix == ".safetensors" or path.is_file():
        with needs("trainer"):
            from trainer.deployed import open_checkpoint

            return open_checkpoint(path, threads)
    if path.is_dir() or not path.suffix:
        with needs("engines"):
            from engines import open_engine

            return open_engine(path, threads)
    raise UsageError(f"{path} does not exist; expected an engine folder or a checkpoint (.safetensors)")


def _interval(ends: list[float] | None, digits: int) -> str:
    return "-" if ends is None else f"{ends[0]:.{digits}f}..{ends[1]:.{digits}f}"


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None or value != value else f"{value:.{digits}f}"
