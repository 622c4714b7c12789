"""What every network costs: parameters, arithmetic, latency, memory, file size. Weights do not matter for any of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine.environment import environment, load_average
from benchmarks.report.files import check_writable, markdown_table
from benchmarks.report.tables import number
from benchmarks.timing.memory import METHOD as MEMORY
from benchmarks.timing.memory import peak_memory
from benchmarks.timing.turns import METHOD as TURNS
from benchmarks.timing.turns import one_by_one, take_turn
from benchmarks.versus.compare import bootstrap_interval
from engines import onnxruntime_cpu
from engines.calibrate import Samples, measure_ranges
from engines.count import count
from engines.device import available_cores, physical_cores
from engines.graph import Graph
from engines.options import BuildOptions, Job
from engines.parity import phantom_frames
from ssmt_edge.errors import UsageError
from ssmt_edge.files import replacing, replacing_folder, write_json
from ssmt_edge.pictures import Series, lines
from ssmt_edge.spec import COUNT_RULE, ModelSpec, Precision

VERSION = 1  # of a cell's content and of how it is measured
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
CALIBRATION_FRAMES = 8
NOTES = (
    "Weights are random: nothing here says anything about accuracy.",
    f"INT8 is calibrated on {CALIBRATION_FRAMES} phantoms and built without the Dice gate, which random weights would "
    "make meaningless: good for speed and memory, not for use.",
    "Compare latencies of rows of the same run only: those were measured in turns, and between runs a machine drifts.",
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A network to measure."""

    name: str
    training_parameters: int
    """learnt numbers of the whole network, with the decoders that are not deployed"""
    graph: Callable[[], Graph]
    """exports it as it is deployed; called only where a measurement is missing"""


