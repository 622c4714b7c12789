"""From a graph to a verified engine: the graph's file, calibration, INT8 emission, the gate, the folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import WITHOUT_TORCH, Cli, error_line, in_subprocess, refused, tree

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

from engines import build as building  # noqa: E402
from engines import (  # noqa: E402
    gate,
    open_engine,
    read_manifest,
)
from engines.build import build_engine, verify_engine  # noqa: E402
from engines.calibrate import HELD_BACK, Samples, collect, measure_ranges, split  # noqa: E402
from engines.graph import Graph, load_graph, round_weights, save_graph  # noqa: E402
from engines.onnxruntime_cpu import open_graph  # noqa: E402
from engines.options import BuildOptions  # noqa: E402
from engines.parity import agreement, infer_all, max_difference, phantom_frames  # noqa: E402
from engines.precision import quantise_for_cpu  # noqa: E402
from engines.ranges import load_calibration  # noqa: E402
from ssmt_edge.dataset import load_samples, read_gray  # noqa: E402
from ssmt_edge.errors import CalibrationError, EngineError, ExportError, UsageError, VerdictNo  # noqa: E402
from ssmt_edge.files import sha256  # noqa: E402

LOOSE = 0.2  # random weights lose more to rounding than trained ones


@pytest.fixture(scope="module")
def graph(tiny_graph: Path) -> Graph:
    return load_graph(tiny_graph)


@pytest.fixture(scope="module")
def frames(graph: Graph) -> Any:
    return phantom_frames(graph.spec, 3, seed=5)


def initialisers(model: Any) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


# the graph's file


def test_a_graph_returns_from_its_file(graph: Graph, tmp_path: Path) -> None:
    save_graph(graph, tmp_path / "copy.onnx")
    again = load_graph(tmp_path / "copy.onnx")
    assert (again.spec, again.checkpoint_sha256, again.max_batch) == (graph.spec, graph.checkpoint_sha256, 4)
    assert again.model.graph == graph.model.graph


def test_half_stored_weights_are_half_the_file_and_the_same_function(
    graph: Graph, frames: Any, tiny_graph: Path, tmp_path: Path
) -> None:
    path = tmp_path / "half.onnx"
    save_graph(graph, path, half_weights=True)
    assert path.stat().st_size < 0.53 * tiny_graph.stat().st_size
    rounded = round_weights(graph)
    half, full = initialisers(rounded.model), initialisers(graph.model)
    assert any((half[name] != full[name]).any() for name in full)
    with open_graph(load_graph(path)) as stored, open_graph(rounded) as expected:
        assert max(max_difference(stored.infer(frames), expected.infer(frames)).values()) == 0
    # onnxruntime runs the file as it is, too
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with open_graph(rounded) as expected:
        found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"frame": frames}), strict=True))
        assert max(max_difference(found, expected.infer(frames)).values()) <= 1 / 255


@pytest.mark.parametrize("content", [b"", b"not a network" * 100])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"a\.onnx .*export"):
        load_graph(tmp_path / "a.onnx")


def test_a_truncated_graph_and_a_foreign_one_are_refused(tiny_graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(tiny_graph.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="not a whole ONNX file"):
        load_graph(path)
    model = onnx.load(str(tiny_graph))
    del model.metadata_props[:]
    onnx.save(model, str(path))
    with pytest.raises(ExportError, match=r"lacks the metadata 'ssmt-edge\.spec'"):
        load_graph(path)


# calibration


def test_distinct_frames_are_collected_once(graph: Graph, calib_folder: Path, tmp_path: Path) -> None:
    for i in range(20):  # ten distinct ones, each twice
        shutil.copy(calib_folder / f"{i // 2}.png", tmp_path / f"{i}.png")
    said: list[str] = []
    samples = collect(tmp_path, graph.spec, say=said.append)
    assert len(samples) == 10 and samples.frames.shape == (10, 1, 64, 64) and samples.frames.dtype == np.uint8
    assert len(said) == 1 and said[0].startswith("warning: only 10 distinct")


def test_at_most_so_many_frames_evenly_spread(graph: Graph, calib_folder: Path) -> None:
    said: list[str] = []
    everything = collect(calib_folder, graph.spec, say=said.append).names
    assert len(everything) == 40 and said == []
    assert collect(calib_folder, graph.spec, most=14).names == everything[::3]


def test_frames_for_the_gate_are_none_of_the_calibration(graph: Graph, calib_folder: Path) -> None:
    samples = collect(calib_folder, graph.spec)
    parts = split(samples)
    used, held = parts.used, parts.held
    assert held is not None and len(held) == HELD_BACK and len(used) == 24
    assert not set(used.names) & set(held.names)
    assert {f.tobytes() for f in used.frames}.isdisjoint(f.tobytes() for f in held.frames)
    few = Samples(samples.frames[:20], samples.names[:20])
    assert split(few).used == few and split(few).held is None


def test_ranges_are_those_of_the_frames(graph: Graph, calib_folder: Path) -> None:
    samples = collect(calib_folder, graph.spec, most=8)
    ranges = measure_ranges(graph, samples, "here").ranges
    (first,) = [n for n in graph.model.graph.node if n.op_type == "Sub"]
    mean = graph.spec.gray_mean
    assert ranges[first.output[0]] == (samples.frames.min() - mean, samples.frames.max() - mean)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"version": 2}, "version 1"),
        ({"checkpoint_sha256": "0" * 64}, "made for the checkpoint 000000000000"),
        ({"ranges": {"a": [1]}}, "is not a calibration file"),
        ({"ranges": {"a": [1, "x"]}}, "is not a calibration file"),
        ({"ranges": {"a": [2, 1]}}, "is not a calibration file"),
        ({"ranges": {"a": [float("nan"), 1]}}, "is not a calibration file"),
        ({"ranges": None}, "is not a calibration file"),
        ({"frames": None}, "is not a calibration file"),
        ({"surplus": 1}, "is not a calibration file"),
    ],
)
def test_ranges_that_cannot_be_meant_are_refused(
    int8_engine: Path, graph: Graph, tmp_path: Path, change: dict[str, Any], expected: str
) -> None:
    values = json.loads((int8_engine / "calibration.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(CalibrationError, match=expected):
        load_calibration(tmp_path / "c.json", graph.checkpoint_sha256)


def test_ranges_of_another_export_are_refused(int8_engine: Path, graph: Graph) -> None:
    calibration = load_calibration(int8_engine / "calibration.json", graph.checkpoint_sha256)
    with pytest.raises(CalibrationError, match=r"no range for \d+ tensors .*calibrate on frames again"):
        quantise_for_cpu(graph, replace(calibration, ranges={}, clipped={}), "avx2")


# INT8 emission for the CPU


@pytest.fixture(scope="module", params=["avx2", "vnni"])
def emitted(request: pytest.FixtureRequest, int8_engine: Path, graph: Graph) -> tuple[str, Any]:
    calibration = load_calibration(int8_engine / "calibration.json", graph.checkpoint_sha256)
    return request.param, quantise_for_cpu(graph, calibration, request.param).graph


def weight_pairs(emitted: Any) -> dict[str, tuple[Any, Any]]:
    """Quantised weight and its scales, of every Conv and Gemm, by the layer's name; floats have no scale."""
    tensors = {t.name: numpy_helper.to_array(t) for t in emitted.initializer}
    made = {output: node for node in emitted.node for output in node.output}
    pairs: dict[str, tuple[Any, Any]] = {}
    for node in emitted.node:
        if node.op_type in ("Conv", "Gemm"):
            dequantised = made.get(node.input[1])
            weight, scale = dequantised.input[:2] if dequantised else (node.input[1], None)
            pairs[node.name] = tensors[weight], tensors.get(scale)
    return pairs


