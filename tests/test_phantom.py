from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssmt_edge.bmode import PROBES, Tissue, bmode, envelope
from ssmt_edge.cli import main
from ssmt_edge.dataset import load_samples, read_gray, read_mask, summary
from ssmt_edge.errors import SinkError, UsageError
from ssmt_edge.geometry import scan_area
from ssmt_edge.phantom import Phantom, phantom, write_set


def frame(index: int, size: tuple[int, int] = (256, 256)) -> Phantom:
    return phantom(np.random.default_rng([11, index]), size)


@pytest.fixture(scope="module")
def frames() -> list[Phantom]:
    return [frame(i, (192, 192)) for i in range(48)]


def test_shapes_types_and_masks(frames: list[Phantom]) -> None:
    for p in frames:
        assert p.image.shape == p.nodule.shape == p.gland.shape == (192, 192)
        assert p.image.dtype == np.uint8 and p.nodule.dtype == p.gland.dtype == np.bool_
        assert 0.03 < p.gland.mean() < 0.7
        assert not (p.nodule & ~p.gland).any(), "a nodule lies in the gland"


def test_the_generator_alone_decides() -> None:
    first, again, other = frame(3), frame(3), frame(4)
    assert (first.image == again.image).all() and (first.nodule == again.nodule).all()
    assert not (first.image == other.image).all()


def test_nodules_vary_and_some_frames_have_none(frames: list[Phantom]) -> None:
    areas = np.array([p.nodule.mean() for p in frames])
    assert 1 <= (areas == 0).sum() <= 8
    seen = areas[areas > 0]
    assert seen.min() < 0.03 and seen.max() > 0.12
    assert any(cv2.connectedComponents(p.nodule.astype(np.uint8))[0] == 3 for p in frames), "two nodules in a frame"


