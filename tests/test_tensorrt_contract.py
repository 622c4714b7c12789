"""The contract with TensorRT: our builder and runtime code against the Python bindings of four versions, without a GPU.

`tensorrt_contract/` has the parts: `surface` reads what a version offers, `names` what our source uses, `recorder`
stands for TensorRT's objects, `check` runs scenarios in a process of its own for each version, because their modules
have the same names. The wheels of the bindings come from the package index; that of 8.5 is too large, so its surface is
kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONTRACT = ROOT / "tests" / "tensorrt_contract"
SIZE = 32
WHEELS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu12-bindings==10.13.3.9",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
VERSIONS = ("8.5", *WHEELS)
Json = dict[str, Any]


def pip_install(requirement: str, folder: Path) -> None:
    """Into a folder of its own; skips where this machine cannot get it."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--retries",
               "1", "--only-binary=:all:", "--target", str(folder), requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        pytest.skip(f"{requirement} cannot be fetched for this Python: {reason}")


@pytest.fixture(scope="session")
def bindings_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path | None, dict[str, str]]]:
    """The bindings of a version in a folder of their own, and the environment in which they can be imported."""
    home, ready = tmp_path_factory.mktemp("bindings"), {}

    def fetch(version: str) -> tuple[Path | None, dict[str, str]]:
        if version == "8.5":
            return None, dict(os.environ)
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler for the stand-in libraries")
        if version not in ready:
            pip_install(WHEELS[version], home / version)
            major = version.partition(".")[0]
            for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
                library = f"{name}.so.{major}"
                subprocess.run(
                    [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", home / version / library,
                     CONTRACT / "stand_ins.c"],
                    check=True,
                )  # fmt: skip
            ready[version] = home / version
        return ready[version], {**os.environ, "LD_LIBRARY_PATH": str(ready[version])}

    return fetch


def run_check(root: Path, where: tuple[Path | None, dict[str, str]]) -> Json:
    folder, environment = where
    command = [sys.executable, CONTRACT / "check.py", root, *([folder] if folder else [])]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: Json = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="session")
def answers(bindings_of: Any) -> Callable[[str], Json]:
    """What `check.py` says of the checkout and a version."""
    known: dict[str, Json] = {}

    def answer(version: str) -> Json:
        if version not in known:
            known[version] = run_check(ROOT, bindings_of(version))
        return known[version]

    return answer


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def answer(answers: Any, version: str) -> Json:
    found: Json = answers(version)
    return found


def result(answer: Json, scenario: str) -> Any:
    played = answer["scenarios"][scenario]
    assert "error" not in played, played["error"]
    return played["result"]


def calls(answer: Json, scenario: str) -> list[str]:
    return [name for name, _ in answer["scenarios"][scenario]["calls"]]


def arguments(answer: Json, scenario: str, name: str) -> list[Any]:
    return [given for called, given in answer["scenarios"][scenario]["calls"] if called == name]


def in_order(found: list[str], *expected: str) -> bool:
    """Whether the expected calls come in this order, whatever lies between."""
    rest = iter(found)
    return all(name in rest for name in expected)


def test_every_name_that_our_code_uses_exists(answer: Json, version: str) -> None:
    assert answer["version"].startswith(version)
    assert not answer["problems"], "\n".join(answer["problems"])


def test_the_names_are_those_of_our_code(answers: Any) -> None:
    found = set(answers("8.5")["names"])
    assert len(found) > 80
    assert {"Builder.build_serialized_network", "IBuilderConfig.set_memory_pool_limit", "OnnxParser.parse_from_file",
            "ITimingCache.serialize", "EngineInspector.get_engine_information", "IExecutionContext.execute_async_v3",
            "MemoryPoolType.WORKSPACE", "IOptimizationProfile.set_shape", "ParserError.desc", "ILayer.precision",
            "Severity.ERROR", "ITensor.is_execution_tensor", "Runtime.deserialize_cuda_engine",
            "INetworkDefinition.num_layers"} <= found  # fmt: skip


def test_what_one_version_lacks_another_has(answers: Any) -> None:
    lacking = [set(answers(version)["absent"]) for version in VERSIONS]
    assert not set.intersection(*lacking)
    assert "BuilderFlag.FP16" in lacking[-1] and "ParserError.node_name" in lacking[0] and not lacking[1] | lacking[2]