def test_weights_are_signed_per_channel_and_keep_to_seven_bits_without_vnni(emitted: tuple[str, Any]) -> None:
    instruction_set, quantised = emitted
    pairs = {name: pair for name, pair in weight_pairs(quantised).items() if pair[1] is not None}
    assert len(pairs) > 30
    for name, (weight, scale) in pairs.items():
        assert weight.dtype == np.int8, name
        assert scale.size in weight.shape and (scale.size > 1 or 1 in weight.shape), name
    largest = max(int(np.abs(weight.astype(int)).max()) for weight, _ in pairs.values())
    assert largest == (64 if instruction_set == "avx2" else 127)


def test_activations_are_unsigned(emitted: tuple[str, Any]) -> None:
    tensors = {t.name: numpy_helper.to_array(t) for t in emitted[1].initializer}
    zero_points = [tensors[n.input[2]] for n in emitted[1].node if n.op_type == "QuantizeLinear"]
    assert len(zero_points) > 20 and {z.dtype.name for z in zero_points} == {"uint8"}


def test_first_and_last_layers_attention_and_residual_adds_keep_float(emitted: tuple[str, Any]) -> None:
    _, quantised = emitted
    made = {output: node for node in quantised.node for output in node.output}
    users: dict[str, set[str]] = {}
    for node in quantised.node:
        for name in node.input:
            users.setdefault(name, set()).add(node.op_type)
    for node in quantised.node:
        if node.op_type in ("Add", "Softmax", "LayerNormalization", "Sigmoid", "MatMul"):
            assert "QuantizeLinear" not in users.get(node.output[0], set()), node.name
        if node.op_type == "MatMul":
            assert all(made[name].op_type != "DequantizeLinear" for name in node.input), node.name
    floats = [name for name, (_, scale) in weight_pairs(quantised).items() if scale is None]
    layers = {n.name: n for n in quantised.node if n.name in floats}
    # the first layer, the convolution to one channel, and the size head's last layer
    shapes = sorted((n.op_type, weight_pairs(quantised)[n.name][0].shape) for n in layers.values())
    assert shapes == [("Conv", (1, 16, 1, 1)), ("Conv", (32, 1, 3, 3)), ("Gemm", (1, 16))]


