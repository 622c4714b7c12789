"""What opens the contenders of a comparison, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.versus.contenders import PACKAGES, given_to, library_of
from benchmarks.versus.processes import Process, RemoteEngine
from engines.onnxruntime_cpu import MODEL_FILE
from ssmt_edge.errors import SsmtError
from ssmt_edge.files import cache_folder
from ssmt_edge.spec import EngineManifest, ModelSpec

Opener = Callable[[], AbstractContextManager[RemoteEngine]]


@dataclass(frozen=True)
class Ours:
    """Engines of one checkpoint, at least one, and what their peers are given."""

    names: Sequence[str]
    folders: Sequence[Path]
    manifests: Sequence[EngineManifest]
    accuracies: Sequence[dict[str, Any] | None]
    """what `benchmarks.versus.accuracy.accuracy` found of each"""
    graph: Path
    """the FP32 reference"""
    checkpoint: Path | None

    @property
    def spec(self) -> ModelSpec:
        return self.manifests[0].spec

    @property
    def on_gpu(self) -> bool:
        return any(manifest.device.compute_capability for manifest in self.manifests)


def openers(ours: Ours, versus: Sequence[str], threads: int, folder: Path) -> tuple[dict[str, Opener], dict[str, str]]:
    """Engines and peers by name, in this order, and why others are not among them.

    Args:
        versus: of `benchmarks.versus.contenders.NAMES`; `:same` becomes one for each quantised file.
        folder: for graphs that are exported on the way.
    """
    found: dict[str, Opener] = {}
    skipped: dict[str, str] = {}
    for name, path, manifest in zip(ours.names, ours.folders, ours.manifests, strict=True):
        found[name] = partial(_engine, name, path, manifest, threads)
    plain: Path | SsmtError | None = None
    for name in versus:
        library, given = library_of(name), given_to(name)
        how: dict[str, Any] = {"library": library, "spec": ours.spec.to_json(), "threads": threads}
        if PACKAGES[library] == "torch":
            outputs = [] if given else list(ours.manifests[0].outputs)
            how |= {"checkpoint": str(ours.checkpoint), "outputs": outputs, "gpu": ours.on_gpu}
            found[name] = partial(open_peer, name, ours.spec, how)
        elif given == "same":
            files = _quantised(ours)
            how["library"] = f"{library}:{given}"
            for engine, path in files.items():
                called = name if len(files) == 1 else f"{library} {engine}:{given}"
                found[called] = partial(open_peer, called, ours.spec, {**how, "graph": str(path)})
            if not files:
                skipped[name] = "no engine here holds a quantised graph for the CPU"
        elif given == "plain":
            plain = plain or _export_plain(ours.checkpoint, folder / "plain.onnx")
            if isinstance(plain, Path):
                found[name] = partial(open_peer, name, ours.spec, {**how, "graph": str(plain)})
            else:
                skipped[name] = str(plain)
        else:
            found[name] = partial(open_peer, name, ours.spec, {**how, "graph": str(ours.graph)})
    return found, skipped


def _quantised(ours: Ours) -> dict[str, Path]:
    """Quantised graphs for the CPU, each once, by the first engine that has it."""
    files: dict[str, tuple[str, Path]] = {}
    for name, folder, manifest in zip(ours.names, ours.folders, ours.manifests, strict=True):
        digest = manifest.files.get(MODEL_FILE)
        if manifest.precision == "int8" and not manifest.device.compute_capability and digest is not None:
            files.setdefault(digest, (name, folder / MODEL_FILE))
    return dict(files.values())


def _export_plain(checkpoint: Path | None, out: Path) -> Path | SsmtError:
    try:
        with Process("the export of the plain network") as process:
            process.ask("export_plain", checkpoint=str(checkpoint), out=str(out))
    except SsmtError as error:
        return error
    return out


@contextmanager
def _engine(name: str, folder: Path, manifest: EngineManifest, threads: int) -> Iterator[RemoteEngine]:
    with _process(name, threads) as process:
        told = process.ask("open", name=name, folder=str(folder), manifest=manifest.to_dict(), threads=threads)
        yield RemoteEngine(process, name, manifest.spec, told["max_batch"])


@contextmanager
def open_peer(name: str, spec: ModelSpec, how: dict[str, Any]) -> Iterator[RemoteEngine]:
    """A contender in its own process; `how`: arguments of `benchmarks.versus.contenders.open_contender`."""
    with _process(name, how["threads"]) as process:
        told = process.ask("open_contender", name=name, **how)
        yield RemoteEngine(process, name, spec, told["max_batch"])


def _process(name: str, threads: int) -> Process:
    # PyTorch starts as many threads as this says, whatever it is told later
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(cache_folder("inductor"))}
    return Process(name, env={"OMP_NUM_THREADS": str(threads), **caches})
