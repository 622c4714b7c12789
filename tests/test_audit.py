"""Each fault that `ssmt-edge data check` looks for, planted alone in a copy of a clean set."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import Cli, error_line, refused

from ssmt_edge.audit import audit, decode
from ssmt_edge.dataset import load_samples, read_gray
from ssmt_edge.errors import DataError
from ssmt_edge.phantom import phantom

Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 phantoms as image/ and mask/ of six cases, two images each: 8 train, 4 val."""
    root = tmp_path_factory.mktemp("audit") / "clean"
    rows = []
    for i in range(12):
        frame = phantom(np.random.default_rng([21, i]), (96, 128))
        for kind, pixels in (("image", frame.image), ("mask", frame.nodule.astype(np.uint8) * 255)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / kind / f"{i}.png"), pixels)
        rows.append({"image": i, "case": f"c{i // 2}", "split": "val" if i >= 8 else "train"})
    _write(root, rows)
    return root


def _write(root: Path, rows: list[dict[str, object]]) -> None:
    with (root / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "case", "split"])
        writer.writeheader()
        writer.writerows(rows)


def case_on_both_sides(root: Path) -> None:
    with (root / "cases.csv").open(newline="") as file:
        rows: list[dict[str, object]] = [dict(row) for row in csv.DictReader(file)]
    rows[9]["case"] = "c0"
    _write(root, rows)


def same_pixels_across_splits(root: Path) -> None:
    shutil.copy(root / "image" / "1.png", root / "image" / "9.png")