# the build


def test_what_an_int8_folder_holds(int8_engine: Path, tiny_checkpoint: Path, calib_folder: Path) -> None:
    from ssmt_edge.files import sha256

    names = {"model.onnx", "reference.onnx", "calibration.json", "parity.json"}
    assert {p.name for p in int8_engine.iterdir()} == {*names, "engine.json"}
    manifest = read_manifest(int8_engine)
    assert manifest.files == {name: sha256(int8_engine / name) for name in names}
    assert (manifest.precision, manifest.backend, manifest.outputs) == ("int8", "onnxruntime", ("nodule", "size"))
    assert manifest.checkpoint_sha256 == sha256(tiny_checkpoint)
    assert manifest.device.name and manifest.device.instruction_set in ("vnni", "avx2", "neon")
    assert manifest.parameters > 1e6 and manifest.gmac > 0 and manifest.build_seconds > 0
    assert manifest.gflops == pytest.approx(2 * manifest.gmac, abs=2e-4)
    assert manifest.options["calib"] == str(calib_folder) and manifest.options["max_dice_drop"] == LOOSE
    calibration = json.loads((int8_engine / "calibration.json").read_text())
    assert (
        calibration["frames"] == 24
        and calibration["method"] == manifest.remarks["calib_method"]
        and len(calibration["frames_sha256"]) == 64
    )
    assert calibration["checkpoint_sha256"] == manifest.checkpoint_sha256


def test_what_parity_records(int8_engine: Path) -> None:
    parity = json.loads((int8_engine / "parity.json").read_text())
    assert parity["images"] == len(parity["per_image"]) == HELD_BACK
    assert parity["frames_from"] == "frames"
    rows = [row["agreement"] for row in parity["per_image"]]
    assert rows == sorted(rows) and parity["agreement"] == pytest.approx(np.mean(rows))
    assert {row["image"] for row in parity["per_image"]} <= {f"{i}.png" for i in range(40)}
    # random weights: something differs, and masks are not all empty
    assert 0.8 < parity["agreement"] < 1 and 0 < parity["max_probability_difference"] < 1


def test_an_int8_engine_is_a_quarter_and_near_fp32(int8_engine: Path, fp32_engine: Path, graph: Graph) -> None:
    assert (int8_engine / "model.onnx").stat().st_size < 0.4 * (fp32_engine / "model.onnx").stat().st_size
    frames = phantom_frames(graph.spec, 8, seed=11)
    with open_engine(int8_engine, 1) as int8, open_engine(fp32_engine, 1) as fp32, open_graph(graph, 1) as reference:
        expected = infer_all(reference, frames)
        names = [str(i) for i in range(8)]
        assert (expected["nodule"] > 127).mean() > 0.1
        assert agreement(infer_all(fp32, frames), expected, graph.spec, names)["agreement"] > 0.999
        assert agreement(infer_all(int8, frames), expected, graph.spec, names)["agreement"] > 0.85


