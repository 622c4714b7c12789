"""Runs our TensorRT code against one version's own bindings: `python check.py ROOT [BINDINGS_FOLDER]`.

ROOT holds the package `engines`. BINDINGS_FOLDER holds `tensorrt_bindings` (or `tensorrt`), whose stand-in libraries
LD_LIBRARY_PATH finds; without it the surface of 8.5.3.1 in this folder serves. Prints JSON: `version`,
`network_flags`, `names` (what the source uses), `problems` (what of it the version lacks), `absent` (what it lacks and
our code asks for first), and `scenarios`, each with `calls`, `said` and either `result` or `error`.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent


def main(root: Path, bindings: Path | None) -> dict[str, Any]:
    import names
    import recorder
    import surface

    if bindings is None:
        found = json.loads((HERE / "surface_8_5.json").read_text())
        real = recorder.hand_made(found)
    else:
        sys.path.insert(0, str(bindings))
        real = importlib.import_module("tensorrt_bindings" if (bindings / "tensorrt_bindings").is_dir() else "tensorrt")
        found = surface.read(real)
    used = names.uses(root / "engines" / "tensorrt_gpu", found)
    scenarios = {name: play(real, found, name, run) for name, run in SCENARIOS.items()}
    return {
        "version": found["version"],
        "network_flags": found["enums"]["NetworkDefinitionCreationFlag"],
        "names": sorted({f"{use.owner}.{use.name}" for use in used}),
        "problems": names.problems(used, found),
        "absent": names.absent(used, found),
        "scenarios": scenarios,
    }


def play(real: ModuleType, found: dict[str, Any], name: str, run: Callable[..., Any]) -> dict[str, Any]:
    """One scenario with recorders of its own."""
    import recorder

    tape = recorder.Tape(found, {})
    sys.modules["tensorrt"] = recorder.recorded(real, tape)
    from engines.tensorrt_gpu import bindings, cuda

    for cached in (bindings.logger, cuda.driver, cuda._primary_context):
        cached.cache_clear()
    lines: list[str] = []
    outcome: dict[str, Any] = {}
    try:
        outcome["result"] = run(tape, lines.append)
    except (Exception, recorder.Violation) as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    return {**outcome, "said": lines, "calls": tape.entries}


def build(tape: Any, say: Any, precision: str, batch: tuple[int, int, int] = (1, 1, 4), cached: bytes | None = None,
          changes: dict[str, Any] | None = None, **options: Any) -> Any:  # fmt: skip
    from network import SIZE, building

    from engines.options import TensorRtOptions
    from engines.tensorrt_gpu import builder, timings
    from ssmt_edge.spec import Device

    device = Device("Orin (nvgpu)", compute_capability="8.7", driver="540.4.0", cuda="12.6")
    with tempfile.TemporaryDirectory() as folder:
        tape.script.update(building(tape, changes))
        chosen = TensorRtOptions(timing_cache=Path(folder), **options)
        file = timings.cache_file(Path(folder), device, tape.module.__version__)
        if cached is not None:
            file.write_bytes(cached)
        steps: list[Any] = []

        def watched(self: Any, network: Any, config: Any) -> Any:
            """A build of two nested phases, as the monitor sees it."""
            monitor = config.state.get("progress_monitor")
            if monitor is not None:
                monitor.phase_start("all", None, 2)
                monitor.phase_start("inner", "all", 4)
                for i in range(4):
                    assert monitor.step_complete("inner", i) is True
                monitor.phase_finish("inner")
                monitor.step_complete("all", 0)
                monitor.phase_finish("all")
            from recorder import HostMemory

            from engines.tensorrt_gpu.bindings import logger

            for _ in range(2):
                logger().log(tape.module.ILogger.Severity.WARNING, "some tactics were skipped")
            return HostMemory(b"plan")

        tape.script.setdefault("Builder.build_serialized_network", watched)
        nodes = ("/conv", "/attention/MatMul")
        order = builder.Order(Path(folder) / "m.onnx", nodes, precision, SIZE, batch, chosen, device)  # type: ignore[arg-type]
        plan, layers, remarks = builder.build_plan(order, say, lambda what, done, total: steps.append([done, total]))
        kept = file.read_bytes().decode() if file.exists() else None
        return {"plan": plan.decode(), "layers": layers, "remarks": remarks, "steps": steps, "cache": kept}


def parser_fails(tape: Any, say: Any) -> Any:
    old = "node_name" not in tape.surface["classes"]["ParserError"]
    changes = {
        "OnnxParser.parse_from_file": False, "OnnxParser.num_errors": 2, "OnnxParser.get_error": _flaw,
        "ParserError.desc": lambda self: ["no such type", "an axis is wrong"][self.state["index"]],
        "ParserError.code": lambda self: tape.enum("ErrorCode", "UNSUPPORTED_NODE"),
        "ParserError.node": lambda self: self.state["index"],
    }  # fmt: skip
    if not old:
        changes |= {
            "ParserError.node_name": lambda self: ["/conv", "/attention/MatMul"][self.state["index"]],
            "ParserError.node_operator": "Op", "ParserError.local_function_stack": ["block"],
        }  # fmt: skip
    return build(tape, say, "fp16", changes=changes)


def _flaw(parser: Any, index: int) -> Any:
    made = parser.tape.make("ParserError")
    made.state["index"] = index
    return made


def build_fails(tape: Any, say: Any) -> Any:
    def fails(self: Any, network: Any, config: Any) -> None:
        from engines.tensorrt_gpu.bindings import logger

        severity = tape.module.ILogger.Severity
        logger().log(severity.INFO, "a remark")
        logger().log(severity.ERROR, "Could not find any implementation for node /conv")
        logger().log(severity.INTERNAL_ERROR, "out of memory")

    return build(tape, say, "fp16", changes={"Builder.build_serialized_network": fails})


def builder_is_refused(tape: Any, say: Any) -> Any:
    """What the bindings do where the library gives no builder: a TypeError."""

    def refused(self: Any, logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    return build(tape, say, "fp16", changes={"Builder.__init__": refused})


def foreign_cache(tape: Any, say: Any) -> Any:
    answers = iter([False, True])
    changes = {"IBuilderConfig.set_timing_cache": lambda *_, **__: next(answers)}
    return build(tape, say, "fp16", cached=b"of another device", changes=changes)


def damaged_cache(tape: Any, say: Any) -> Any:
    def create(self: Any, content: bytes) -> Any:
        return tape.make("ITimingCache") if not content else None

    return build(tape, say, "fp16", cached=b"noise", changes={"IBuilderConfig.create_timing_cache": create})


def run_engine(tape: Any, say: Any, **remarks: Any) -> Any:
    """Opens a plan and infers batches of 2, 2, 2, 3 and 2; says what the fakes saw."""
    import numpy as np
    from fake_cuda import Cuda
    from network import SIZE, engine

    device = Cuda()
    sys.modules.update({"pycuda.driver": device.pycuda(), "cuda.bindings.driver": device.bindings()})
    tape.script.update(engine(tape, device))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        opened = open_plan(Path(folder), tape, **remarks)
        same, graphs = [], []
        for count in (2, 2, 2, 3, 2):
            frames = rng.integers(0, 256, (count, 1, SIZE, SIZE), dtype=np.uint8)
            outputs = opened.infer(frames)
            same.append(bool((outputs["nodule"] == frames).all() and outputs["size"].shape == (count,)))
            graphs.append([device.captures, device.launches])
        times, most = opened.last_times_ms, opened.max_batch
        opened.close()
    return {"same": same, "graphs": graphs, "times": times, "held": device.held(), "stack": len(device.stack),
            "max_batch": most, "note": opened.note}  # fmt: skip


def profile_layers(tape: Any, say: Any) -> Any:
    """Times of every layer, of an engine that had captured a graph before."""
    import numpy as np
    from fake_cuda import Cuda
    from network import SIZE, engine

    from engines.tensorrt_gpu.layer_times import layer_times

    device = Cuda()
    sys.modules.update({"pycuda.driver": device.pycuda(), "cuda.bindings.driver": device.bindings()})
    tape.script.update(engine(tape, device))
    frames = np.zeros((1, 1, SIZE, SIZE), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        opened = open_plan(Path(folder), tape)
        for _ in range(3):
            opened.infer(frames)
        before = device.launches
        layers, whole = layer_times(opened, frames, 2, 4)
        opened.close()
    return {"layers": layers, "runs": len(whole), "launches": [before, device.launches], "held": device.held()}


def refused_plan(tape: Any, say: Any) -> Any:
    from fake_cuda import Cuda
    from network import engine

    def refuse(self: Any, plan: Any) -> None:
        from engines.tensorrt_gpu.bindings import logger

        logger().log(tape.module.ILogger.Severity.ERROR, "Serialization version mismatch")

    device = Cuda()
    sys.modules.update({"pycuda.driver": device.pycuda(), "cuda.bindings.driver": device.bindings()})
    tape.script.update(engine(tape, device, changes={"Runtime.deserialize_cuda_engine": refuse}))
    with tempfile.TemporaryDirectory() as folder:
        open_plan(Path(folder), tape)


def open_plan(folder: Path, tape: Any, outputs: tuple[str, ...] = ("nodule", "size"), **remarks: Any) -> Any:
    from engines.tensorrt_gpu.runtime import TensorRtEngine

    (folder / "model.plan").write_bytes(b"plan")
    return TensorRtEngine(folder, manifest(tape.module.__version__, outputs, **remarks))


def manifest(version: str, outputs: tuple[str, ...] = ("nodule", "size"), **remarks: Any) -> Any:
    from network import SIZE

    from ssmt_edge.spec import Device, EngineManifest, ModelSpec

    return EngineManifest(
        spec=ModelSpec("fake", SIZE, 60.0, 0.02, ("nodule", "size"), crop="none"), precision="fp16", backend="tensorrt",
        backend_version=version, device=Device("Orin (nvgpu)", compute_capability="8.7"), product_version="0",
        outputs=outputs, max_batch=4, files={}, checkpoint_sha256="0", parameters=1, gmac=1.0, gflops=2.0,
        options={"source": "model.onnx"}, remarks=remarks,
    )  # fmt: skip


SCENARIOS: dict[str, Callable[..., Any]] = {
    "fp32": lambda tape, say: build(tape, say, "fp32"),
    "fp16": lambda tape, say: build(tape, say, "fp16", (1, 2, 4), workspace_mib=512),
    "int8": lambda tape, say: build(tape, say, "int8", tactic_sources=("edge-mask-convolutions", "jit-convolutions")),
    "known timings": lambda tape, say: build(tape, say, "fp16", cached=b"timings"),
    "foreign timings": foreign_cache,
    "damaged timings": damaged_cache,
    "level": lambda tape, say: build(tape, say, "fp16", optimisation_level=5),
    "version compatible": lambda tape, say: build(tape, say, "fp16", version_compatible=True),
    "hardware compatible": lambda tape, say: build(tape, say, "fp16", hardware_compatible=True),
    "cublas": lambda tape, say: build(tape, say, "fp16", tactic_sources=("cublas",)),
    "dla": lambda tape, say: build(tape, say, "fp16", (1, 1, 1), dla=1),
    "no such dla": lambda tape, say: build(tape, say, "fp16", (1, 1, 1), dla=2),
    "dla int8": lambda tape, say: build(tape, say, "int8", (1, 1, 1), dla=0),
    "parser fails": parser_fails,
    "build fails": build_fails,
    "builder is refused": builder_is_refused,
    "run": run_engine,
    "run version compatible": lambda tape, say: run_engine(tape, say, version_compatible=True),
    "run dla": lambda tape, say: run_engine(tape, say, dla=1),
    "profile layers": profile_layers,
    "refused plan": refused_plan,
}

if __name__ == "__main__":
    # no user's cache, and none of the machine's own packages, whatever is installed
    os.environ["XDG_CACHE_HOME"] = tempfile.gettempdir()
    checked = Path(sys.argv[1]).resolve()
    sys.path[:0] = [str(checked), str(HERE)]
    json.dump(main(checked, Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else None), sys.stdout, default=str)
