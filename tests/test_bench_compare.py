"""Comparisons are fair: everybody has a process, they take turns and rest, and nobody outlives the bench."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import SPEC, BrightEngine, wait_until
from graphs import small_engine, small_graph, small_manifest
from numpy.typing import NDArray

from benchmarks.timing import turns
from benchmarks.timing.turns import Pace, take_turn
from benchmarks.versus import comparisons, cross_check, processes
from benchmarks.versus.accuracy import accuracy, load_labelled
from benchmarks.versus.compare import bootstrap_interval, likeness, nodules, ratio, round_medians, take_rounds
from benchmarks.versus.comparisons import _without_paths, check_versus, compare_engines
from benchmarks.versus.contenders import NAMES, OnnxRuntimePeer, OpenVinoPeer, how, open_contender
from benchmarks.versus.opening import Ours
from benchmarks.versus.processes import Process
from engines import open_engine, read_manifest, reference_graph
from engines.parity import phantom_frames
from ssmt_edge.errors import BackendUnavailable, EngineError, MissingDependency, UsageError

ROOT = Path(__file__).resolve().parent.parent


class Fake(BrightEngine):
    """A contender in this process; notes its turns in `order`."""

    def __init__(self, name: str, order: list[str], seconds: float, turns: int = 100) -> None:
        super().__init__(seconds=seconds)
        self._name, self._order, self._left = name, order, turns

    def turn(self, frames: Path, batch: int, pace: Pace) -> dict[str, Any]:
        self._order.append(self._name)
        self._left -= 1
        if self._left < 0:
            raise EngineError(f"{self._name} is out of memory")
        return take_turn(self, np.load(frames), batch, pace)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    np.save(tmp_path / "frames.npy", np.full((2, 1, 64, 64), 200, np.uint8))
    return tmp_path / "frames.npy"


def test_contenders_take_turns_and_the_slower_one_comes_out_slower(frames: Path) -> None:
    order: list[str] = []
    skipped: dict[str, str] = {}
    contenders = {
        "slow": Fake("slow", order, 0.02),
        "weak": Fake("weak", order, 0.0, 1),
        "fast": Fake("fast", order, 0),
    }
    found = take_rounds(contenders, frames, Pace(4), 3, skipped)
    assert order == ["slow", "weak", "fast", "slow", "weak", "fast", "slow", "fast"]
    assert skipped == {"weak": "weak is out of memory"} and set(found) == {"slow", "fast"}
    slow, fast = round_medians(found["slow"]), round_medians(found["fast"])
    value, (low, high) = ratio(slow, fast)
    assert len(slow) == 3 and slow.min() >= 20
    assert low <= value <= high and value > 2


def test_a_turn_rests_warms_up_and_ends_early() -> None:
    engine = BrightEngine(seconds=0.01)
    given = np.zeros((3, 1, 64, 64), np.uint8)
    start = time.perf_counter()
    found = take_turn(engine, given, 1, Pace(1000, limit_seconds=0.02, warm_calls=1, warm_seconds=0.05))
    assert len(found["host_ms"]) == turns.LEAST_CALLS and found["compute_ms"] == []
    assert 1 + turns.LEAST_CALLS < len(engine.seen) <= 6 + turns.LEAST_CALLS  # warmed up for 0.05 s
    take_turn(engine, given, 1, Pace(1, settle_seconds=0.1))
    assert time.perf_counter() - start > 0.15


def test_other_outputs_than_the_reference_are_told() -> None:
    given = np.full((1, 1, 64, 64), 153, np.uint8)
    darker = given.copy()
    darker[..., :32] -= 51
    found = likeness(darker, given, SPEC.threshold)
    assert found.max_probability_difference == pytest.approx(51 / 255)
    assert found.mask_agreement == pytest.approx(2 / 3)  # half of the mask is lost

    class Wrong(BrightEngine):
        def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
            return {"nodule": frames[:, 0]}

    with pytest.raises(EngineError, match=r"wrong returned uint8 \[1, 64, 64\], expected .*\[1, 1, 64, 64\]"):
        nodules("wrong", Wrong(), given)


def test_interval_of_equal_values_is_a_point_and_of_varied_ones_is_not() -> None:
    assert bootstrap_interval(np.full(10, 2.0)) == (2.0, 2.0)
    low, high = bootstrap_interval(np.array([1.0, 1.2, 1.1, 0.9, 1.3]))
    assert 0.9 <= low < 1.1 < high <= 1.3


def test_openvino_gives_the_outputs_of_onnx_runtime(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    graph = small_graph(tmp_path / "model.onnx")
    given = np.random.default_rng(1).integers(0, 256, (3, 1, 64, 64), np.uint8)
    with OnnxRuntimePeer(graph, SPEC, 1) as plain, OpenVinoPeer(graph, SPEC, 1) as peer:
        for i in range(3):
            expected, found = (engine.infer(given[i : i + 1])["nodule"] for engine in (plain, peer))
            assert found.dtype == np.uint8
            assert np.abs(found.astype(int) - expected).max() <= 1


def test_openvino_given_the_same_file_is_held_to_no_precision(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from engines.openvino_cpu import core

    graph = small_graph(tmp_path / "model.onnx")
    default = core().compile_model(graph, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
    for library, expected in (
        ("openvino", openvino.Type.f32),
        ("openvino:same", default.get_property("INFERENCE_PRECISION_HINT")),
    ):
        with open_contender(library, SPEC.to_json(), 1, str(graph)) as peer:
            assert isinstance(peer, OpenVinoPeer)
            compiled = peer.request.get_compiled_model()
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == expected, library
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_contenders_are_told_in_words_whatever_an_engine_is_called() -> None:
    assert how("openvino C:/engines/int8:same") == how("openvino:same")
    assert how("openvino:same") != how("openvino") != how("onnxruntime")


def test_reasons_do_not_tell_where_things_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    for folder in (Path(), Path("runs/int8"), tmp_path / "runs" / "int8"):
        ours = Ours(["a"], [folder], [small_manifest()], [None], folder / "model.onnx", None)
        reason = f"{folder / 'model.onnx'}, {folder.resolve() / 'model.onnx'}, /home/somebody/.cache/code.cpp: 1.5"
        found = _without_paths(reason, ours)
        assert str(tmp_path) not in found and "somebody" not in found
        assert found.endswith("~/.cache/code.cpp: 1.5") and found.count("model.onnx") == 2
    monkeypatch.setenv("HOME", "/")
    assert _without_paths("a/b", ours) == "a/b"


def test_the_reference_graph_goes_before_the_engine_s_own(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no FP32 graph"):
        reference_graph(tmp_path)
    (tmp_path / "model.onnx").touch()
    assert reference_graph(tmp_path).name == "model.onnx"
    (tmp_path / "reference.onnx").touch()
    assert reference_graph(tmp_path).name == "reference.onnx"


# Processes


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def sleeper(tmp_path: Path) -> tuple[str, ...]:
    """Command of a worker whose requests sleep, in a child process, as compilers run."""
    (tmp_path / "sleeper.py").write_text(
        "import os, subprocess\n"
        "from benchmarks.versus.worker import Worker, serve\n"
        "class Sleeper(Worker):\n"
        "    def ready(self):\n"
        "        return {}\n"
        "    def sleep(self):\n"
        "        child = subprocess.Popen(['sleep', '60'])\n"
        "        self._say(f'{os.getpid()} {child.pid}')\n"
        "        child.wait()\n"
        "serve(Sleeper)\n"
    )
    return sys.executable, str(tmp_path / "sleeper.py")


def test_a_request_that_takes_too_long_ends_its_process_and_what_that_started(sleeper: tuple[str, ...]) -> None:
    said: list[str] = []
    with Process("the sleeper", sleeper) as process:
        process.ask("ready")
        with pytest.raises(EngineError, match=r"the sleeper did not answer within 1 s"):
            process.ask("sleep", said.append, limit_seconds=1)
        wait_until(lambda: not any(alive(int(pid)) for pid in said[0].split()), 10)
        with pytest.raises(EngineError, match="the sleeper"):  # and it stays ended
            process.ask("sleep")


def test_a_process_that_says_no_more_and_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PATIENCE", 0.5)
    code = "import os, time; os.close(1); time.sleep(60)"
    start = time.perf_counter()
    with Process("the mute one", (sys.executable, "-c", code)) as process:
        with pytest.raises(EngineError, match="the mute one did not answer"):
            process.ask("anything")
    assert time.perf_counter() - start < 30


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_bench(sleeper: tuple[str, ...], tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "bench.py").write_text(
        "from benchmarks.versus.processes import Process\n"
        f"with Process('the sleeper', {sleeper!r}) as process:\n"
        "    process.ask('sleep', lambda line: print(line, flush=True))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(tmp_path / "bench.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as bench:
        assert bench.stdout is not None
        worker, child = (int(pid) for pid in bench.stdout.readline().split())
        assert alive(worker)
        bench.send_signal(number)
    try:
        wait_until(lambda: not alive(worker), 10)
        if number == signal.SIGINT:
            assert not alive(child)
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


# What is compared


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE_SECONDS", "WARM_SECONDS"):
        monkeypatch.setattr(turns, name, 0.0)


@pytest.mark.usefixtures("hurried")
def test_engines_of_each_checkpoint_are_compared_in_processes_of_their_own(tmp_path: Path) -> None:
    names = ["one", "two", "other"]
    folders = [
        small_engine(tmp_path / "one"),
        small_engine(tmp_path / "two", "int8", bias=0.5),
        small_engine(tmp_path / "other", checkpoint="b" * 64),
    ]
    manifests = [read_manifest(folder) for folder in folders]
    (folders[1] / "model.onnx").write_bytes(b"damaged since")
    first, second = compare_engines(
        names, folders, manifests, versus=["onnxruntime", "onnxruntime:same"], frames=6, rounds=3
    )
    assert (first["engines"], second["engines"]) == (["one", "two"], ["other"])
    assert [row["name"] for row in first["contenders"]] == ["one", "onnxruntime"]
    for row in first["contenders"]:
        assert len(row["round_medians_ms"]) == 3 and row["median_ms"] > 0
        assert (row["max_probability_difference"], row["mask_agreement"], row["dice"]) == (0, 1, None)
        assert 0 <= row["idle_cpu"] < 0.9  # of a core, while it was not its turn
    assert [(row["engine"], row["against"]) for row in first["ratios"]] == [("one", "onnxruntime")]
    # what fails is told, without saying where it lies, and costs the others nothing
    assert [row["name"] for row in first["skipped"]] == ["two", "onnxruntime:same"]
    assert all("model.onnx" in row["why"] and str(tmp_path) not in row["why"] for row in first["skipped"])
    assert second["skipped"] == [
        {"name": "onnxruntime:same", "why": "no engine here holds a quantised graph for the CPU"}
    ]
    assert second["checkpoint_sha256"] == "b" * 64

    (folders[0] / "reference.onnx").write_bytes(b"damaged, too")
    with pytest.raises(EngineError, match=r"cannot load reference\.onnx"):  # nothing is left to compare with
        compare_engines(names[:1], folders[:1], manifests[:1], versus=["openvino"], frames=6, rounds=3)


def test_engines_that_compute_something_else_are_compared_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [small_engine(tmp_path / name) for name in ("one", "gland", "two")]
    manifests = [read_manifest(folder) for folder in folders]
    manifests[1] = replace(manifests[1], outputs=("nodule", "gland"))
    monkeypatch.setattr(comparisons, "_comparison", lambda ours, *_: {"engines": ours.names})
    found = compare_engines(["one", "gland", "two"], folders, manifests)
    assert found == [{"engines": ["one", "two"]}]
    found = compare_engines(["one", "gland", "two"], folders, manifests, versus=["onnxruntime"])
    assert found == [{"engines": ["one", "two"]}, {"engines": ["gland"]}]


@pytest.mark.usefixtures("hurried")
def test_peers_get_the_dice_that_evaluation_gives(fp32_engine: Path, int8_engine: Path, phantom_set: Path) -> None:
    labelled = load_labelled(phantom_set, "val")
    folders = [fp32_engine, int8_engine]
    manifests = [read_manifest(folder) for folder in folders]
    scores = []
    for folder in folders:
        with open_engine(folder, 1) as engine:
            scores.append(accuracy(engine, labelled))
    assert scores[0]["n"] == 2 and 0 <= scores[0]["dice"] <= 1
    (found,) = compare_engines(
        ["fp32", "int8"], folders, manifests, versus=["onnxruntime", "onnxruntime:same"], labelled=labelled,
        accuracies=scores, frames=3, rounds=3,
    )  # fmt: skip
    assert found["skipped"] == []
    rows = {row["name"]: row for row in found["contenders"]}
    assert list(rows) == ["fp32", "int8", "onnxruntime", "onnxruntime:same"]
    for name, score in zip(("fp32", "int8"), scores, strict=True):
        assert (rows[name]["dice"], rows[name]["dice_interval"]) == (score["dice"], score["interval"])
    assert rows["onnxruntime"]["dice"] == pytest.approx(scores[0]["dice"], abs=1e-3)
    assert rows["onnxruntime:same"]["dice"] == pytest.approx(scores[1]["dice"], abs=1e-6)
    assert rows["onnxruntime:same"]["max_probability_difference"] == rows["int8"]["max_probability_difference"] > 0


def test_pytorch_gives_the_engine_s_outputs_and_as_trained_all_its_tasks(
    fp32_engine: Path, tiny_checkpoint: Path
) -> None:
    given = phantom_frames(read_manifest(fp32_engine).spec, 1)
    with open_engine(fp32_engine, 1) as engine:
        expected = engine.infer(given)
    import torch

    threads = torch.get_num_threads()
    for outputs in (("nodule", "size"), ()):
        with open_contender("torch", SPEC.to_json(), 1, checkpoint=str(tiny_checkpoint), outputs=outputs) as peer:
            found = peer.infer(given)
        assert set(found) == (set(outputs) or {"nodule", "gland", "size", "reconstruction"})
        assert np.abs(found["nodule"].astype(int) - expected["nodule"]).max() <= 1
        np.testing.assert_allclose(found["size"], expected["size"], atol=1e-4)
    torch.set_num_threads(threads)


def test_compiling_without_a_compiler_says_what_is_missing(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BackendUnavailable, match=r"needs a C\+\+ compiler"):
        open_contender("torch-compile", SPEC.to_json(), 1, checkpoint=str(tiny_checkpoint), outputs=["nodule", "size"])


COMPILED = """
import numpy as np, torch
from engines.parity import phantom_frames
from ssmt_edge.spec import ModelSpec
from trainer.cpu_peers import CpuPeer