def cost_table(
    subjects: Sequence[Subject],
    out: Path,
    *,
    input_size: int,
    rounds: int = 5,
    frames: int = 10,
    threads: int | None = None,
    say: Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Measures what is missing, and writes `cost.json`, `cost.md`, `cost.png` and a cell a network in `cells`.

    A cell is kept as long as network, input size, threads, processor and versions are the same. What is missing is
    built in `prepared`, where a run that was interrupted finds it again, then timed all together, in turns.

    Args:
        out: folder, made if need be.
        input_size: side of the exported graphs' input.
        rounds: turns of each engine.
        frames: timed inferences a turn.
        threads: CPU threads, None for one a physical core.
        say: receives progress lines.

    Returns:
        A row a subject, in their order, with `name`, `run` (UTC time of its measuring), `load` (processes running or
        waiting in the minute before the timing: what exporting left, and others), `training_parameters`, `parameters`
        (deployed), `gmac`, `gflops` and, under `fp32` and `int8` each, `median_ms`, `interval_ms`, `round_medians_ms`,
        `start_mib`, `peak_mib`, `file_mib`.

    Raises:
        UsageError: more threads than cores.
        SinkError: `out` cannot be written.
        EngineError: a graph cannot be counted or run.
        MissingDependency: matplotlib is not installed.
    """
    if threads is not None and not 1 <= threads <= available_cores():
        raise UsageError(f"threads is {threads}, expected 1 to {available_cores()}, the cores this process may use")
    check_writable(out)
    threads = threads or physical_cores()
    where = environment()
    conditions = {name: where[name] for name in ("cpu", "cpu_flags", "python", "packages")}
    rows: dict[str, dict[str, Any]] = {}
    keys: dict[str, dict[str, Any]] = {}
    for subject in subjects:
        parameters = subject.training_parameters
        keys[subject.name] = json.loads(
            json.dumps([VERSION, subject.name, parameters, input_size, threads, conditions])
        )
        row = _kept(_cell(out, subject), keys[subject.name])
        if row is not None:
            rows[subject.name] = row
    missing = [subject for subject in subjects if subject.name not in rows]
    if missing:
        say(f"{len(rows)} of {len(subjects)} networks are measured already")
        prepared = []
        for subject in missing:
            folder = out / "prepared" / subject.name
            row = _kept(folder / "row.json", keys[subject.name])
            if row is None:
                say(f"{subject.name}: export, INT8, memory")
                row = _prepare(subject, folder, keys[subject.name], threads)
            prepared.append(row)
        for row in _timed(prepared, out / "prepared", rounds, frames, threads, str(where["time"]), say):
            name = row["name"]
            rows[name] = row
            write_json(out / "cells" / f"{name}.json", {"key": keys[name], "row": row})
            shutil.rmtree(out / "prepared" / name, ignore_errors=True)
    ordered = [rows[subject.name] for subject in subjects]
    report = {"rows": ordered, "input_size": input_size, "threads": threads, "environment": where, "notes": NOTES,
              "count_rule": COUNT_RULE, "latency_method": f"all in one process; {TURNS}",
              "memory_method": MEMORY}  # fmt: skip
    write_json(out / "cost.json", report)
    with replacing(out / "cost.md") as part:
        part.write_text(markdown(report), encoding="utf-8")
    picture(ordered, out / "cost.png")
    return ordered


def _cell(out: Path, subject: Subject) -> Path:
    return out / "cells" / f"{subject.name}.json"


def _kept(cell: Path, key: Any) -> dict[str, Any] | None:
    """The row of a cell that was measured under the same conditions."""
    try:
        stored = json.loads(cell.read_text(encoding="utf-8"))
        return dict(stored["row"]) if stored["key"] == key else None
    except (OSError, ValueError, TypeError, KeyError):  # missing, or of another version
        return None


def _prepare(subject: Subject, folder: Path, key: Any, threads: int) -> dict[str, Any]:
    """Everything but latency; leaves the models of both precisions and the row in `folder`."""
    graph = subject.graph()
    cost = count(graph.model)
    row: dict[str, Any] = {
        "name": subject.name,
        "training_parameters": subject.training_parameters,
        "parameters": cost.parameters,
        "gmac": cost.gmac,
        "gflops": cost.gflops,
        "spec": graph.spec.to_json(),
    }
    phantoms = Samples(phantom_frames(graph.spec, CALIBRATION_FRAMES), [f"{i}" for i in range(CALIBRATION_FRAMES)])
    calibration = measure_ranges(graph, phantoms, "phantoms")
    with replacing_folder(folder) as made:
        for precision in PRECISIONS:
            place = made / precision
            place.mkdir()
            onnxruntime_cpu.build(Job(graph, calibration, BuildOptions(precision)), place)
            model = place / onnxruntime_cpu.MODEL_FILE
            size = round(model.stat().st_size / 2**20, 2)
            row[precision] = {**peak_memory(model, graph.spec, threads), "file_mib": size}
        write_json(made / "row.json", {"key": key, "row": row})
    return row


def _timed(
    rows: Sequence[dict[str, Any]], prepared: Path, rounds: int, frames: int, threads: int, run: str, say: Say
) -> list[dict[str, Any]]:
    """The prepared rows with their latencies."""
    engines = {}
    with ExitStack() as stack:
        for row in rows:
            spec = ModelSpec.from_json(row.pop("spec"))
            for precision in PRECISIONS:
                model = prepared / row["name"] / precision / onnxruntime_cpu.MODEL_FILE
                engine = onnxruntime_cpu.open_model(model, spec, 1, threads)
                engines[row["name"], precision] = stack.enter_context(engine)
        medians: dict[tuple[str, str], list[float]] = {key: [] for key in engines}
        load = (load_average() or [0.0])[0]
        for i in range(rounds):
            say(f"latency: round {i + 1} of {rounds}")
            for key, engine in engines.items():
                turn = take_turn(engine, phantom_frames(engine.spec, 2), 1, one_by_one(frames))
                medians[key].append(median(turn["host_ms"]))
    done = []
    for row in rows:
        for precision in PRECISIONS:
            times = np.array(medians[row["name"], precision])
            low, high = bootstrap_interval(times)
            row[precision] |= {
                "median_ms": round(float(np.median(times)), 3),
                "interval_ms": [round(low, 3), round(high, 3)],
                "round_medians_ms": [round(float(t), 3) for t in times],
            }
        done.append({**row, "run": run, "load": load})
    return done


def headings() -> list[str]:
    """Names of the columns of `cells`."""
    return ["network", "M parameters", "deployed", "GMAC", "GFLOPs", "FP32 ms", "INT8 ms", "FP32 peak MiB",
            "INT8 peak MiB", "FP32 file MiB", "INT8 file MiB", "run"]  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """A row of `cost_table` as text for the columns of `headings`."""
    fp32, int8 = row["fp32"], row["int8"]
    return [
        row["name"],
        f"{row['training_parameters'] / 1e6:.2f}",
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['gmac']:.2f}",
        f"{row['gflops']:.2f}",
        *(f"{p['median_ms']:.1f} ({p['interval_ms'][0]:.1f} to {p['interval_ms'][1]:.1f})" for p in (fp32, int8)),
        *(number(p["peak_mib"], ".0f") for p in (fp32, int8)),
        *(f"{p['file_mib']:.1f}" for p in (fp32, int8)),
        f"{row['run']}, load {row['load']:.1f}",
    ]


def markdown(report: dict[str, Any]) -> str:
    """`cost.md` from the content of `cost.json`."""
    where = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    size = report["input_size"]
    text = [f"# Cost of the networks at {size} x {size}, batch 1", ""]
    text += markdown_table(headings(), [cells(row) for row in report["rows"]])
    known = (row[p]["start_mib"] for row in report["rows"] for p in PRECISIONS)
    start = number(min((mib for mib in known if mib is not None), default=None), ".0f")
    text += ["", *(f"- {note}" for note in report["notes"])]
    text += [
        f"- Counted: {report['count_rule']}. Deployed: without gland, reconstruction and what else only trains.",
        f"- Latency: {report['latency_method']}; {report['threads']} threads. In brackets the interval of the median.",
        f"- Peak: {report['memory_method']}. MiB at that start: {start}.",
        f"- Machine: {where['cpu']}, {where['cores']} cores; {versions}.",
        "",
    ]
    return "\n".join(text)


def picture(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Arithmetic against latency: a point each for FP32 and INT8, joined, a network a colour."""
    lines(
        path,
        "Cost of the networks: FP32 and INT8 of each, joined",
        "GMAC a frame",
        "ms a frame",
        {
            row["name"]: Series([row["gmac"]] * len(PRECISIONS), [row[p]["median_ms"] for p in PRECISIONS])
            for row in rows
        },
    )
