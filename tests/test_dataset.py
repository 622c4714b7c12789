from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssmt_edge.dataset import (
    Sample,
    held_back,
    in_fold,
    load_folded,
    load_samples,
    load_unlabelled,
    read_gray,
    read_mask,
    summary,
)
from ssmt_edge.errors import DataError, UsageError


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


def test_tn3k_brings_its_own_folds(tmp_path: Path) -> None:
    tn3k(tmp_path)
    for fold, val in enumerate(([2, 10], [0, 1], [3])):
        (tmp_path / f"tn3k-trainval-fold{fold}.json").write_text(json.dumps({"train": [], "val": val}))
    assert [s.name for s in load_samples(tmp_path, "val")] == ["2", "10"], "fold 0 unless another is asked for"
    assert [s.name for s in load_samples(tmp_path, "val", fold=1)] == ["0", "1"]
    folded = load_folded(tmp_path, 2, 3)
    assert [s.name for s in folded if s.split == "val"] == ["3"]
    assert [s.split for s in folded].count("test") == 2
    with pytest.raises(DataError, match=r"no fold file tn3k-trainval-fold7\.json; it has folds: 0, 1, 2"):
        load_samples(tmp_path, fold=7)
    for fold, folds in ((0, 5), (3, 3)):
        with pytest.raises(UsageError, match="its own folds 0, 1, 2"):
            load_folded(tmp_path, fold, folds)


def test_folds_are_dealt_by_case_where_a_set_has_none(tmp_path: Path) -> None:
    tn3k(tmp_path)
    (tmp_path / "tn3k-trainval-fold0.json").write_text('{"train": [], "val": [3]}')  # a plain split, as of phantoms
    assert load_folded(tmp_path, 1, 4) == in_fold(load_samples(tmp_path), 1, 4)
    held = [{s.case for s in load_folded(tmp_path, k, 4) if s.split == "val"} for k in range(4)]
    assert sorted(map(len, held)) == [3, 3, 3, 3] and len(set.union(*held)) == 12


def test_busi_as_published(tmp_path: Path) -> None:
    """Several masks an image, their union counts; no mask file is taken for an image."""
    for name, count in (("benign", 2), ("malignant", 1), ("normal", 1)):
        for i in range(1, count + 1):
            draw(tmp_path / name / f"{name} ({i}).png")
            draw(tmp_path / name / f"{name} ({i})_mask.png", 0)
    for i, column in enumerate((3, 20)):
        mask = np.zeros((20, 30), np.uint8)
        mask[:, column] = 255
        assert cv2.imwrite(str(tmp_path / "benign" / f"benign (2)_mask{'_1' * i}.png"), mask)
    samples = load_samples(tmp_path)
    assert [s.name for s in samples] == ["benign (1)", "benign (2)", "malignant (1)", "normal (1)"]
    assert samples[1].nodule is not None
    assert np.flatnonzero(read_mask(samples[1].nodule, (20, 30)).any(axis=0)).tolist() == [3, 20]
    assert summary(samples)["empty_nodule_masks"] == 3
    assert [s.name for s in load_unlabelled([tmp_path])] == [s.name for s in samples]
    (tmp_path / "cases.csv").write_text("image,case,split\nbenign (1),x,val\nnormal (1),x,val\n")
    assert [s.case for s in load_samples(tmp_path, "val")].count("x") == 2
    (tmp_path / "normal" / "normal (1)_mask.png").unlink()
    with pytest.raises(DataError, match=r"normal \(1\)\.png has no normal \(1\)_mask\.png beside it"):
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


def test_ddti_as_published_is_sent_to_the_converter(tmp_path: Path) -> None:
    draw(tmp_path / "1.jpg")
    (tmp_path / "1.xml").write_text("<case/>")
    with pytest.raises(DataError, match="ssmt-edge data convert"):
        load_samples(tmp_path)


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


def test_masks_of_0_and_1_count_where_nothing_can_blur_them(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:5, 4:9] = 1
    assert cv2.imwrite(str(tmp_path / "exact.png"), mask)
    assert (read_mask(tmp_path / "exact.png", (20, 30)) == (mask == 1)).all()
    noise = draw(tmp_path / "noise.jpg", 1)
    assert read_gray(noise).max() == 1 and not read_mask(noise, (20, 30)).any()


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