class Small(torch.nn.Module):
    spec, outputs = ModelSpec("small", 64, 60.0, 0.02, ("nodule",)), ("nodule",)

    def __init__(self):
        super().__init__()
        self.blur = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, frame):
        return ((torch.sigmoid(self.blur(frame.float() / 255)) * 255).to(torch.uint8),)

network, given = Small(), phantom_frames(Small.spec, 1)
plain, compiled = (CpuPeer(network, how, 1).infer(given)["nodule"] for how in (False, True))
assert len(np.unique(plain)) > 10
assert np.abs(compiled.astype(int) - plain).max() <= 1
"""


@pytest.mark.slow
def test_compiled_pytorch_computes_the_same() -> None:
    """In a process of its own, as in a bench: Inductor starts processes and keeps settings for all that come after."""
    pytest.importorskip("torch")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", COMPILED], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_pytorch_and_the_plain_network_agree_with_the_engine(fp32_engine: Path, tiny_checkpoint: Path) -> None:
    manifest = read_manifest(fp32_engine)
    versus = ["torch", "torch:plain", "onnxruntime:plain"]
    check_versus(versus, ["engine"], [manifest], [tiny_checkpoint])
    (found,) = compare_engines(
        ["engine"], [fp32_engine], [manifest], versus=versus, checkpoints=[tiny_checkpoint], frames=3, rounds=3
    )
    assert found["skipped"] == []
    assert [row["name"] for row in found["contenders"]] == ["engine", *versus]
    assert all(row["mask_agreement"] > 0.999 for row in found["contenders"])


@pytest.mark.parametrize(
    ("versus", "checkpoint", "message"),
    [
        (["tflite"], None, "'tflite' is not known; expected some of torch, torch-compile, onnxruntime, openvino, "),
        (["torch:same"], None, "not known"),
        (["onnxruntime", "onnxruntime"], None, "twice"),
        (["torch"], None, r"--vs torch needs the weights of one.*--checkpoint.*aaaaaaaaaaaa"),
        (["onnxruntime:plain"], None, "--vs onnxruntime:plain needs the weights"),
        (["torch"], "absent", "absent does not exist"),
        (["torch"], "", "is not a file"),
        (["onnxruntime"], "w", r"w holds other weights than one.*aaaaaaaaaaaa"),
    ],
)
def test_wrong_peers_and_checkpoints_end_in_one_line(
    tmp_path: Path, versus: list[str], checkpoint: str | None, message: str
) -> None:
    if find_spec("torch") is None and "torch" in versus[0] + message:
        pytest.skip("torch is not installed")
    (tmp_path / "w").write_bytes(b"other weights")
    with pytest.raises(UsageError, match=message) as caught:
        check_versus(versus, ["one"], [small_manifest()], [] if checkpoint is None else [tmp_path / checkpoint])
    assert caught.value.exit_code == 2


def test_a_missing_peer_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'ssmt-edge\[openvino\]'"):
        check_versus(["openvino"], ["one"], [small_manifest()], [])
    assert "openvino:same" in NAMES


# benchmark_app


def test_openvino_s_own_tool_times_the_same_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(cross_check, "SECONDS", 1)
    assert 0 < cross_check.benchmark_app_ms(small_graph(tmp_path / "model.onnx"), SPEC.input_size, 1) < 1000
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="benchmark_app failed"):
        cross_check.benchmark_app_ms(tmp_path / "model.onnx", SPEC.input_size, 1)


@pytest.mark.parametrize(
    ("ours", "theirs", "bare", "why"),
    [
        ([10] * 6, [9.8] * 5, 9.8, None),
        ([10] * 6, [8] * 5, 8.1, "copies the masks out.*8.10 ms"),
        ([10, 10, 12, 12, 12, 12], [8] * 5, 12, "was not steady"),
        ([10] * 6, [8] * 5, 10, "not explained"),
        ([10, 30] * 3, [20] * 5, 9, None),  # the machine drifts, and hits both alike
    ],
)
def test_a_difference_to_it_is_explained_by_measurements_only(
    monkeypatch: pytest.MonkeyPatch, ours: list[float], theirs: list[float], bare: float, why: str | None
) -> None:
    mine, others = iter(ours), iter(theirs)
    monkeypatch.setattr(cross_check, "benchmark_app_ms", lambda *_: next(others))
    found = cross_check.cross_check(Path("model.onnx"), 64, 1, lambda: next(mine), lambda: bare)
    assert found["why"] is None if why is None else re.search(why, found["why"])
    assert (abs(found["difference"]) >= cross_check.TOLERANCE) == (why is not None)
