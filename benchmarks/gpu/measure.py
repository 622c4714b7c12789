"""The step measure: every engine and peer in turns, on the same frames, within one run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu import remote
from benchmarks.gpu.remote import Process, RemoteEngine
from benchmarks.gpu.steps import ONNXRUNTIME, Network, Say, Settings
from benchmarks.gpu.worker import TURN
from benchmarks.machine.environment import environment
from benchmarks.versus.compare import bootstrap_interval, ratio
from engines import onnxruntime_cpu, read_manifest
from engines.build import PARITY_FILE
from engines.count import count
from engines.parity import agreement
from ssmt_edge.dataset import load_samples, read_gray
from ssmt_edge.errors import EngineError, SsmtError
from ssmt_edge.files import write_json
from ssmt_edge.geometry import input_roi, to_input
from ssmt_edge.layouts import Sample
from ssmt_edge.spec import ModelSpec

RESULTS_FILE = "results.json"
SCHEMA = 1
LEAST_FRAMES = 16
METHOD = (
    "rounds in a fixed order (A B C A B C), the first one not counted (compilers and graph captures run in it); "
    f"{TURN}; host: from uint8 frames in the host's memory to masks in it, for all alike (staged in pinned memory); "
    "compute: the network alone, by CUDA events; median per round, then the median over rounds with its 95 % "
    "percentile bootstrap; ratios of the medians of one round, likewise; an engine of fixed shape for every batch size"
)


def measure_all(settings: Settings, tensorrt: Process, torch: Process, say: Say) -> dict[str, Any]:
    """Times everything that was built, and the peers, in turns; writes `results.json` after every batch size."""
    path = settings.out / RESULTS_FILE
    terms: dict[str, Any] = {
        "schema": SCHEMA,
        "rehearsal": settings.rehearse,
        "method": METHOD,
        "tensorrt": tensorrt.ask("tensorrt"),
        "torch": torch.ask("torch"),
    }
    results = terms | {"environment": environment(), "networks": earlier_networks(path, terms, say)}
    samples = load_samples(settings.data, "val")
    for network in settings.networks():
        graph = network.graph()
        frames, names = validation_frames(samples, graph.spec, max(settings.batches))
        with onnxruntime_cpu.open_graph(graph) as engine:
            reference = _infer(engine, frames, 1)
        entry = results["networks"].setdefault(network.folder.name, {"batches": {}})
        cost = count(graph.model)
        entry |= {"model": graph.spec.model, "checkpoint_sha256": graph.checkpoint_sha256}
        entry |= {"gmac": cost.gmac, "parameters": cost.parameters, "images": len(frames)}
        entry["gates"] = list(_gates(network, settings))
        for batch in settings.batches:
            with ExitStack() as stack:
                opened, skipped = _open(network, graph.spec, batch, settings, tensorrt, torch, stack)
                block = _block(opened, torch, frames, batch, settings.rounds, say)
                for row in block["rows"]:
                    if "skipped" not in row:
                        found = _infer(opened[row["name"]], frames, batch)
                        compared = agreement(found, reference, graph.spec, names[: len(found["nodule"])])
                        row["agreement"] = compared["agreement"]
                        taken = row["compute_ms"] or row["host_ms"]
                        row["share_of_rate"] = 2 * entry["gmac"] * batch / taken / block["matrix"]["tflops"]
            block["rows"] += [{"name": name, "skipped": why} for name, why in skipped.items()]
            entry["batches"][str(batch)] = block
            write_json(path, results)
    return results


def earlier_networks(path: Path, terms: dict[str, Any], say: Say) -> dict[str, Any]:
    """`networks` of the results that an earlier run left: none if its terms were others, such as another GPU."""
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    other = [name for name, value in terms.items() if earlier.get(name) != value]
    if other:
        say(f"{path}: starts afresh, what it holds was measured with another {', '.join(other)}")
        return {}
    return dict(earlier["networks"])


def validation_frames(samples: list[Sample], spec: ModelSpec, least: int) -> tuple[NDArray[np.uint8], list[str]]:
    """The first validation images as network input, uint8 [N, 1, S, S] N >= `least`, repeated where there are
    fewer; and their names."""
    frames, names = [], []
    for sample in (samples * (max(least, LEAST_FRAMES) // len(samples) + 1))[: max(least, LEAST_FRAMES)]:
        gray = read_gray(sample.image)
        frames.append(to_input(gray, input_roi([gray], spec), spec))
        names.append(sample.image.name)
    return np.stack(frames)[:, None], names


def _infer(engine: Any, frames: NDArray[np.uint8], batch: int) -> dict[str, NDArray[Any]]:
    """Outputs for as many frames as whole batches hold."""
    parts = [engine.infer(frames[i : i + batch]) for i in range(0, len(frames) - batch + 1, batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _gates(network: Network, settings: Settings) -> Iterator[dict[str, Any]]:
    """What every gated build came to, from its folder."""
    builds = network.builds()
    for precision in settings.precisions:
        built = builds.get(precision, {"folder": None, "refused": None, "failed": "it was not built yet"})
        row = {"precision": precision, "refused": built["refused"], "failed": built["failed"]}
        if built["folder"]:
            folder = network.folder / built["folder"]
            manifest = read_manifest(folder)
            parity = json.loads((folder / PARITY_FILE).read_text(encoding="utf-8"))
            labelled = parity["labelled"]
            row |= {
                "agreement": parity["agreement"],
                "images": parity["images"],
                "frames_from": parity["frames_from"],
                "dice": labelled["dice"],
                "reference_dice": labelled["reference_dice"],
                "labelled": labelled["n"],
                "seconds": manifest.build_seconds,
                "calib_method": manifest.remarks.get("calib_method"),
                "layers": manifest.remarks.get("layers"),
                "plan_bytes": manifest.remarks.get("plan_bytes"),
            }
        yield row


def _open(
    network: Network,
    spec: ModelSpec,
    batch: int,
    settings: Settings,
    tensorrt: Process,
    torch: Process,
    stack: ExitStack,
) -> tuple[dict[str, RemoteEngine], dict[str, str]]:
    """Contenders of a batch size by name, and why others are not among them."""
    builds = network.builds()
    opened: dict[str, RemoteEngine] = {}
    skipped: dict[str, str] = {}

    def add(name: str, opener: Callable[[], RemoteEngine]) -> None:
        try:
            opened[name] = stack.enter_context(opener())
        except SsmtError as error:
            skipped[name] = str(error)

    def folder(process: Process, key: str) -> RemoteEngine:
        built = builds.get(key, {"folder": None, "failed": "it was not built yet"})
        if built["folder"] is None:
            raise EngineError(built["failed"])
        path = network.folder / built["folder"]
        return remote.open_folder(process, path, read_manifest(path))

    for precision in settings.precisions:
        key = precision if batch == 1 else f"{precision}-batch{batch}"
        add(f"tensorrt {precision}", partial(folder, tensorrt, key))
    for how in settings.peers:
        add(f"torch {how}", partial(remote.open_peer, torch, network.checkpoint, how, spec))
    if settings.rehearse:
        skipped[ONNXRUNTIME] = "left out of a rehearsal"
    else:
        add(ONNXRUNTIME, partial(folder, torch, ONNXRUNTIME))
    return opened, skipped


def _block(
    opened: dict[str, RemoteEngine], torch: Process, frames: NDArray[np.uint8], batch: int, rounds: int, say: Say
) -> dict[str, Any]:
    """Rounds in a fixed order; the first one, in which compilers and graph captures run, does not count."""
    file = torch.file(".npy")
    np.save(file, frames)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in opened}
    failed: dict[str, str] = {}
    rates = []
    for done in range(rounds + 1):
        rates.append(torch.ask("rate"))
        for name, engine in opened.items():
            if name in failed:
                continue
            try:
                turns[name].append(engine.turn(file, batch))
            except SsmtError as error:
                failed[name] = str(error)
        say(f"batch {batch}: round {done} of {rounds}")
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rounds": rounds,
        "matrix": {"tflops": median(rate["tflops"] for rate in rates[1:]), "how": rates[0]["how"]},
        "rows": _standings({name: found[1:] for name, found in turns.items() if name not in failed})
        + [{"name": name, "skipped": why} for name, why in failed.items()],
    }


def _standings(turns: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Medians over rounds of the rounds' medians with intervals, and how many times as fast as each peer."""
    host = {name: np.array([median(turn["host_ms"]) for turn in found]) for name, found in turns.items()}
    rows = []
    for name, found in turns.items():
        compute = np.array([median(turn["compute_ms"]) for turn in found if turn["compute_ms"]])
        faster = {peer: ratio(host[peer], host[name]) for peer in host if not peer.startswith("tensorrt")}
        rows.append(
            {
                "name": name,
                "host_ms": float(np.median(host[name])),
                "host_interval_ms": bootstrap_interval(host[name]),
                "compute_ms": float(np.median(compute)) if len(compute) else None,
                "compute_interval_ms": bootstrap_interval(compute) if len(compute) else None,
                "calls": sum(len(turn["host_ms"]) for turn in found),
                "times_as_fast_as": {peer: {"median": at, "interval": ends} for peer, (at, ends) in faster.items()},
                "note": found[-1]["note"],
            }
        )
    return rows