def test_networks_are_strongly_typed_where_they_can_be(answer: Json, version: str) -> None:
    expected = {"8.5": {"EXPLICIT_BATCH"}, "11.4": {"STRONGLY_TYPED"}}.get(
        version, {"EXPLICIT_BATCH", "STRONGLY_TYPED"}
    )
    ((mask,),) = arguments(answer, "fp16", "Builder.create_network")
    assert mask == sum(1 << answer["network_flags"][name] for name in expected)
    assert result(answer, "fp16")["remarks"]["strongly_typed"] is (version != "8.5")


def test_precision_is_in_the_graph_or_asked_of_every_layer(answer: Json, version: str) -> None:
    asked = {p: [flag for (flag,) in arguments(answer, p, "IBuilderConfig.set_flag")] for p in ("fp32", "fp16", "int8")}
    if version != "8.5":
        assert asked == {"fp32": [], "fp16": [], "int8": []}
        assert not {"ILayer.precision=", "ILayer.set_output_type"} & set(calls(answer, "int8"))
        return
    names = {p: [flag.rpartition(".")[2] for flag in flags] for p, flags in asked.items()}
    obey = "OBEY_PRECISION_CONSTRAINTS"
    assert names == {"fp32": [], "fp16": ["FP16", obey], "int8": ["FP16", "INT8", obey]}
    # of the scripted layers: the one in FP32 and the product in FP16; not Q, DQ, the convolution behind DQ, the cast,
    # the constant or the shape; the concatenation has an output type only
    found = answer["scenarios"]["int8"]["calls"]
    full, half = "DataType.FLOAT", "DataType.HALF"
    assert [call for call in found if call[0] in ("ILayer.precision=", "ILayer.set_output_type")] == [
        ["ILayer.precision=", full], ["ILayer.set_output_type", [0, full]],
        ["ILayer.precision=", half], ["ILayer.set_output_type", [0, half]],
        ["ILayer.set_output_type", [0, half]],
    ]  # fmt: skip


def test_a_build_asks_in_order(answer: Json, version: str) -> None:
    monitored = ["IBuilderConfig.progress_monitor="] if version != "8.5" else []
    assert in_order(
        calls(answer, "fp16"),
        "Builder.__init__", "Builder.create_network", "OnnxParser.__init__", "OnnxParser.parse_from_file",
        "Builder.create_builder_config", "IBuilderConfig.profiling_verbosity=", "IBuilderConfig.set_memory_pool_limit",
        "Builder.create_optimization_profile", "IOptimizationProfile.set_shape",
        "IBuilderConfig.add_optimization_profile", "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_timing_cache", *monitored, "Builder.build_serialized_network",
        "IBuilderConfig.get_timing_cache", "ITimingCache.serialize", "Runtime.__init__",
        "Runtime.deserialize_cuda_engine", "ICudaEngine.create_engine_inspector",
        "EngineInspector.get_engine_information",
    )  # fmt: skip
    ((name, *shapes),) = arguments(answer, "fp16", "IOptimizationProfile.set_shape")
    assert name == "frame" and shapes == [[n, 1, SIZE, SIZE] for n in (1, 2, 4)]
    assert arguments(answer, "fp16", "IBuilderConfig.set_memory_pool_limit") == [
        ["MemoryPoolType.WORKSPACE", 512 << 20]
    ]
    for precision in ("fp32", "fp16"):
        assert arguments(answer, precision, "IBuilderConfig.clear_flag") == [["BuilderFlag.TF32"]]
    assert not arguments(answer, "fp32", "IBuilderConfig.set_memory_pool_limit")
    built = result(answer, "fp16")
    assert built["plan"] == "plan" and json.loads(built["layers"]) == {"Layers": []}
    assert built["remarks"]["tensors"]["size"] == {
        "mode": "output", "type": "float32", "shape": [-1], "format": "row major"
    }  # fmt: skip
    assert built["remarks"]["warnings"] == ["some tactics were skipped"]
    assert built["remarks"]["device_memory_bytes"] == (1000 if version == "8.5" else 2000)
    # two phases, of which the inner one is half of the outer one
    assert built["steps"] == ([] if version == "8.5" else [[12, 100], [25, 100], [38, 100], [50, 100], [50, 100]])


