"""Training items: reproducible draws, masks that stay with their image, plain tensors."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from ssmt_edge.dataset import Sample, load_samples, read_gray  # noqa: E402
from ssmt_edge.errors import DataError  # noqa: E402
from ssmt_edge.geometry import input_roi, to_input  # noqa: E402
from ssmt_edge.spec import ModelSpec  # noqa: E402
from trainer.data import Frames  # noqa: E402
from trainer.sampler import EpochSampler, HeldSampler  # noqa: E402

SPEC = ModelSpec("ssmt-lite", 64, gray_mean=0.0, gray_scale=1.0, outputs=("nodule",))
UNCROPPED = ModelSpec("ssmt-lite", 64, gray_mean=0.0, gray_scale=1.0, outputs=("nodule",), crop="none")


@pytest.fixture(scope="module")
def samples(phantom_set: Path) -> list[Sample]:
    return load_samples(phantom_set, "train")[:8]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


def test_an_item_has_the_stated_tensors(samples: list[Sample]) -> None:
    for frames in (Frames(samples, SPEC), Frames(samples, SPEC, seed=1)):
        item = frames[3]
        for key in ("image", "nodule", "gland"):
            assert type(item[key]) is Tensor  # MONAI's MetaTensor slows every operation after it
            assert item[key].shape == (1, 64, 64)
            assert item[key].dtype == torch.float32
        assert 0 <= item["image"].min() <= item["image"].max() <= 255
        assert item["size"] == item["nodule"].mean()
        assert item["index"] == 3


def test_without_augmentation_an_item_is_the_input_of_an_engine(samples: list[Sample]) -> None:
    frames = Frames(samples, SPEC)
    for i, sample in enumerate(samples):
        gray = read_gray(sample.image)
        assert np.array_equal(frames[i]["image"][0].numpy(), to_input(gray, input_roi([gray], SPEC), SPEC))
    assert same(frames[5, 2], Frames(samples, SPEC)[2])


def test_an_item_depends_on_seed_epoch_and_index_alone(samples: list[Sample]) -> None:
    forwards, backwards = Frames(samples, SPEC, seed=3), Frames(samples, SPEC, seed=3)
    ahead = [forwards[i] for i in range(8)]
    back = [backwards[i] for i in reversed(range(8))][::-1]
    assert all(same(a, b) for a, b in zip(ahead, back, strict=True))
    assert not any(torch.equal(forwards[1, i]["image"], ahead[i]["image"]) for i in range(8))
    assert same(forwards[0, 5], ahead[5])
    assert not torch.equal(Frames(samples, SPEC, seed=4)[5]["image"], ahead[5]["image"])
    twins = Frames([samples[0], samples[0]], SPEC, seed=3)
    assert not torch.equal(twins[0]["image"], twins[1]["image"])


def test_batches_do_not_depend_on_the_number_of_workers(samples: list[Sample]) -> None:
    frames = Frames(samples, SPEC, seed=0)

    def epochs(workers: int) -> list[dict[str, Tensor]]:
        sampler = EpochSampler(samples, 0, 4)
        loader = DataLoader(frames, batch_size=4, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)
        batches = []
        for epoch in (4, 5):  # workers that live on must hear of the new epoch
            sampler.set_epoch(epoch)
            batches += list(loader)
        return batches

    alone, helped = epochs(0), epochs(2)
    assert len(alone) == len(helped) == 4
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert not torch.equal(alone[0]["index"], alone[2]["index"])


def test_sampler_is_a_permutation_of_seed_and_epoch(samples: list[Sample]) -> None:
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1):
            sampler = EpochSampler(samples, seed, 4)
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert list(sampler) == orders[seed, epoch]
            assert sorted(orders[seed, epoch]) == [(epoch, i) for i in range(8)]
    assert len({tuple(index for _, index in order) for order in orders.values()}) == 4


def test_every_batch_has_the_labels_of_every_task(samples: list[Sample]) -> None:
    a = samples[0]
    nodules, glands = [Sample(a.image, a.nodule)] * 70, [Sample(a.image, None, a.gland)] * 9
    mixed = [*nodules, *glands, *[a] * 5, Sample(a.image)]
    for epoch in range(5):
        sampler = EpochSampler(mixed, 3, 16)
        sampler.set_epoch(epoch)
        order = [index for _, index in sampler]
        assert len(order) == len(set(order)) == 80  # 5 batches; the rest, fewer than a batch, is left out
        for start in range(0, 80, 16):
            kinds = [(mixed[i].nodule is not None, mixed[i].gland is not None) for i in order[start : start + 16]]
            assert 12 <= kinds.count((True, False)) <= 15
            assert 1 <= kinds.count((False, True)) <= 3
            assert 0 <= kinds.count((True, True)) <= 2


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch(samples: list[Sample], processes: int) -> None:
    mixed = samples * 3
    whole = list(EpochSampler(mixed, 0, 8))
    parts = [list(EpochSampler(mixed, 0, 8, process, processes)) for process in range(processes)]
    assert [len(part) for part in parts] == [24 // processes] * processes
    for batch in range(3):
        share = slice(8 // processes * batch, 8 // processes * (batch + 1))
        assert sorted(key for part in parts for key in part[share]) == sorted(whole[8 * batch : 8 * batch + 8])
    held = [list(HeldSampler(7, process, processes)) for process in range(processes)]
    assert len({len(part) for part in held}) == 1
    assert sorted(i for part in held for i in part if i is not None) == list(range(7))


def test_padding_has_no_labels(samples: list[Sample]) -> None:
    blank = Frames(samples, SPEC, seed=0)[None]
    assert not blank["image"].any() and not blank["has_nodule"] and not blank["has_gland"]
    assert blank.keys() == Frames(samples, SPEC)[0].keys()


def test_masks_stay_binary_and_with_their_image(tmp_path: Path) -> None:
    ellipse = np.zeros((64, 64), np.uint8)
    cv2.ellipse(ellipse, (26, 36), (16, 9), 25, 0, 360, 255, -1)
    cv2.imwrite(str(tmp_path / "both.png"), ellipse)
    same_file = Sample(tmp_path / "both.png", tmp_path / "both.png", tmp_path / "both.png")
    still = Frames([same_file], UNCROPPED)[0]["nodule"][0] > 0
    frames = Frames([same_file], UNCROPPED, seed=0)
    agreement, moved = [], []
    for epoch in range(40):
        item = frames[epoch, 0]
        assert set(item["nodule"].unique().tolist()) <= {0.0, 1.0}
        assert torch.equal(item["nodule"], item["gland"])
        mask, bright = item["nodule"][0] > 0, item["image"][0] > 100
        agreement.append(_iou(mask, bright))
        moved.append(_iou(mask, still))
    # what lies between is the mask's edge, which is sharp where the image's is smooth
    assert min(agreement) > 0.75 and np.mean(agreement) > 0.9
    assert np.mean(moved) < 0.75


def _iou(a: Tensor, b: Tensor) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_shifts_follow_the_input_size(tmp_path: Path) -> None:
    white = np.full((64, 64), 255, np.uint8)
    cv2.imwrite(str(tmp_path / "white.png"), white)
    sample = Sample(tmp_path / "white.png", tmp_path / "white.png")
    kept = []
    for size in (32, 224):
        frames = Frames([sample], ModelSpec("x", size, 0.0, 1.0, ("nodule",), crop="none"), seed=0)
        kept.append(np.mean([float(frames[epoch, 0]["size"]) for epoch in range(20)]))
    assert kept[0] == pytest.approx(kept[1], abs=0.03)


def test_labels_that_exist_are_marked(samples: list[Sample]) -> None:
    a, b = samples[:2]
    mixed = [Sample(a.image, a.nodule), Sample(b.image, None, b.gland), Sample(a.image)]
    for seed in (None, 0):
        items = [Frames(mixed, SPEC, seed)[i] for i in range(3)]
        assert [(float(i["has_nodule"]), float(i["has_gland"])) for i in items] == [(1, 0), (0, 1), (0, 0)]
        assert not items[1]["nodule"].any() and not items[0]["gland"].any()


def test_gray_statistics(samples: list[Sample]) -> None:
    frames = Frames(samples, SPEC, seed=0)  # of the images themselves, whatever the augmentation
    plain = Frames(samples, SPEC)
    values = np.stack([plain[i]["image"].numpy() for i in range(8)]).astype(np.float64)
    assert frames.gray_statistics() == pytest.approx((values.mean(), values.std()))


def test_unusable_files_are_one_line(tmp_path: Path, samples: list[Sample]) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png is not a readable image"):
        Frames([Sample(tmp_path / "text.png")], SPEC)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"small\.png is 8 x 8, but its image is 128 x 96"):
        Frames([Sample(samples[0].image, tmp_path / "small.png")], SPEC)
