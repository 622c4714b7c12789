from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssmt_edge.dataset import Sample, held_back, load_samples, load_unlabelled, read_gray, read_mask, summary
from ssmt_edge.errors import DataError


def draw(path: Path, value: int = 128, size: tuple[int, int] = (20, 30)) -> Path:
    """An even gray image of height and width `size`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full(size, value, np.uint8))
    return path


def tn3k(root: Path, count: int = 12, test: int = 2) -> Path:
    for part, n in (("trainval", count), ("test", test)):
        for i in range(n):
            draw(root / f"{part}-image" / f"{i}.jpg")
            draw(root / f"{part}-mask" / f"{i}.jpg", 255)
    return root


def test_tn3k_folds_count_positions_in_numerical_order(tmp_path: Path) -> None:
    tn3k(tmp_path)
    (tmp_path / "tn3k-trainval-fold0.json").write_text(json.dumps({"train": [0, 1], "val": [2, 10]}))
    samples = load_samples(tmp_path)
    assert [s.name for s in samples if s.split != "test"] == [str(i) for i in range(12)], "2 comes before 10"
    assert [s.name for s in load_samples(tmp_path, "val")] == ["2", "10"]
    assert len(load_samples(tmp_path, "train")) == 10 and len(load_samples(tmp_path, "test")) == 2
    # trainval and test share file names, and are different patients
    assert len({s.case for s in samples}) == 14


def test_tn3k_without_a_fold_file_holds_some_back(tmp_path: Path) -> None:
    tn3k(tmp_path, count=40)
    val = load_samples(tmp_path, "val")
    assert 1 <= len(val) <= 15 and val == load_samples(tmp_path, "val")
    assert not {s.image for s in val} & {s.image for s in load_samples(tmp_path, "train")}


def test_glands_are_optional_beside_nodules(tmp_path: Path) -> None:
    tn3k(tmp_path, count=3)
    draw(tmp_path / "trainval-gland" / "1.png", 255)
    assert [s.gland is not None for s in load_samples(tmp_path) if s.split != "test"] == [False, True, False]


@pytest.mark.parametrize("text", ["", "[]", '{"train": []}', '{"val": 3}', '{"val": ["a"]}', '{"val": [null]}'])
def test_a_broken_fold_file_is_named(text: str, tmp_path: Path) -> None:
    tn3k(tmp_path)
    (tmp_path / "tn3k-trainval-fold0.json").write_text(text)
    with pytest.raises(DataError, match=r"fold0\.json is not a fold file"):
        load_samples(tmp_path)


def test_a_fold_file_for_more_images_than_there_are(tmp_path: Path) -> None:
    tn3k(tmp_path)
    (tmp_path / "tn3k-trainval-fold0.json").write_text('{"train": [0], "val": [3, 12]}')
    with pytest.raises(DataError, match=r"position 12, but .*trainval-image holds 12 images"):
        load_samples(tmp_path)


def test_tg3k_masks_are_glands(tmp_path: Path) -> None:
    for i in range(4):
        draw(tmp_path / "thyroid-image" / f"{i:04d}.jpg")
        draw(tmp_path / "thyroid-mask" / f"{i:04d}.jpg", 255)
    (tmp_path / "tg3k-trainval.json").write_text('{"train": [0, 1, 2], "val": [3]}')
    samples = load_samples(tmp_path)
    assert all(s.nodule is None and s.gland is not None for s in samples)
    assert [s.split for s in samples] == ["train", "train", "train", "val"]


def ddti(root: Path, cases: str) -> Path:
    for i in (1, 2, 3):
        draw(root / "image" / f"{i}.png")
        draw(root / "mask" / f"{i}.png", 255)
    (root / "cases.csv").write_text(cases, encoding="utf-8")
    return root


def test_ddti_takes_cases_and_splits_from_the_table(tmp_path: Path) -> None:
    samples = load_samples(ddti(tmp_path, "image,case,split\n1,a,train\n2,a,train\n3,b,val\n"))
    assert [(s.case, s.split) for s in samples] == [("a", "train"), ("a", "train"), ("b", "val")]


def test_images_of_one_case_stay_on_one_side(tmp_path: Path) -> None:
    samples = load_samples(ddti(tmp_path, "image,case,split\n1,a,\n2,a,\n3,a,\n"))
    assert len({s.split for s in samples}) == 1
    assert samples[0].split == held_back("a")


def test_a_table_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    samples = load_samples(ddti(tmp_path, "\ufeffimage,case,split\r\n1,a,val\r\n2,a,val\r\n3,b,train\r\n"))
    assert [s.split for s in samples] == ["val", "val", "train"]


@pytest.mark.parametrize(
    ("table", "words"),
    [("image,case\n1,a\n", "lacks a column"), ("image,case,split\n1,a,Training\n", "split 'Training'")],
)
def test_a_wrong_table_is_named(table: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cases.csv .*{words}"):
        load_samples(ddti(tmp_path, table))


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (ddti(tmp_path, "") / "cases.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match=r"cases\.csv is not a CSV file"):
        load_samples(tmp_path)


def test_held_back_is_a_fixed_share() -> None:
    splits = [held_back(f"case {i}") for i in range(2000)]
    assert splits == [held_back(f"case {i}") for i in range(2000)]
    assert 0.10 < splits.count("val") / 2000 < 0.15


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    tn3k(tmp_path)
    (tmp_path / "trainval-mask" / "7.jpg").unlink()
    with pytest.raises(DataError, match=r"trainval-image/7\.jpg has no nodule mask"):
        load_samples(tmp_path)


def test_no_folder_of_masks_at_all(tmp_path: Path) -> None:
    draw(tmp_path / "image" / "1.png")
    with pytest.raises(DataError, match=r"1\.png has no nodule mask in .*mask"):
        load_samples(tmp_path)


def test_folders_that_are_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        load_samples(tmp_path / "absent")
    with pytest.raises(DataError, match="holds no data set"):
        load_samples(tmp_path)
    (tmp_path / "image").mkdir()
    with pytest.raises(DataError, match="no images at all"):
        load_samples(tmp_path)


def test_a_split_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in split 'test'; it has train, val"):
        load_samples(ddti(tmp_path, "image,case,split\n1,a,train\n2,a,train\n3,b,val\n"), "test")


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    mask = draw(tmp_path / "mask.png", 255, size=(20, 31))
    with pytest.raises(DataError, match=r"mask\.png is 31 x 20, but its image is 30 x 20"):
        read_mask(mask, (20, 30))


def test_jpeg_masks_are_cut_at_half(tmp_path: Path) -> None:
    assert read_mask(draw(tmp_path / "over.png", 128), (20, 30)).all()
    assert not read_mask(draw(tmp_path / "under.png", 127), (20, 30)).any()


def test_files_that_are_no_images(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    huge = draw(tmp_path / "huge.png")  # a header that promises 4 294 836 225 pixels
    content = huge.read_bytes()
    huge.write_bytes(content[:16] + b"\x00\x00\xff\xff\x00\x00\xff\xff" + content[24:])
    for path in (text, empty, huge, tmp_path, tmp_path / "absent.png"):
        with pytest.raises(DataError, match="is not a readable image"):
            read_gray(path)


def test_empty_masks_are_legal_and_counted(tmp_path: Path) -> None:
    ddti(tmp_path, "image,case,split\n1,a,train\n2,a,train\n3,b,val\n")
    draw(tmp_path / "mask" / "2.png", 0)
    assert summary(load_samples(tmp_path)) == {
        "images": 3,
        "cases": 2,
        "nodule_masks": 3,
        "empty_nodule_masks": 1,
        "gland_masks": 0,
    }


def test_unlabelled_images_are_all_but_masks(tmp_path: Path) -> None:
    tn3k(tmp_path / "tn3k", count=2, test=0)
    draw(tmp_path / "clips" / "deep" / "a.PNG")
    draw(tmp_path / "clips" / "._a.png")  # what macOS leaves on foreign disks
    (tmp_path / "clips" / "notes.txt").touch()
    samples = load_unlabelled([tmp_path / "tn3k", tmp_path / "clips"])
    assert [s.image.name for s in samples] == ["0.jpg", "1.jpg", "a.PNG"]
    assert samples == load_unlabelled([tmp_path / "tn3k", tmp_path / "clips"])
    assert all(s.nodule is None and s.gland is None for s in samples)


def test_unlabelled_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        load_unlabelled([tmp_path])
    with pytest.raises(DataError, match="is not a folder"):
        load_unlabelled([tmp_path / "absent"])


def test_names_in_digits_of_other_scripts(tmp_path: Path) -> None:
    for name in ("²", "x", "10", "9"):
        draw(tmp_path / "image" / f"{name}.png")
        draw(tmp_path / "mask" / f"{name}.png")
    assert [s.name for s in load_samples(tmp_path)] == ["9", "10", "x", "²"]


def test_real_sets_are_read(shared_data: Path) -> None:
    ddti_samples = load_samples(shared_data / "ddti")
    train, val = ({s.case for s in ddti_samples if s.split == split} for split in ("train", "val"))
    assert len(ddti_samples) == 504 and not train & val
    sample: Sample = load_samples(shared_data / "tn3k-sample")[0]
    assert sample.nodule and read_mask(sample.nodule, read_gray(sample.image).shape).any()
    assert summary(load_samples(shared_data / "busi"))["empty_nodule_masks"] > 0, "normal breasts"