def test_the_timing_cache_is_used_kept_and_distrusted(answer: Json) -> None:
    created = "IBuilderConfig.create_timing_cache"
    assert arguments(answer, "fp16", created) == [[""]]
    assert arguments(answer, "known timings", created) == [["timings"]]
    assert arguments(answer, "known timings", "IBuilderConfig.set_timing_cache") == [
        ["<ITimingCache>", ["ignore_mismatch", False]]
    ]
    for scenario, content in (("foreign timings", "of another device"), ("damaged timings", "noise")):
        assert arguments(answer, scenario, created) == [[content], [""]]
        assert "damaged or of another device" in answer["scenarios"][scenario]["said"][0]
    found = {s: result(answer, s)["remarks"]["timing_cache"] for s in ("fp16", "known timings", "foreign timings")}
    assert found == {"fp16": "new", "known timings": "used", "foreign timings": "new"}
    assert result(answer, "foreign timings")["cache"] == "plan"  # what the recorder serialises everything to


def test_options_that_a_version_lacks_are_wrong_usage(answer: Json, version: str) -> None:
    played = answer["scenarios"]
    if version == "8.5":
        for scenario, word in (
            ("level", "level"),
            ("version compatible", "version-"),
            ("hardware compatible", "hardware-"),
        ):
            assert (
                played[scenario]["error"].startswith("UsageError: TensorRT 8.5.3.1")
                and word in played[scenario]["error"]
            )
    else:
        assert arguments(answer, "level", "IBuilderConfig.builder_optimization_level=") == [5]
        assert arguments(answer, "version compatible", "IBuilderConfig.set_flag") == [
            ["BuilderFlag.VERSION_COMPATIBLE"]
        ]
        assert in_order(calls(answer, "version compatible"), "Runtime.engine_host_code_allowed=",
                        "Runtime.deserialize_cuda_engine")  # fmt: skip
        assert arguments(answer, "hardware compatible", "IBuilderConfig.hardware_compatibility_level=") == [
            "HardwareCompatibilityLevel.AMPERE_PLUS"
        ]
    if version == "11.4":
        assert "no tactic source 'cublas'; it has edge-mask-convolutions, jit-conv" in played["cublas"]["error"]
    else:
        assert arguments(answer, "cublas", "IBuilderConfig.set_tactic_sources") == [[1]]
    ((mask,),) = arguments(answer, "int8", "IBuilderConfig.set_tactic_sources")
    assert bin(mask).count("1") == 2


def test_a_dla_is_used_when_asked_for(answer: Json, version: str) -> None:
    found = result(answer, "dla")
    assert found["remarks"]["dla_fell_back"] == ["layer norm"]
    assert found["remarks"]["strongly_typed"] is (version == "11.4")
    assert arguments(answer, "dla", "IBuilderConfig.default_device_type=") == ["DeviceType.DLA"]
    assert arguments(answer, "dla", "IBuilderConfig.DLA_core=") == [1]
    assert ["BuilderFlag.GPU_FALLBACK"] in arguments(answer, "dla", "IBuilderConfig.set_flag")
    assert answer["scenarios"]["dla"]["said"][0].startswith("DLA core 1 runs 8 of 9 layers")
    assert in_order(calls(answer, "dla"), "Runtime.DLA_core=", "Runtime.deserialize_cuda_engine")
    assert in_order(calls(answer, "run dla"), "Runtime.DLA_core=", "Runtime.deserialize_cuda_engine")
    assert not [name for name in calls(answer, "fp16") if "DLA" in name or "device_type" in name]
    assert "DLA core 2 was asked for, Orin (nvgpu) has 2" in answer["scenarios"]["no such dla"]["error"]
    assert answer["scenarios"]["dla int8"]["error"].startswith("UsageError: int8")


def test_what_tensorrt_says_is_in_the_error(answer: Json) -> None:
    errors = {name: played.get("error", "") for name, played in answer["scenarios"].items()}
    assert "2 errors:" in errors["parser fails"]
    for word in ("/conv: no such type (ErrorCode.UNSUPPORTED_NODE)", "/attention/MatMul: an axis is wrong"):
        assert word in errors["parser fails"]
    assert errors["build fails"].startswith("EngineError: TensorRT")
    assert errors["build fails"].endswith("Could not find any implementation for node /conv; out of memory")
    assert "EngineError: TensorRT failed while building: pybind11" in errors["builder is refused"]
    assert (
        errors["refused plan"].startswith("EngineMismatch: ")
        and "Serialization version mismatch" in errors["refused plan"]
    )
    assert "rebuild it: ssmt-edge build-engine model.onnx --out" in errors["refused plan"]
    assert f"built with TensorRT {answer['version']} for Orin" in errors["refused plan"]