def brighter_copy_across_splits(root: Path) -> None:
    """Another size, gray scale and compression: no byte of it is the same."""
    image = cv2.resize(read_gray(root / "image" / "1.png"), (160, 120), interpolation=cv2.INTER_CUBIC)
    image = np.clip(image * 1.15 + 6, 0, 255).astype(np.uint8)
    (root / "image" / "9.png").unlink()
    assert cv2.imwrite(str(root / "image" / "9.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert cv2.imwrite(str(root / "mask" / "9.png"), np.zeros((120, 160), np.uint8))


def odd_sized_mask(root: Path) -> None:
    assert cv2.imwrite(str(root / "mask" / "3.png"), np.zeros((96, 129), np.uint8))


def text_for_an_image(root: Path) -> None:
    (root / "image" / "4.png").write_text("not an image")


def image_cut_off(root: Path) -> None:
    content = (root / "image" / "5.png").read_bytes()
    (root / "image" / "5.png").write_bytes(content[: len(content) * 2 // 3])


def jpeg_cut_off(root: Path) -> None:
    encoded = cv2.imencode(".jpg", read_gray(root / "image" / "5.png"))[1].tobytes()
    (root / "image" / "5.png").unlink()
    (root / "image" / "5.jpg").write_bytes(encoded[: len(encoded) // 2])


def empty_mask_file(root: Path) -> None:
    (root / "mask" / "6.png").write_bytes(b"")


def no_mask(root: Path) -> None:
    (root / "mask" / "7.png").unlink()


def no_image(root: Path) -> None:
    shutil.copy(root / "mask" / "7.png", root / "mask" / "70.png")


def dim_mask(root: Path) -> None:
    mask = read_gray(root / "mask" / "2.png")
    assert cv2.imwrite(str(root / "mask" / "2.png"), mask // 255 * 80)


def duplicate_within_train(root: Path) -> None:
    shutil.copy(root / "image" / "1.png", root / "image" / "2.png")


def duplicate_within_case(root: Path) -> None:
    shutil.copy(root / "image" / "0.png", root / "image" / "1.png")


PLANTED: list[tuple[Plant, str, set[str], int]] = [
    (case_on_both_sides, "case on both sides", {"0.png", "1.png", "9.png"}, 3),
    (same_pixels_across_splits, "duplicates across splits", {"1.png", "9.png"}, 3),
    (brighter_copy_across_splits, "duplicates across splits", {"1.png", "9.jpg"}, 3),
    (odd_sized_mask, "mask of another size", {"3.png"}, 3),
    (text_for_an_image, "unreadable", {"4.png"}, 3),
    (image_cut_off, "unreadable", {"5.png"}, 3),
    (jpeg_cut_off, "unreadable", {"5.jpg"}, 3),
    (empty_mask_file, "unreadable", {"6.png"}, 3),
    (no_mask, "image without mask", {"7.png"}, 3),
    (no_image, "mask without image", {"70.png"}, 0),
    (dim_mask, "mask values", {"2.png"}, 0),
    (duplicate_within_train, "duplicates", {"1.png", "2.png"}, 0),
    (duplicate_within_case, "near-identical views of one case", {"0.png", "1.png"}, 0),
]


@pytest.mark.parametrize(("plant", "kind", "files", "code"), PLANTED, ids=[p.__name__ for p, *_ in PLANTED])
def test_a_planted_fault_is_found_alone(
    plant: Plant, kind: str, files: set[str], code: int, clean: Path, tmp_path: Path, cli: Cli
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(clean, root)
    plant(root)
    answer = cli("data", "check", root, "--json")
    result = json.loads(answer.out)
    assert [(f["kind"], {Path(name).name for name in f["files"]}) for f in result["findings"]] == [(kind, files)]
    assert answer.code == code and result["ok"] == (code == 0)
    assert result["leakage"] == (kind in ("case on both sides", "duplicates across splits"))
    if code:
        assert kind in error_line(answer, 3)


def test_all_faults_at_once_are_all_found(clean: Path, tmp_path: Path, cli: Cli) -> None:
    root, out = tmp_path / "copy", tmp_path / "report" / "audit.json"
    shutil.copytree(clean, root)
    for plant in (case_on_both_sides, same_pixels_across_splits, odd_sized_mask, text_for_an_image, image_cut_off):
        plant(root)
    answer = cli("data", "check", root, "--out", out)
    assert "duplicates across splits: 1" in error_line(answer, 3)
    result = json.loads(out.read_text())
    kinds = [f["kind"] for f in result["findings"]]
    assert sorted(kinds) == [
        "case on both sides",
        "duplicates across splits",
        "mask of another size",
        "unreadable",
        "unreadable",
    ]
    for name in ("copy/image/4.png", "copy/image/5.png", "copy/mask/3.png", "copy/image/9.png"):
        assert name in answer.out


def test_a_clean_set_passes(clean: Path, phantom_set: Path, cli: Cli) -> None:
    answer = cli("data", "check", clean, phantom_set)
    assert answer.code == 0 and "no findings" in answer.out and answer.err == ""
    first, second = audit([clean, phantom_set])["sets"]
    assert first["splits"] == {"train": 8, "val": 4} and first["cases"] == 6
    assert first["sizes"] == {"128x96": 12} and first["mask_values"] == {"0 and 255": 12}
    assert second["layout"] == "tn3k" and second["splits"] == {"train": 14, "val": 2, "test": 4}
    assert second["gland_masks"] == 20


def test_an_image_in_two_data_sets(clean: Path, tmp_path: Path) -> None:
    """Training frames again among the unlabelled ones are legal, validation frames are not."""
    (tmp_path / "pool").mkdir()
    shutil.copy(clean / "image" / "0.png", tmp_path / "pool" / "a.png")
    result = audit([clean, tmp_path / "pool"])
    assert result["ok"] and [f["kind"] for f in result["findings"]] == ["duplicates across data sets"]
    shutil.copy(clean / "image" / "11.png", tmp_path / "pool" / "b.png")
    result = audit([clean, tmp_path / "pool"])
    assert not result["ok"] and result["leakage"] == 1
    assert result["findings"][0]["what"].endswith("in unlabelled and val of clean and pool, 2 cases")


def test_even_frames_are_not_alike(tmp_path: Path) -> None:
    """Black frames of clips have no thumbnail to compare; only the same pixels count."""
    for i, value in enumerate((0, 40, 90, 90)):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 64), value, np.uint8))
    (finding,) = audit([tmp_path])["findings"]
    assert [Path(f).name for f in finding["files"]] == ["2.png", "3.png"] and "the same pixels" in finding["what"]


def test_masks_of_0_and_1_are_understood_and_named(clean: Path, tmp_path: Path) -> None:
    shutil.copytree(clean, tmp_path / "copy")
    mask = read_gray(tmp_path / "copy" / "mask" / "2.png")
    assert cv2.imwrite(str(tmp_path / "copy" / "mask" / "2.png"), mask // 255)
    result = audit([tmp_path / "copy"])
    assert result["ok"] and result["sets"][0]["mask_values"] == {"0 and 255": 11, "0 and 1": 1}


def test_what_cannot_be_checked_is_refused(tmp_path: Path, cli: Cli) -> None:
    assert "is not a folder" in refused(cli, tmp_path, "data", "check", tmp_path / "absent")
    assert "holds no images" in refused(cli, tmp_path, "data", "check", tmp_path)
    (tmp_path / "image").mkdir()
    assert "no images at all" in refused(cli, tmp_path, "data", "check", tmp_path)


def test_sixteen_bits_read_as_opencv_reads_them(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    path = tmp_path / "deep.png"
    assert cv2.imwrite(str(path), values)
    assert np.abs(decode(path).astype(int) - read_gray(path)).max() <= 1
    with pytest.raises(DataError, match="not a complete image"):
        decode(tmp_path)


def test_real_sets(shared_data: Path) -> None:
    """DDTI is split by case; BUSI's duplicates are known (A. Pawlowska et al., Data in Brief 48, 2023)."""
    result = audit([shared_data / "ddti", shared_data / "tn3k-sample"])
    assert result["ok"] and {f["kind"] for f in result["findings"]} == {"near-identical views of one case"}
    result = audit([shared_data / "busi"])
    groups = [{Path(f).stem for f in finding["files"]} for finding in result["findings"]]
    assert {"benign-333", "malignant-077"} in groups, "one lesion in two classes"
    assert result["leakage"] > 0 and len(load_samples(shared_data / "busi")) == 563
