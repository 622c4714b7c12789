"""Input that cannot be used: one `error:` line, the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from commands import Cli, error_line, in_subprocess, refused, tree
from pydicom.examples import get_path

from engines.tensorrt_gpu import missing

pytest.importorskip("onnx")


@pytest.fixture
def photos(calib_folder: Path, tmp_path: Path) -> Path:
    """12 images."""
    out = tmp_path / "photos"
    out.mkdir()
    for i in range(12):
        shutil.copy(calib_folder / f"{i}.png", out)
    return out


@pytest.fixture
def broken(int8_engine: Path, tmp_path: Path) -> Path:
    """A copy of an engine, to be broken."""
    return Path(shutil.copytree(int8_engine, tmp_path / "broken"))


@pytest.fixture
def dataset(phantom_set: Path, tmp_path: Path) -> Path:
    """A copy of a data set, to be broken."""
    return Path(shutil.copytree(phantom_set, tmp_path / "set"))


def no_video(folder: Path) -> Path:
    path = folder / "cine.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def no_pixels(folder: Path) -> Path:
    path = folder / "cine.dcm"
    dicom = pydicom.dcmread(get_path("ybr_color"))
    del dicom.PixelData
    dicom.save_as(path)
    return path


def a_report(folder: Path) -> Path:
    """A DICOM file that was never an image."""
    path = folder / "report.dcm"
    dicom = pydicom.dcmread(get_path("ybr_color"))
    for keyword in ("PixelData", "Rows", "Columns", "NumberOfFrames"):
        delattr(dicom, keyword)
    dicom.save_as(path)
    return path


# build-engine: what int8 is calibrated on


def test_int8_without_calib_is_wrong_usage(cli: Cli, tiny_graph: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "engine", "--precision", "int8")
    assert "int8 needs --calib" in refused(cli, tmp_path, "build-engine", tiny_graph, *options, code=2)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def three_images(folder: Path) -> Path:
    for path in sorted((folder / "photos").iterdir())[3:]:
        path.unlink()
    return folder / "photos"


def three_distinct(folder: Path) -> Path:
    paths = sorted((folder / "photos").iterdir())
    for i, path in enumerate(paths[3:]):
        shutil.copy(paths[i % 3], path)
    return folder / "photos"


def text_as_png(folder: Path) -> Path:
    (folder / "photos/5.png").write_text("Dear radiologist,\n")
    return folder / "photos"


def nothing(folder: Path) -> Path:
    return folder / "nothing"


def no_ranges(folder: Path) -> Path:
    (folder / "ranges.json").write_text('{"version": 1}')
    return folder / "ranges.json"


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (nothing, "nothing does not exist; --calib needs a folder, video or DICOM file"),
        (empty, "empty holds no images"),
        (three_images, "photos holds 3 distinct frames; calibration needs at least 8"),
        (three_distinct, "photos holds 3 distinct frames; calibration needs at least 8"),
        (text_as_png, "5.png is not a readable image; remove or replace it"),
        (no_video, "cine.mp4"),
        (no_pixels, "cine.dcm has no pixel data"),
        (a_report, "report.dcm has no pixel data"),
        (no_ranges, "ranges.json is not a calibration file"),
    ],
)
def test_calibration_that_cannot_be_used(
    cli: Cli, tiny_graph: Path, photos: Path, tmp_path: Path, prepare: Callable[[Path], Path], expected: str
) -> None:
    options = ("--out", tmp_path / "engine", "--precision", "int8", "--calib", prepare(tmp_path))
    assert expected in refused(cli, tmp_path, "build-engine", tiny_graph, *options)


def test_ranges_of_another_checkpoint(cli: Cli, tiny_graph: Path, int8_engine: Path, tmp_path: Path) -> None:
    values = json.loads((int8_engine / "calibration.json").read_text())
    (tmp_path / "ranges.json").write_text(json.dumps({**values, "checkpoint_sha256": "f" * 64}))
    options = ("--out", tmp_path / "engine", "--precision", "int8", "--calib", tmp_path / "ranges.json")
    line = refused(cli, tmp_path, "build-engine", tiny_graph, *options)
    assert "was made for the checkpoint ffffffffffff, this graph comes from" in line


# build-engine: everything else


@pytest.mark.parametrize(
    ("options", "expected", "code"),
    [
        (["--precision", "fp16", "--backend", "onnxruntime"], "fp16 engines are for GPUs", 2),
        (["--precision", "int4"], "--precision 'int4', expected fp32, fp16 or int8", 2),
        (
            ["--backend", "openvina"],
            "unknown backend 'openvina'; expected one of auto, onnxruntime, openvino, onnxruntime-cuda, tensorrt",
            2,
        ),
        (["--with-gland"], "has no output gland", 2),
    ],
)
def test_options_that_make_no_sense(
    cli: Cli, tiny_graph: Path, tmp_path: Path, options: list[str], expected: str, code: int
) -> None:
    line = refused(cli, tmp_path, "build-engine", tiny_graph, "--out", tmp_path / "engine", *options, code=code)
    assert expected in line


def test_an_unknown_split(cli: Cli, tiny_graph: Path, fp32_engine: Path, phantom_set: Path, tmp_path: Path) -> None:
    wrong = ("--data", phantom_set, "--split", "trian")
    for verb in (("build-engine", tiny_graph, "--out", tmp_path / "e"), ("evaluate", fp32_engine)):
        assert "split 'trian', expected one of train, val" in refused(cli, tmp_path, *verb, *wrong, code=2)


@pytest.mark.skipif(not missing(), reason="TensorRT and a GPU are here")
def test_tensorrt_says_what_is_missing(cli: Cli, tiny_graph: Path, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "engine", "--backend", "tensorrt", "--precision", "fp16")
    line = refused(cli, tmp_path, "build-engine", tiny_graph, *options)
    assert line.startswith("error: TensorRT needs ") and "use --backend onnxruntime" in line


def test_a_checkpoint_that_is_a_random_file(cli: Cli, tiny_checkpoint: Path, phantom_set: Path, tmp_path: Path) -> None:
    random = tmp_path / "random.safetensors"
    random.write_bytes(np.random.default_rng(0).bytes(10_000))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(tiny_checkpoint.read_bytes()[:-100])
    for path in (random, cut, tmp_path / "missing.safetensors"):
        for verb in (
            ("export", path, "--out", tmp_path / "a.onnx"),
            ("build-engine", path, "--out", tmp_path / "engine"),
            ("evaluate", path, "--data", phantom_set, "--out", tmp_path / "scores.json"),
        ):
            line = refused(cli, tmp_path, *verb)
            assert path.name in line and ("is not a checkpoint" in line or "does not exist" in line)
    (tmp_path / "random.pt").write_bytes(random.read_bytes())
    line = refused(cli, tmp_path, "build-engine", tmp_path / "random.pt", "--out", tmp_path / "engine")
    assert "random.pt is not a whole ONNX file" in line


# engines that cannot be opened


def flip(engine: Path) -> None:
    content = bytearray((engine / "model.onnx").read_bytes())
    content[len(content) // 3] ^= 0x10
    (engine / "model.onnx").write_bytes(content)


def truncate(engine: Path) -> None:
    (engine / "model.onnx").write_bytes((engine / "model.onnx").read_bytes()[:-1])


def of_the_future(engine: Path) -> None:
    values = json.loads((engine / "engine.json").read_text())
    (engine / "engine.json").write_text(json.dumps({**values, "version": 99}))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (shutil.rmtree, "does not exist; expected an engine folder"),
        (truncate, "model.onnx is not the file that was built"),
        (flip, "model.onnx is not the file that was built"),
        (of_the_future, "manifest version 99, expected 1; rebuild it: ssmt-edge build-engine"),
    ],
)
def test_engines_that_cannot_be_opened(
    cli: Cli, broken: Path, photos: Path, phantom_set: Path, tmp_path: Path, harm: Callable[[Path], None], expected: str
) -> None:
    harm(broken)
    for verb in (
        ("run", broken, photos, "--sink", tmp_path / "records.jsonl", "--sink", tmp_path / "overlay.mp4"),
        ("evaluate", broken, "--data", phantom_set, "--out", tmp_path / "scores.json"),
        ("verify", broken),
    ):
        assert expected in refused(cli, tmp_path, *verb), verb[0]
    assert expected in error_line(cli("bench", broken, "--out", tmp_path / "bench"))
    assert not list((tmp_path / "bench").glob("*"))


# sources that cannot be read


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (no_video, "cine.mp4"),
        (no_pixels, "cine.dcm has no pixel data"),
        (a_report, "report.dcm has no pixel data"),
        (nothing, "nothing does not exist"),
        (empty, "empty holds no images"),
    ],
)
def test_sources_that_cannot_be_read(
    cli: Cli, fp32_engine: Path, tmp_path: Path, prepare: Callable[[Path], Path], expected: str
) -> None:
    source = prepare(tmp_path)
    sinks = ("--sink", tmp_path / "r.jsonl", "--sink", tmp_path / "o.mp4", "--sink", f"{tmp_path}/masks/")
    assert expected in refused(cli, tmp_path, "run", fp32_engine, source, *sinks)
    assert expected in error_line(cli("bench", fp32_engine, "--source", source, "--out", tmp_path / "bench"))
    assert not list((tmp_path / "bench").glob("*"))


# data sets


def without_a_mask(data: Path) -> None:
    sorted((data / "trainval-mask").iterdir())[3].unlink()


def other_size(data: Path) -> None:
    for path in (data / "trainval-mask").iterdir():
        cv2.imwrite(str(path), np.zeros((50, 60), np.uint8))


def text_for_an_image(data: Path) -> None:
    for path in (data / "trainval-image").iterdir():
        path.write_text("not an image")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (without_a_mask, "has no nodule mask in"),
        (other_size, "is 60 x 50, but its image is 128 x 96"),
        (text_for_an_image, "is not a readable image"),
    ],
)
def test_data_sets_that_cannot_be_used(
    cli: Cli,
    fp32_engine: Path,
    tiny_graph: Path,
    dataset: Path,
    tmp_path: Path,
    harm: Callable[[Path], None],
    expected: str,
) -> None:
    harm(dataset)
    for verb in (
        ("evaluate", fp32_engine, "--data", dataset, "--out", tmp_path / "scores.json"),
        ("build-engine", tiny_graph, "--data", dataset, "--out", tmp_path / "engine"),
        ("train", "--data", dataset, "--model", "ssmt-lite", "--input-size", 64, "--out", tmp_path / "run"),
    ):
        assert expected in refused(cli, tmp_path, *verb), verb[0]


def all_zero(data: Path) -> None:
    for path in (data / "trainval-mask").iterdir():
        cv2.imwrite(str(path), np.zeros((96, 128), np.uint8))


def test_masks_that_are_all_zero_are_legal(cli: Cli, fp32_engine: Path, dataset: Path, tmp_path: Path) -> None:
    all_zero(dataset)
    answer = cli("evaluate", fp32_engine, "--data", dataset, "--split", "train", "--json")
    assert answer.code == 0, answer.err
    scores = json.loads(answer.out)
    assert scores["n"] == 14 and all(row["area_fraction"] == 0 for row in scores["per_image"])


@pytest.mark.slow
def test_training_counts_masks_that_are_all_zero(cli: Cli, dataset: Path, tmp_path: Path) -> None:
    all_zero(dataset)
    options = ("--model", "ssmt-net-tiny", "--input-size", 64, "--phase", "supervised", "--epochs", 1)
    answer = cli("train", "--data", dataset, *options, "--workers", 0, "--out", tmp_path / "run", "--json")
    assert answer.code == 0, answer.err
    assert (tmp_path / "run/model.safetensors").is_file()
    assert '"empty_nodule_masks": 14' in (tmp_path / "run/result.json").read_text()


# places that cannot be written to


@pytest.mark.parametrize("place", ["a file in the way", "/proc"])
def test_outputs_that_cannot_be_written(
    cli: Cli, fp32_engine: Path, tiny_graph: Path, photos: Path, phantom_set: Path, tmp_path: Path, place: str
) -> None:
    # permissions do not bind the superuser, under whom tests may run
    blocked = Path("/proc/nowhere")
    if place != "/proc":
        blocked = tmp_path / "file"
        blocked.write_text("mine")
    for verb in (
        ("build-engine", tiny_graph, "--out", blocked / "engine"),
        ("evaluate", fp32_engine, "--data", phantom_set, "--out", blocked / "scores.json"),
        ("run", fp32_engine, photos, "--sink", blocked / "r.jsonl"),
        ("run", fp32_engine, photos, "--sink", blocked / "o.mp4"),
        ("run", fp32_engine, photos, "--sink", f"{blocked}/masks/"),
        ("data", "phantom", "--count", 2, "--out", blocked / "set"),
        ("bench", fp32_engine, "--frames", 10, "--out", blocked / "bench"),
        ("train", "--data", phantom_set, "--model", "ssmt-lite", "--input-size", 64, "--out", blocked / "run"),
    ):
        assert str(blocked) in refused(cli, tmp_path, *verb), verb


# the same from a shell


def test_from_a_shell(tiny_graph: Path, fp32_engine: Path, photos: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    out = tmp_path / "engine"
    assert "int8 needs --calib" in error_line(
        in_subprocess("build-engine", tiny_graph, "--out", out, "--precision", "int8"), code=2
    )
    gate = ("--precision", "int8", "--calib", photos, "--max-dice-drop", "0")
    assert "required 1.0000" in error_line(in_subprocess("build-engine", tiny_graph, "--out", out, *gate), code=3)
    missing_engine = in_subprocess("run", tmp_path / "none", photos, "--sink", tmp_path / "r.jsonl")
    assert "does not exist" in error_line(missing_engine)
    assert tree(tmp_path) == before