def test_an_engine_runs_frees_and_captures(answer: Json, version: str) -> None:
    ran = result(answer, "run")
    assert ran["same"] == [True] * 5 and ran["held"] == {} and ran["stack"] == 0 and ran["note"] is None
    # captures and launches after batches of 2, 2, 2, 3, 2: plain, captured, again, another size, and back
    assert ran["graphs"] == [[0, 0], [1, 1], [1, 2], [1, 2], [1, 2]]
    assert ran["times"] == {"h2d": 0.25, "compute": 0.25, "d2h": 0.25} and ran["max_batch"] == 4
    names = calls(answer, "run")
    assert in_order(names, "Runtime.deserialize_cuda_engine", "ICudaEngine.get_tensor_profile_shape",
                    "ICudaEngine.create_execution_context", "IExecutionContext.set_input_shape",
                    "IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3")  # fmt: skip
    assert [given[1][0] for given in arguments(answer, "run", "IExecutionContext.set_input_shape")] == [2, 3, 2]
    assert (
        names.count("IExecutionContext.execute_async_v3") == 4
    )  # twice for the first size: once to run, once to capture
    allowed = "Runtime.engine_host_code_allowed="
    assert allowed not in names
    assert (allowed in calls(answer, "run version compatible")) is (version != "8.5")


def test_layers_are_timed_without_a_graph(answer: Json) -> None:
    found = result(answer, "profile layers")
    # a layer that is reported twice took both times; the two warm-up runs do not count
    assert found["layers"] == {"convolution + relu": [0.25] * 4, "head": [0.75] * 4} and found["runs"] == 4
    before, after = found["launches"]
    assert before == after > 0  # the graph of earlier inferences would report nothing
    assert found["held"] == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "versions"),
    [
        ("builder.py", "config.set_memory_pool_limit(", "config.set_memory_limit(", VERSIONS),
        ("timings.py", "ignore_mismatch=", "mismatch=", VERSIONS),
        ("runtime.py", "execute_async_v3(self._stream.handle)", "execute_async_v3(str(self._stream.handle))", VERSIONS),
        ("builder.py", "trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.WORK", VERSIONS),
        ("builder.py", "set_shape(\"frame\", shapes[0],", "set_shape(\"frame\",", VERSIONS),
        ("bindings.py", 'if hasattr(known, "EXPLICIT_BATCH"):', "if True:", ("11.4",)),
        ("builder.py", "        if not typed:\n", "        if True:\n", ("11.4",)),
        ("bindings.py", "newer = hasattr(engine, \"device_memory_size_v2\")", "newer = False", ("11.4",)),
        ("progress.py", 'if not hasattr(trt, "IProgressMonitor"):', "if False:", ("8.5",)),
    ],
    ids=lambda value: value.strip()[:32] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_changed_call_is_noticed(
    bindings_of: Any, tmp_path: Path, file: str, old: str, new: str, versions: tuple[str, ...]
) -> None:
    for package in ("engines", "ssmt_edge"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    path = tmp_path / "engines" / "tensorrt_gpu" / file
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} has changed: choose another mutation"
    path.write_text(source.replace(old, new), encoding="utf-8")
    for version in versions:
        answer = run_check(tmp_path, bindings_of(version))
        played = [name for name in ("fp32", "fp16", "int8", "run") if "error" in answer["scenarios"][name]]
        assert answer["problems"] or played, f"TensorRT {version}: nobody noticed"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="wheels of cuda-bindings 13 are for Python 3.11 and later")
def test_cuda_bindings_have_what_the_fake_has(tmp_path: Path) -> None:
    """Names and numbers of arguments of the real `cuda.bindings.driver`, which imports without a GPU."""
    for requirement in ("cuda-bindings==13.0.3", "cuda-pathfinder"):
        pip_install(requirement, tmp_path)
    code = """
import inspect, json, sys
sys.path[:0] = sys.argv[1:]
from cuda.bindings import driver as real
from fake_cuda import Cuda
fake = Cuda().bindings()
wrong = []
for name, value in vars(fake).items():
    if name.startswith("cu"):
        head = getattr(real, name).__doc__.partition(")")[0].partition("(")[2]
        if len(head.split(",")) != len(inspect.signature(value).parameters):
            wrong.append(name)
    elif name.startswith("CU"):
        wrong += [f"{name}.{m.name}" for m in value if getattr(real, name)[m.name] != m.value]
print(json.dumps({"wrong": wrong, "checked": len(vars(fake))}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(CONTRACT)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["wrong"] == []