def test_its_own_ranges_build_the_same_bytes(int8_engine: Path, tiny_graph: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = BuildOptions("int8", "onnxruntime", int8_engine / "calibration.json", max_dice_drop=LOOSE)
    build_engine(tiny_graph, tmp_path / "engine", options, say=said.append)
    assert (tmp_path / "engine/model.onnx").read_bytes() == (int8_engine / "model.onnx").read_bytes()
    assert (tmp_path / "engine/calibration.json").read_bytes() == (int8_engine / "calibration.json").read_bytes()
    assert any("phantoms" in line for line in said)  # it says so where no frames are at hand
    assert json.loads((tmp_path / "engine/parity.json").read_text())["frames_from"] == "phantoms"


def test_ranges_that_passed_on_real_frames_pass_without_frames(
    int8_engine: Path, tiny_graph: Path, tmp_path: Path
) -> None:
    ranges = int8_engine / "calibration.json"
    values = json.loads(ranges.read_text())
    assert values["phantoms"] == json.loads((int8_engine / "parity.json").read_text())["phantoms"] < 0.999
    build_engine(tiny_graph, tmp_path / "a", BuildOptions("int8", "onnxruntime", ranges, max_dice_drop=0.0005))
    (tmp_path / "c.json").write_text(json.dumps({**values, "phantoms": 1.0}))  # never judged on real frames
    options = BuildOptions("int8", "onnxruntime", tmp_path / "c.json", max_dice_drop=0.0005)
    with pytest.raises(VerdictNo, match=r"required 0\.9995"):
        build_engine(tiny_graph, tmp_path / "b", options)


def test_a_build_from_onnx_needs_no_torch(int8_engine: Path, tiny_graph: Path, tmp_path: Path) -> None:
    out = tmp_path / "engine"
    arguments = ("--precision", "int8", "--calib", int8_engine / "calibration.json", "--max-dice-drop", LOOSE)
    done = in_subprocess("build-engine", tiny_graph, "--out", out, *arguments, "--json", before=WITHOUT_TORCH)
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((out / "engine.json").read_text())


def test_a_checkpoint_without_torch_says_what_to_install(tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = in_subprocess("build-engine", tiny_checkpoint, "--out", tmp_path / "engine", before=WITHOUT_TORCH)
    assert "pip install 'ssmt-edge[train]'" in error_line(done)
    assert tree(tmp_path) == {}


def test_a_rebuild_replaces_an_engine(cli: Cli, int8_engine: Path, tiny_graph: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(int8_engine, tmp_path / "engine"))
    answer = cli("build-engine", tiny_graph, "--out", out)
    assert answer.code == 0, answer.err
    assert {p.name for p in out.iterdir()} == {"model.onnx", "parity.json", "engine.json"}
    assert read_manifest(out).precision == "fp32"
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


def test_anything_but_an_engine_is_left_alone(cli: Cli, tiny_graph: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one.jpg").write_bytes(b"mine")
    for out in (photos, photos / "one.jpg"):
        line = refused(cli, tmp_path, "build-engine", tiny_graph, "--out", out, code=2)
        assert "not an engine folder; give another --out" in line


def test_an_empty_folder_is_filled(tiny_graph: Path, tmp_path: Path) -> None:
    build_engine(tiny_graph, tmp_path, BuildOptions("fp32", "onnxruntime"))
    assert read_manifest(tmp_path).precision == "fp32"


def test_a_failing_gate_names_the_worst_and_leaves_the_old_engine(
    cli: Cli, fp32_engine: Path, tiny_graph: Path, calib_folder: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(fp32_engine, tmp_path / "engine"))
    options = ("--precision", "int8", "--calib", calib_folder, "--max-dice-drop", "0.0001")
    line = refused(cli, tmp_path, "build-engine", tiny_graph, "--out", out, *options, code=3)
    assert "required 0.9999" in line and "; worst: " in line and ".png (0." in line
    open_engine(out).close()


def test_the_gate_asks_for_dice_against_truth(
    tiny_graph: Path, phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = load_samples(phantom_set, "val")
    build_engine(tiny_graph, tmp_path / "engine", BuildOptions("fp32", "onnxruntime"), labelled)
    parity = json.loads((tmp_path / "engine/parity.json").read_text())["labelled"]
    assert parity["n"] == len(parity["per_image"]) == len(labelled)
    assert parity["dice"] == pytest.approx(parity["reference_dice"], abs=0.01)

    scores = iter([0.70, 0.72])  # of the engine, then of the reference

    def drop(engine: Any, samples: Any) -> dict[str, Any]:
        dice = next(scores)
        return {"dice": dice, "per_image": [{"image": s.name, "dice": dice} for s in samples]}

    monkeypatch.setattr(gate, "evaluate", drop)
    with pytest.raises(VerdictNo, match=r"against truth is 0\.7000, FP32 has 0\.7200.*worst: .*0\.700 from 0\.720"):
        build_engine(tiny_graph, tmp_path / "engine", BuildOptions("fp32", "onnxruntime"), labelled)
    assert [p.name for p in tmp_path.iterdir()] == ["engine"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--workspace-mib", 5), "TensorRT's options mean nothing to onnxruntime"),
        (("--batch", "1,1,64"), "TensorRT's options mean nothing to onnxruntime"),
        (("--batch", "4,2,1"), "batch (4, 2, 1), expected smallest, usual and largest"),
        (("--batch", "1,2"), "--batch '1,2', expected three numbers"),
        (("--tactic-sources", ""), "tactic source '', expected some of cublas"),
        (("--optimisation-level", 9), "optimisation level 9, expected 0 to 5"),
        (("--sensitivity",), "--sensitivity is about int8, not fp32"),
        (("--calib-method", "median"), "calibration method 'median', expected auto, minmax"),
        (("--calib", "c.json"), "fp32 needs no ranges, and c.json holds no frames"),
        (("--precision", "int8", "--sensitivity", "--calib", "c.json"), "--sensitivity measures on frames"),
        (("--triton", "engine"), "would lie in the engine"),
        (("--out", "a b", "--triton", "repository"), "'a b' cannot name a Triton model"),
    ],
)
def test_options_are_judged_before_any_work(
    cli: Cli, tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(building, "_load", lambda *_: pytest.fail("the work began"))
    common = ("build-engine", tiny_graph, "--out", "engine", "--backend", "onnxruntime")
    assert expected in refused(cli, tmp_path, *common, *options, code=2)


def test_ranges_of_phantoms_never_make_int8(tiny_graph: Path, graph: Graph, tmp_path: Path) -> None:
    frames = Samples(phantom_frames(graph.spec, 8), [str(i) for i in range(8)])
    replace(measure_ranges(graph, frames, "phantoms"), synthetic=True).save(tmp_path / "c.json")
    with pytest.raises(CalibrationError, match="was measured on phantoms; int8 needs ranges of real ultrasound"):
        build_engine(tiny_graph, tmp_path / "engine", BuildOptions("int8", "onnxruntime", tmp_path / "c.json"))


def test_the_gland_cannot_come_from_a_graph_without_one(tiny_graph: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no output gland; export it with --with-gland"):
        build_engine(tiny_graph, tmp_path / "engine", BuildOptions("fp32", "onnxruntime", with_gland=True))
    assert tree(tmp_path) == {}


# verify


def test_verify_compares_again(cli: Cli, int8_engine: Path, fp32_engine: Path, calib_folder: Path) -> None:
    before = tree(int8_engine)
    answer = cli("verify", int8_engine, "--calib", calib_folder, "--json")
    assert answer.code == 0, answer.err
    parity = json.loads(answer.out)
    assert parity["images"] == 40 and parity["agreement"] > 0.8
    assert "files unchanged, agreement with FP32 1.0000 on 16 frames" in cli("verify", fp32_engine).out
    assert tree(int8_engine) == before


def test_verify_says_no_where_masks_changed(int8_engine: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(int8_engine, tmp_path / "engine"))
    values = json.loads((out / "engine.json").read_text())
    recorded = json.loads((out / "parity.json").read_text())
    assert recorded["phantoms"] < 1  # what verify measures again, whatever frames the gate had
    verify_engine(out, None, None)
    # other weights under a digest that was brought in line: opening cannot tell, the masks can
    model = onnx.load(str(out / "model.onnx"))
    layer = max(model.graph.initializer, key=lambda t: t.ByteSize())
    layer.raw_data = bytes(len(layer.raw_data))
    onnx.save(model, str(out / "model.onnx"))
    values["files"]["model.onnx"] = sha256(out / "model.onnx")
    values["options"]["max_dice_drop"] = 0.01
    (out / "engine.json").write_text(json.dumps(values))
    with pytest.raises(VerdictNo, match=r"required 0\.\d+; worst: phantom"):
        verify_engine(out, None, None)
    values["options"]["max_dice_drop"] = "x"
    (out / "engine.json").write_text(json.dumps(values))
    with pytest.raises(EngineError, match="does not say how it was judged"):
        verify_engine(out, None, None)


def test_a_video_calibrates_too(cli: Cli, tiny_graph: Path, calib_folder: Path, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "cine.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 20, (64, 64))
    for i in range(40):
        writer.write(cv2.cvtColor(read_gray(calib_folder / f"{i}.png"), cv2.COLOR_GRAY2BGR))
    writer.release()
    options = ("--precision", "int8", "--calib", tmp_path / "cine.avi", "--max-dice-drop", LOOSE)
    answer = cli("build-engine", tiny_graph, "--out", tmp_path / "engine", *options)
    assert answer.code == 0, answer.err
    assert "calibrating on 24 frames, 16 held back" in answer.err
    parity = json.loads((tmp_path / "engine/parity.json").read_text())
    assert all(row["image"].startswith("cine.avi#") for row in parity["per_image"])