def test_most_nodules_can_be_told_from_the_gland_around(frames: list[Phantom]) -> None:
    """By the mean of the nodule or, for isoechoic ones, of the rim that holds the halo."""
    visible = []
    for p in frames:
        around = p.gland & ~p.nodule
        if not p.nodule.any() or around.sum() < 500:
            continue
        rim = p.nodule & (cv2.erode(p.nodule.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0)
        gland = p.image[around].mean()
        visible.append(max(abs(p.image[p.nodule].mean() - gland), abs(p.image[rim].mean() - gland)) > 12)
    assert np.mean(visible) > 0.85


def test_speckle_is_fully_developed() -> None:
    """The envelope of many scatterers a cell is Rayleigh distributed, wider across the beam than along the pulse."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        tissue = Tissue(rng, (256, 256))
        values = envelope(rng.standard_normal((256, 256, 2), np.float32), tissue)
        assert values.mean() / values.std() == pytest.approx(1.913, abs=0.12)
        assert (values**2).mean() == pytest.approx(2.0, rel=0.15), "power is kept"
        deviation = values - values.mean()
        across = (deviation[:, 2:] * deviation[:, :-2]).mean()
        along = (deviation[2:] * deviation[:-2]).mean()
        assert across > 1.2 * along


def test_what_lies_behind_a_cyst_is_brighter_and_behind_the_trachea_darker() -> None:
    def gray_behind(loss: float) -> float:
        tissue = Tissue(np.random.default_rng(5), (256, 256))
        tissue.loss[80:120, 100:156] = loss
        return float(bmode(tissue)[130:180, 115:140].mean())

    assert gray_behind(-0.6) > gray_behind(0.0) + 8
    assert gray_behind(1.6) < gray_behind(0.0) - 25


def test_the_scan_area_of_a_phantom_holds_its_nodules(frames: list[Phantom]) -> None:
    kept = [p.nodule[scan_area([p.image]).slices].sum() / p.nodule.sum() for p in frames if p.nodule.any()]
    assert np.mean(np.array(kept) > 0.99) > 0.97


def test_the_default_probe_makes_the_frames_of_before() -> None:
    """Figures of version 0.1.0; a choice drawn once more or in another order gives another anatomy altogether."""
    made = [phantom(np.random.default_rng([5, i]), (96, 128)) for i in range(3)]
    assert [int(p.nodule.sum()) for p in made] == pytest.approx([818, 439, 268], abs=3)
    assert [int(p.gland.sum()) for p in made] == pytest.approx([1763, 1176, 2402], abs=3)
    assert [float(p.image.mean()) for p in made] == pytest.approx([31.632, 50.687, 52.699], abs=0.05)


def test_grains_go_with_the_wavelength() -> None:
    """Half-width of the speckle's correlation in mm, against that at 12 MHz."""

    def width(name: str, axis: int) -> float:
        widths = []
        for seed in range(8):
            tissue = Tissue(np.random.default_rng(seed), (256, 256), PROBES[name])
            values = envelope(tissue.rng.standard_normal((256, 256, 2), np.float32), tissue)
            deviation = np.moveaxis(values - values.mean(), axis, 0)
            fall = [(deviation[:244] * deviation[k : 244 + k]).mean() / deviation.var() for k in range(12)]
            widths.append(np.interp(-0.5, -np.array(fall), np.arange(12)) * tissue.mm)
        return float(np.mean(widths))

    for name in ("linear-7MHz", "convex-5MHz"):
        for axis in (0, 1):
            assert width(name, axis) / width("linear-12MHz", axis) == pytest.approx(PROBES[name].coarseness, rel=0.2)


def test_a_convex_probe_shows_a_fan() -> None:
    for i in range(6):
        p = phantom(np.random.default_rng([3, i]), (192, 192), PROBES["convex-5MHz"])
        assert not p.image[:8, :8].any() and not p.image[:8, -8:].any() and not p.image[-1, 0], "outside of the fan"
        assert p.image[10:150, 90:100].any(axis=1).mean() > 0.8, "the fan itself, but for shadows"
        assert not (p.nodule & ~p.gland).any() and p.gland.any()


@pytest.mark.parametrize("size", [(64, 64), (64, 512), (512, 64), (200, 301)])
def test_any_size_within_bounds(size: tuple[int, int]) -> None:
    for index in range(4):
        assert frame(index, size).image.shape == size


@pytest.mark.parametrize("size", [(63, 256), (256, 1025), (0, 0), (-5, 256)])
def test_sizes_out_of_bounds(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="64 to 1024"):
        frame(0, size)


def test_a_set_reads_back_as_tn3k(phantom_set: Path) -> None:
    samples = load_samples(phantom_set)
    assert [s.split for s in samples].count("train") == 14
    assert [i for i, s in enumerate(samples) if s.split == "val"] == [7, 15]
    assert len(load_samples(phantom_set, "test")) == 4
    p = phantom(np.random.default_rng([7, 0, 5]), (96, 128))
    sixth = samples[5]
    assert sixth.nodule and sixth.gland
    assert (read_gray(sixth.image) == p.image).all()
    assert (read_mask(sixth.nodule, p.image.shape) == p.nodule).all()
    assert (read_mask(sixth.gland, p.image.shape) == p.gland).all()
    readme = (phantom_set / "README.txt").read_text()
    assert "ynthetic" in readme and "seed 7" in readme


def test_a_longer_set_begins_with_the_shorter_one(phantom_set: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "set", 3, 1, size=(96, 128), seed=7)
    for name in ("trainval-image/0002.png", "trainval-mask/0002.png", "test-image/0000.png"):
        assert (tmp_path / "set" / name).read_bytes() == (phantom_set / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"count": 1}, "count 1"),
        ({"count": 10_000}, "count 10000"),
        ({"test_count": -1}, "test count -1"),
        ({"size": (32, 32)}, "32 x 32"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_impossible_sets_write_nothing(change: dict[str, object], match: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=match):
        write_set(**{"out": tmp_path / "set", "count": 2, **change})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(SinkError, match=r"not empty"):
        write_set(tmp_path, 2)
    with pytest.raises(SinkError, match=r"precious\.txt is a file"):
        write_set(tmp_path / "precious.txt", 2)
    with pytest.raises(SinkError, match=r"cannot write the phantom set to .*precious\.txt/set"):
        write_set(tmp_path / "precious.txt" / "set", 2)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_an_interrupted_set_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 5
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_set(tmp_path / "set", 4, 1, size=(64, 64), progress=stop)
    assert not list(tmp_path.iterdir())


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["ssmt-edge", "data", "phantom", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_command_writes_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "set"
    assert run(monkeypatch, "--out", str(out), "--count", "9", "--test-count", "2", "--size", "80x64", "--json") == 0
    printed = capsys.readouterr()
    assert printed.err == "", "no progress bar unless on a terminal"
    result = json.loads(printed.out)
    assert result["splits"] == {"train": 8, "val": 1, "test": 2}
    assert result["images"] == 11 and result["gland_masks"] == 11 and result["probe"] == "linear-12MHz"
    samples = load_samples(out)
    assert read_gray(samples[0].image).shape == (64, 80), "width x height on the command line"
    assert result["empty_nodule_masks"] == summary(samples)["empty_nodule_masks"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--count", "0"], 2, "count 0"),
        (["--size", "big"], 2, "'big'"),
        (["--size", "8"], 2, "8 x 8"),
        (["--probe", "linear-9MHz"], 2, "linear-12MHz, linear-7MHz, convex-5MHz"),
        (["--out", "taken"], 1, "taken is not empty"),
        (["--out", "."], 1, "not empty"),
        (["--out", "/proc/set"], 1, "/proc/set"),
    ],
)
def test_command_names_errors_in_one_line(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert run(monkeypatch, "--out", "set", *arguments) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert words in printed.err
    assert [p.name for p in tmp_path.rglob("*")] == ["taken", "file"]


def test_importing_the_command_loads_no_array_library() -> None:
    code = "import sys, ssmt_edge.cli.data; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"numpy", "cv2", "torch", "rich.progress"} & set(modules)
