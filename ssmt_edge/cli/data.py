"""`ssmt-edge data`: data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Data sets: check them, convert DDTI's XML, make synthetic ones.")

SHOWN = 5  # findings of one kind on the screen; JSON has all


@app.command()
def check(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Data sets, labelled or not, checked against each other, too."),
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file with every finding.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Audit data sets: files, masks, duplicates, cases; exit code 3 if an image or case is on both sides of a split."""
    from rich.progress import Progress

    from ssmt_edge.audit import audit
    from ssmt_edge.cli.terminal import errors
    from ssmt_edge.errors import VerdictNo
    from ssmt_edge.files import write_json

    with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
        task = bar.add_task("images", total=None)
        result = audit(folders, progress=lambda done, total: bar.update(task, completed=done, total=total))
    if out is not None:
        write_json(out, result)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _show(result, folders, out)
    if not result["ok"]:
        failing = _by_kind(f for f in result["findings"] if f["fails"])
        raise VerdictNo(
            f"{', '.join(str(d) for d in folders)}: {', '.join(f'{kind}: {len(f)}' for kind, f in failing.items())}; "
            "remove or mend these files; in cases.csv, give alike images one case and every case one split"
        )


def _by_kind(findings: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for finding in findings:
        kinds.setdefault(finding["kind"], []).append(finding)
    return kinds


def _show(result: dict[str, Any], folders: list[Path], out: Path | None) -> None:
    from ssmt_edge.cli.terminal import table

    def counts(values: dict[str, int]) -> str:
        first = [f"{name}: {n}" for name, n in list(values.items())[:3]]
        return ", ".join([*first, f"{len(values) - 3} more"] if len(values) > 3 else first) or "-"

    rows = [
        ("layout", [s["layout"] for s in result["sets"]]),
        ("images", [str(s["images"]) for s in result["sets"]]),
        ("cases", [str(s["cases"]) for s in result["sets"]]),
        ("splits", [counts(s["splits"]) for s in result["sets"]]),
        ("sizes", [counts(s["sizes"]) for s in result["sets"]]),
        ("nodule masks (empty)", [f"{s['nodule_masks']} ({s['empty_nodule_masks']})" for s in result["sets"]]),
        ("gland masks (empty)", [f"{s['gland_masks']} ({s['empty_gland_masks']})" for s in result["sets"]]),
        ("mask values", [counts(s["mask_values"]) for s in result["sets"]]),
    ]
    names = [Path(s["root"]).name for s in result["sets"]]
    table("Data sets", ["", *names], [[name, *values] for name, values in rows])
    kinds = _by_kind(result["findings"])
    if not kinds:
        print("no findings")
        return
    table(
        "Findings",
        ("kind", "count", "fails"),
        [(k, str(len(f)), "yes" if f[0]["fails"] else "no") for k, f in kinds.items()],
    )
    for kind, found in kinds.items():
        for finding in found[:SHOWN]:
            names = [_short(name, folders) for name in finding["files"]]
            shown = ", ".join(names if len(names) <= 4 else [*names[:4], f"{len(names) - 4} more"])
            print(f"{kind}: {shown}: {finding['what']}")
        if len(found) > SHOWN:
            print(f"{kind}: {len(found) - SHOWN} more" + ("" if out else "; --out FILE.json lists all"))


def _short(name: str, folders: list[Path]) -> str:
    """A file's name from its data set's folder on."""
    for folder in folders:
        if Path(name).is_relative_to(folder):
            return str(Path(folder.name) / Path(name).relative_to(folder))
    return name


@app.command()
def convert(
    raw: Annotated[Path, typer.Argument(metavar="RAW_DDTI", help="DDTI as published: CASE.xml with CASE_VIEW.jpg.")],
    out: Annotated[Path, typer.Option(help="Folder to make; an existing one must be empty.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn DDTI's XML contours into image/, mask/ and cases.csv; two views in one image become two images."""
    from rich.progress import Progress

    from ssmt_edge.cli.terminal import errors
    from ssmt_edge.ddti import convert as convert_ddti

    with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
        task = bar.add_task("images", total=None)
        result = convert_ddti(raw, out, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print(json.dumps({"out": str(out), **result}, indent=2))
        return
    splits = ", ".join(f"{n} {split}" for split, n in result["splits"].items())
    print(f"{out}: {result['images']} images of {result['cases']} cases ({splits})")
    for fault in result["faults"]:
        print(f"{fault['file']}: {fault['what']}")
    for skipped in result["skipped"]:
        print(f"{skipped['file']}: left out, {skipped['why']}")


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder to make; an existing one must be empty.")],
    count: Annotated[int, typer.Option(help="Frames for training and validation, 2 to 9999.")] = 200,
    test_count: Annotated[int, typer.Option(help="Frames of the test split, 0 to 9999.")] = 0,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT in pixels, or one number; each 64 to 1024.")] = "256x256",
    seed: Annotated[int, typer.Option(help="0 or greater; the same seed gives the same frames.")] = 0,
    probe: Annotated[
        str, typer.Option(metavar="NAME", help="linear-12MHz, linear-7MHz or convex-5MHz.")
    ] = "linear-12MHz",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write synthetic thyroid ultrasound with nodule and gland masks, in TN3K's layout."""
    from rich.progress import Progress

    from ssmt_edge.cli.terminal import errors
    from ssmt_edge.dataset import load_samples, summary
    from ssmt_edge.phantom import write_set

    height_width = _size(size)
    with Progress(console=errors(), transient=True, disable=not errors().is_terminal) as bar:
        task = bar.add_task("phantoms", total=count + test_count)
        advance = lambda done, _: bar.update(task, completed=done)  # noqa: E731
        write_set(out, count, test_count, height_width, seed, advance, probe)
    samples = load_samples(out)
    splits = {split: sum(s.split == split for s in samples) for split in ("train", "val", "test")}
    result = {"out": str(out), "probe": probe, "splits": splits, **summary(samples)}
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        print(
            f"{out}: {len(samples)} synthetic frames of {height_width[1]} x {height_width[0]} "
            f"({', '.join(f'{n} {split}' for split, n in splits.items())}), "
            f"{result['empty_nodule_masks']} without a nodule; layout of TN3K"
        )


def _size(text: str) -> tuple[int, int]:
    """Height and width from `WIDTHxHEIGHT` or one number."""
    import re

    from ssmt_edge.errors import UsageError

    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text.strip().lower())
    if not match:
        raise UsageError(f"--size {text!r}, expected WIDTHxHEIGHT in pixels such as 256x256, or one number")
    width, height = match[1], match[2] or match[1]
    return int(height), int(width)
