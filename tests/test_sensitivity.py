"""Calibration methods, layer-by-layer sensitivity, and the search that rescues a network which INT8 ruins."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Cli

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

from engines import read_manifest, sensitivity  # noqa: E402
from engines.calibrate import HELD_BACK, Samples, add_clipped, collect, measure_ranges, split  # noqa: E402
from engines.graph import Graph, load_graph, save_graph  # noqa: E402
from engines.precision.integer import (  # noqa: E402
    quantisable,
    quantise_for_cpu,
    quantise_for_tensorrt,
    quantised_tensors,
)
from engines.ranges import METHODS, Calibration, load_calibration  # noqa: E402
from engines.sensitivity import Measured, Trial, choose_method, keep_few, rank  # noqa: E402
from ssmt_edge.errors import CalibrationError, VerdictNo  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssmt-edge" / "sensitivity"


@pytest.fixture(scope="module")
def graph(tiny_graph: Path) -> Graph:
    return load_graph(tiny_graph)


@pytest.fixture(scope="module")
def samples(graph: Graph, calib_folder: Path) -> Samples:
    return collect(calib_folder, graph.spec)


@pytest.fixture(scope="module")
def calibration(graph: Graph, samples: Samples) -> Calibration:
    measured = measure_ranges(graph, samples, "phantoms")
    return add_clipped(measured, graph, samples, quantised_tensors(graph.model))


def trial_of(graph: Graph, samples: Samples, count: int, say: Any = print) -> Trial:
    few = Samples(samples.frames[:count], samples.names[:count])
    return Trial(graph, few, partial(quantise_for_cpu, instruction_set="vnni"), "vnni", say)


def ruined(graph: Graph) -> tuple[Graph, list[str]]:
    """The same function with one channel after each of two convolutions a thousand times larger, and the layers there.

    A channel of a convolution is scaled up and the next convolution's weights for it down: exact in FP32, as a ReLU
    lies between. One 8-bit range for all channels leaves nothing of the others: what outliers do to trained networks.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    constants = {t.name: t for t in model.graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    touched: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Conv" or len(touched) >= 4 or node.name in touched:
            continue
        (after,) = users[node.output[0]] if len(users[node.output[0]]) == 1 else (None,)
        followers = users.get(after.output[0], []) if after is not None and after.op_type == "Relu" else []
        if len(followers) != 1 or followers[0].op_type != "Conv" or followers[0].name not in quantisable(graph.model):
            continue
        for name, place, factor in (
            (node.input[1], (0,), 1e3), (node.input[2], (0,), 1e3), (followers[0].input[1], (slice(None), 0), 1e-3)
        ):  # fmt: skip
            values = numpy_helper.to_array(constants[name]).copy()
            values[place] *= factor
            constants[name].CopyFrom(numpy_helper.from_array(values, name))
        touched += [node.name, followers[0].name]
    assert len(touched) == 4
    return replace(graph, model=model), touched


# methods


def test_percentile_and_entropy_clip_what_minmax_holds(calibration: Calibration, graph: Graph) -> None:
    assert calibration.methods() == list(METHODS)
    narrower = dict.fromkeys(METHODS, 0)
    for name in calibration.clipped["entropy"]:
        low, high = calibration.ranges[name]
        for method in ("percentile", "entropy"):
            clipped_low, clipped_high = calibration.clipped[method][name]
            assert low - 1e-5 <= clipped_low <= clipped_high <= high + 1e-5, (method, name)
            narrower[method] += (clipped_high - clipped_low) < 0.98 * (high - low)
    assert narrower["entropy"] > 10 and narrower["percentile"] > 3
    assert set(calibration.clipped["entropy"]) == set(quantised_tensors(graph.model)) & set(calibration.ranges)


def test_a_percentile_is_that_of_the_values(graph: Graph, samples: Samples, calibration: Calibration) -> None:
    from engines.onnxruntime_cpu import open_graph

    name = next(n.output[0] for n in graph.model.graph.node if n.op_type == "Conv")
    with open_graph(graph, tensors=[name]) as engine:
        values = np.concatenate([engine.infer(frame[None])[name].ravel() for frame in samples.frames])
    low, high = np.percentile(values, 0.0005, method="lower"), np.percentile(values, 99.9995, method="higher")
    width = float(2 * np.abs(values).max() / 2048)  # a bin
    assert calibration.clipped["percentile"][name] == pytest.approx((low, high), abs=2.1 * width)


def test_values_beyond_the_measured_extremes_do_no_harm(
    graph: Graph, samples: Samples, calibration: Calibration
) -> None:
    narrower = {name: (0.99 * low, 0.99 * high) for name, (low, high) in calibration.ranges.items()}
    bare = replace(calibration, ranges=narrower, clipped={})
    few = Samples(samples.frames[:8], samples.names[:8])
    name = quantised_tensors(graph.model)[0]
    low, high = add_clipped(bare, graph, few, [name]).clipped["percentile"][name]
    assert calibration.ranges[name][0] <= low < high <= calibration.ranges[name][1]


def test_ranges_by_every_method_return_from_their_file(calibration: Calibration, tmp_path: Path) -> None:
    chosen = replace(calibration.by("entropy"), kept=("a", "b"))
    chosen.save(tmp_path / "c.json")
    again = load_calibration(tmp_path / "c.json", calibration.checkpoint_sha256)
    assert again == chosen and again.chosen() != again.by("minmax").chosen()
    with pytest.raises(CalibrationError, match="holds ranges by minmax, not by entropy"):
        replace(calibration, clipped={}).by("entropy")
    values = json.loads((tmp_path / "c.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps({**values, "method": "median"}))
    with pytest.raises(CalibrationError, match="method 'median'"):
        load_calibration(tmp_path / "c.json", calibration.checkpoint_sha256)


def test_the_method_that_agrees_best_is_chosen(
    graph: Graph, samples: Samples, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(graph, samples, 4)
    scores = {name: trial.measure(calibration.by(name)).agreement for name in METHODS}
    chosen, told = choose_method(trial, calibration, lambda line: None)
    assert scores[chosen.method] == pytest.approx(max(scores.values()), abs=1e-4)
    assert told == {name: round(score, 4) for name, score in scores.items()}
    # where masks agree alike, the smaller logit error decides
    errors = {"minmax": 0.3, "percentile": 0.1, "entropy": 0.2}
    monkeypatch.setattr(trial, "measure", lambda c: Measured(0.99, 0.0, errors[c.method]))
    assert choose_method(trial, calibration, lambda line: None)[0].method == "percentile"


def test_what_is_measured_is_the_target_s_own_graph(graph: Graph, samples: Samples, calibration: Calibration) -> None:
    few = Samples(samples.frames[:4], samples.names[:4])
    cpu = trial_of(graph, samples, 4).measure(calibration)
    gpu = Trial(graph, few, quantise_for_tensorrt, "tensorrt").measure(calibration)
    assert cpu != gpu and 0.8 < gpu.agreement < 1  # random weights
    assert 0 < cpu.standard_error < 0.1 and not cpu.reaches(cpu.agreement) and cpu.reaches(cpu.agreement - 0.1)


def test_frames_have_one_use_each_where_there_are_enough() -> None:
    frames = np.arange(160, dtype=np.uint8)[:, None, None, None]
    parts = split(Samples(frames, [str(i) for i in range(160)]))
    assert parts.held is not None
    uses = [set(part.names) for part in (parts.used, parts.trial, parts.held)]
    assert [len(use) for use in uses] == [112, 32, 16] and len(set.union(*uses)) == 160
    few = split(Samples(frames[:40], [str(i) for i in range(40)]))
    assert few.held is not None and len(few.held) == HELD_BACK and set(few.trial.names) <= set(few.used.names)
    assert split(Samples(frames[:20], [str(i) for i in range(20)])).held is None


# layers


def test_a_ranking_names_the_layers_that_hurt_and_goes_on_where_it_stopped(
    graph: Graph, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, touched = ruined(graph)
    calibration = measure_ranges(bad, samples, "phantoms")
    layers = quantisable(bad.model)
    runs: list[tuple[str, ...]] = []
    run = Trial._run

    def interrupted(trial: Trial, calibration: Calibration) -> Measured:
        runs.append(calibration.kept)
        if len(runs) == 6:
            raise KeyboardInterrupt
        return run(trial, calibration)

    monkeypatch.setattr(Trial, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rank(trial_of(bad, samples, 4), calibration, print, lambda *_: None)
    ranking = rank(trial_of(bad, samples, 4), calibration, print, lambda *_: None)
    assert len(runs) == len(layers) + 1  # the one that was interrupted comes twice
    assert sorted(row.layer for row in ranking) == sorted(layers)
    errors = [row.logit_error for row in ranking]
    assert errors == sorted(errors, reverse=True)
    assert {row.layer for row in ranking[:4]} & set(touched)
    # other ranges, other frames and another target are other questions
    wider = replace(calibration, ranges={name: (2 * a, 2 * b) for name, (a, b) in calibration.ranges.items()})
    trial_of(bad, samples, 4).measure(calibration)
    before = len(runs)
    trial_of(bad, samples, 4).measure(calibration)
    assert len(runs) == before
    trial_of(bad, samples, 4).measure(wider)
    trial_of(bad, samples, 5).measure(calibration)
    few = Samples(samples.frames[:4], samples.names[:4])
    Trial(bad, few, quantise_for_tensorrt, "tensorrt").measure(calibration)
    assert len(runs) == before + 3


def test_a_damaged_or_unwritable_memory_stops_nothing(
    graph: Graph, samples: Samples, calibration: Calibration, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trial_of(graph, samples, 2).measure(calibration)
    (path,) = cache.iterdir()
    path.write_text('{"x": [1]}')
    assert trial_of(graph, samples, 2).measure(calibration) == first
    cache.parent.parent.joinpath("file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent / "file"))
    said: list[str] = []
    trial = trial_of(graph, samples, 2, said.append)
    assert trial.measure(calibration) == first
    trial.measure(replace(calibration, kept=tuple(quantisable(graph.model)[:1])))
    assert len(said) == 1 and "cannot be written" in said[0]


def test_the_search_keeps_few_layers(
    graph: Graph, samples: Samples, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = trial_of(graph, samples, 2)
    layers = quantisable(graph.model)
    needed = {layers[3], layers[20]}  # ranked first and sixth, with others between that do no harm
    order = [layers[3], *layers[5:9], layers[20], *(n for n in layers if n not in layers[5:9] and n not in needed)]
    ranking = [sensitivity.Row(name, "Conv", 1.0 - i / 100, 0.9) for i, name in enumerate(order)]

    def search() -> tuple[str, ...]:
        return keep_few(trial, calibration, ranking, 0.99, lambda line: None, lambda *_: None).kept

    monkeypatch.setattr(trial, "measure", lambda c: Measured(1.0 if needed <= set(c.kept) else 0.9, 0.0, 0.0))
    assert set(search()) == needed
    monkeypatch.setattr(trial, "measure", lambda c: Measured(0.995, 0.004, 0.0))
    assert search() == ()
    monkeypatch.setattr(trial, "measure", lambda c: Measured(0.995, 0.006, 0.0))  # not above by a standard error
    with pytest.raises(VerdictNo, match=rf"no choice of layers .*{order[-1]} alone"):
        search()


def test_kept_layers_of_another_graph_are_refused(graph: Graph, calibration: Calibration) -> None:
    with pytest.raises(
        CalibrationError, match="keeps the layer 'nonsense' out of INT8, which this graph does not have"
    ):
        quantise_for_cpu(graph, replace(calibration, kept=("nonsense",)), "vnni")


def test_the_gate_refuses_a_network_that_int8_ruins_and_the_search_rescues_it(
    cli: Cli, graph: Graph, calib_folder: Path, tmp_path: Path
) -> None:
    bad, touched = ruined(graph)
    save_graph(bad, tmp_path / "ruined.onnx")
    common = ("build-engine", tmp_path / "ruined.onnx", "--out", tmp_path / "engine", "--precision", "int8")
    options = ("--backend", "onnxruntime", "--calib", calib_folder, "--max-dice-drop", 0.06, "--calib-method", "minmax")
    refused = cli(*common, *options)
    assert refused.code == 3 and refused.err.count("error:") == 1
    assert "worst: " in refused.err and ".png (0." in refused.err and "--sensitivity" in refused.err
    assert not (tmp_path / "engine").exists()

    rescued = cli(*common, *options, "--sensitivity")
    assert rescued.code == 0, rescued.err
    manifest = read_manifest(tmp_path / "engine")
    kept = manifest.remarks["kept"]
    assert 1 <= len(kept) <= 4 and set(kept) & set(touched)
    table = manifest.remarks["sensitivity"]
    assert len(table) == len(quantisable(bad.model)) and set(table[0]) == {"layer", "op", "logit_error", "agreement"}
    quantised = onnx.load(str(tmp_path / "engine" / "model.onnx"))
    made = {name: node.op_type for node in quantised.graph.node for name in node.output}
    floats = {
        n.name for n in quantised.graph.node if n.op_type == "Conv" and made.get(n.input[1]) != "DequantizeLinear"
    }
    assert set(kept) <= floats
    # the list travels with the ranges
    again = cli(
        *common[:3],
        tmp_path / "again",
        *common[4:],
        "--calib",
        tmp_path / "engine" / "calibration.json",
        "--max-dice-drop",
        0.2,
    )
    assert again.code == 0, again.err
    assert read_manifest(tmp_path / "again").remarks["kept"] == kept
