"""Samples from volumes: crops are true windows, pairs overlap, masks lie on their images, all by (seed, epoch, index)."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.core.intensity import TOP
from datamodules.core.loader import EpochBatches
from datamodules.core.starts import tissue_weight
from datamodules.core.volumes import Cache, Content, Crops, LabelledCrops, Loaded, WholeVolumes, grow
from ssl_med.spec import Need, SslMedError

SHAPE = (14, 12, 10)
CASES = [SimpleNamespace(name=f"case{i}", images=(f"case{i}.nii",)) for i in range(3)]


def numbered(shape=SHAPE, channels=1):
    """Codes that tell where a voxel comes from."""
    one = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    return np.stack([one + 10000 * c for c in range(channels)])


def where(image, shape=SHAPE):
    """Start of the crop (C, *S) of `numbered`, after checking that it is a whole window."""
    codes = np.rint(image.numpy().astype(float) * TOP).astype(int)
    start = np.array(np.unravel_index(codes[0].min(), shape))
    box = tuple(slice(s, s + w) for s, w in zip(start, codes.shape[1:], strict=True))
    np.testing.assert_array_equal(codes, numbered(shape, len(codes))[:, *box])
    return start


def crops(**settings):
    values = {"patch": (4, 5, 3), "per_case": 6, "seed": 0, "need": Need(), **settings}
    return Crops(CASES, lambda case: Loaded(numbered(channels=2)), **values)


# ---------------------------------------------------------------------------------------------- crops


def test_crops_are_windows_of_their_scan_in_all_channels():
    dataset = crops()
    assert len(dataset) == 18
    starts = []
    for epoch in range(4):
        for index in range(18):
            sample = dataset[epoch, index]
            assert set(sample) == {"id", "index", "image"}
            assert sample["id"] == f"case{index // 6}"
            assert sample["index"] == index
            assert sample["image"].shape == (2, 4, 5, 3)
            assert sample["image"].dtype == torch.float32
            starts.append(tuple(where(sample["image"]).tolist()))
    assert len(set(starts)) > 60, "each sample of each epoch is another crop"
    reached = np.array(starts)
    assert reached.min(0).tolist() == [0, 0, 0]
    assert reached.max(0).tolist() == [10, 7, 7]
    np.testing.assert_array_equal(dataset.owners(0), np.repeat([0, 1, 2], 6))


def test_a_sample_depends_on_seed_epoch_and_index_only():
    one, other = crops(), crops()
    list(map(one.__getitem__, [(0, i) for i in range(18)]))  # what was asked before changes nothing
    for key in ((0, 5), (3, 5), (0, 17)):
        assert torch.equal(one[key]["image"], other[key]["image"])
    assert not torch.equal(one[0, 5]["image"], one[1, 5]["image"])
    assert not torch.equal(one[0, 5]["image"], crops(seed=1)[0, 5]["image"])


def test_validation_crops_are_the_same_in_every_epoch_and_for_every_seed():
    one, other = crops(fixed=True), crops(fixed=True, seed=9)
    for index in range(18):
        assert torch.equal(one[0, index]["image"], one[5, index]["image"])
        assert torch.equal(one[0, index]["image"], other[0, index]["image"])
    assert len({tuple(where(one[0, i]["image"]).tolist()) for i in range(18)}) > 10
    assert not any(torch.equal(one[0, i]["image"], crops()[0, i]["image"]) for i in range(6))


def test_margin_is_left_out():
    dataset = crops(margin=(3, 2, 100))
    starts = np.array([where(dataset[e, i]["image"]) for e in range(8) for i in range(18)])
    assert starts.min(0).tolist() == [3, 2, 3]
    assert starts.max(0).tolist() == [14 - 3 - 4, 12 - 2 - 5, 10 - 3 - 3]


def test_content_filter_decides_which_crops_are_taken():
    codes = np.zeros((1, 20, 16, 12), np.uint16)
    codes[0, 8:, 6:, :] = 500
    content = Content(500, 0.2, 0.7, "change something")
    dataset = Crops(
        CASES[:1], lambda case: Loaded(codes), patch=(5, 5, 5), per_case=200, seed=0, need=Need(), content=content
    )
    weight = tissue_weight(codes[0], 500) / 2
    means = set()
    for index in range(200):
        image = dataset[0, index]["image"]
        share = float((image * TOP >= 499.5).float().mean())
        assert 0.2 <= share <= 0.7
        means.add(round(share, 3))
    assert len(means) > 5
    assert weight.max() == 1
    dataset = Crops(
        CASES[:1], lambda case: Loaded(codes), patch=(5, 5, 5), per_case=1, seed=0, need=Need(),
        content=Content(501, 0.2, 0.7, "change something"),
    )  # fmt: skip
    with pytest.raises(SslMedError, match=r"case0.nii: no crop of 5x5x5 voxels passes the filter; change something"):
        dataset[0, 0]


# ---------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("min_iou", [0.2, 0.6])
def test_pairs_overlap(min_iou):
    size = np.array([6, 6, 6])
    dataset = crops(patch=tuple(size), need=Need(pair=True, min_iou=min_iou), per_case=40)
    different = 0
    for index in range(120):
        sample = dataset[0, index]
        first, second = where(sample["image"]), where(sample["image2"])
        shared = np.prod(np.clip(size - np.abs(first - second), 0, None))
        assert shared / (2 * 216 - shared) > min_iou
        different += (first != second).any()
    assert different > 60


def test_pairs_of_several_sizes_are_resampled_to_one():
    """A ramp along x: its slope in a crop of patch size says how large the crop was."""
    ramp = np.broadcast_to((np.arange(48) * 1000)[:, None, None], (48, 40, 40)).astype(np.uint16)
    scales = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (1.5, 1.5, 1.25), (9.0, 1.0, 1.0))
    dataset = Crops(
        CASES[:1], lambda case: Loaded(ramp[None]), patch=(16, 16, 16), per_case=150, seed=0,
        need=Need(pair=True, pair_scales=scales),
    )  # fmt: skip
    assert dataset.sizes == [(8, 8, 8), (16, 16, 16), (24, 24, 20), (144, 16, 16)]
    found = []
    for index in range(150):
        sample = dataset[0, index]
        slopes = []
        for name in ("image", "image2"):
            assert sample[name].shape == (1, 16, 16, 16)
            assert sample[name].is_contiguous()
            line = sample[name][0, :, 8, 8] * TOP / 1000
            slopes.append(round(float(line[9] - line[6]) / 3, 2))
        assert slopes[0] == slopes[1], "both crops of a pair have one size"
        found.append(slopes[0])
    shares = {slope: found.count(slope) / 150 for slope in set(found)}
    assert set(shares) == {0.5, 1.0, 1.5}, "the size that does not fit is never taken"
    assert all(abs(share - 1 / 3) < 0.12 for share in shares.values())


def test_a_scan_smaller_than_all_sizes_gives_its_patch():
    dataset = crops(patch=(14, 12, 10), need=Need(pair=True, pair_scales=((2.0, 2.0, 2.0),)))
    sample = dataset[0, 0]
    assert where(sample["image"]).tolist() == where(sample["image2"]).tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------- with labels


def labelled(foreground_p, masks, patch=(5, 5, 5), per_case=200):
    shape = masks.shape[1:]
    item = Loaded(numbered(shape), masks)
    return LabelledCrops(
        CASES[:1], lambda case: item, patch=patch, per_case=per_case, seed=0, foreground_p=foreground_p
    )


def test_masks_lie_on_their_image():
    rng = np.random.default_rng(0)
    masks = (rng.random((2, *SHAPE)) < 0.3).astype(np.uint8)
    dataset = labelled(0.5, masks, per_case=60)
    for index in range(60):
        sample = dataset[0, index]
        start = where(sample["image"])
        assert sample["mask"].dtype == torch.float32
        box = tuple(slice(s, s + 5) for s in start)
        np.testing.assert_array_equal(sample["mask"].numpy(), masks[:, *box])


@pytest.mark.parametrize("foreground_p", [0.0, 0.5, 1.0])
def test_share_of_crops_with_foreground(foreground_p):
    masks = np.zeros((3, 40, 36, 30), np.uint8)
    masks[0, 2, 3, 4] = 1  # near a corner
    masks[1, 30:33, 20:23, 29] = 1  # at a face
    dataset = labelled(foreground_p, masks)
    hit = np.array([dataset[0, i]["mask"].flatten(1).any(1).tolist() for i in range(200)])
    assert not hit[:, 2].any()
    assert hit.any(1).mean() == pytest.approx(foreground_p, abs=0.1 if 0 < foreground_p < 1 else 0.02)
    if foreground_p == 1:  # regions have equal chances, however small
        assert hit[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    if foreground_p:
        starts = [where(dataset[0, i]["image"], (40, 36, 30)) for i in range(200) if hit[i, 1]]
        assert len({tuple(s.tolist()) for s in starts}) > 20, "the voxel is not always in the middle"


@pytest.mark.parametrize(("batch", "share", "sure"), [(2, 0.33, 1), (4, 0.33, 2), (6, 0.5, 3), (4, 1.0, 4)])
@pytest.mark.parametrize("world", [1, 2])
def test_every_batch_holds_its_share_of_foreground_whatever_the_workers_and_processes(batch, share, sure, world):
    masks = np.zeros((2, 40, 36, 30), np.uint8)
    masks[0, 2, 3, 4] = masks[1, 30:33, 20:23, 29] = 1
    dataset = labelled(0.0, masks)

    def batches(rank):
        sampler = EpochBatches(
            200, batch_size=batch, seed=0, shuffle=True, rank=rank, world=world, foreground=share
        )  # fmt: skip
        return list(sampler)

    parts = [batches(rank) for rank in range(world)]
    plain = list(EpochBatches(200, batch_size=batch, seed=0, shuffle=True))
    found = []
    for number, whole in enumerate(zip(*parts, strict=True)):
        keys = [pickle.loads(pickle.dumps(key)) for part in whole for key in part]  # as a worker gets them
        assert keys == plain[number]  # the samples are those of every other share
        found.append([bool(dataset[key]["mask"].any()) for key in keys])
        assert found[-1] == [place < sure for place in range(batch)]
    hit = np.array([dataset[key]["mask"].flatten(1).any(1).tolist() for part in parts[0] for key in part[:1]])
    assert hit[:, 0].mean() == pytest.approx(0.5, abs=0.12)  # regions have equal chances, however small


def test_scans_without_foreground_are_cropped_anywhere():
    dataset = labelled(1.0, np.zeros((1, *SHAPE), np.uint8))
    starts = np.array([where(dataset[e, i]["image"]) for e in range(2) for i in range(200)])
    assert starts.min(0).tolist() == [0, 0, 0]
    assert starts.max(0).tolist() == [9, 7, 5]
    again = labelled(1.0, np.zeros((1, *SHAPE), np.uint8))
    assert torch.equal(dataset[1, 7]["image"], again[1, 7]["image"])


def test_whole_volumes():
    masks = (np.random.default_rng(0).random((2, *SHAPE)) < 0.3).astype(np.uint8)
    dataset = WholeVolumes(CASES, lambda case: Loaded(numbered(), masks))
    assert len(dataset) == 3
    sample = dataset[7, 2]
    assert sample["id"] == "case2"
    assert where(sample["image"]).tolist() == [0, 0, 0]
    assert sample["image"].shape == (1, *SHAPE)
    np.testing.assert_array_equal(sample["mask"].numpy(), masks)


# ---------------------------------------------------------------------------------------- cache and size


def test_cache_keeps_what_was_used_last():
    loads = []

    def load(case):
        loads.append(case.name)
        return Loaded(np.zeros((1, 10, 10, 10), np.uint16))

    cache = Cache(load, gigabytes=2 * 2000 / 2**30)
    for number in (0, 1, 0, 2, 0, 1):
        assert cache(CASES[number]) is cache(CASES[number])
    assert loads == ["case0", "case1", "case2", "case1"]
    none = Cache(load, gigabytes=0)  # even without room the scan in use stays
    assert none(CASES[0]) is none(CASES[0])


def test_loaded_counts_its_bytes():
    item = Loaded(np.zeros((2, 4, 4, 4), np.uint16), np.zeros((3, 4, 4, 4), np.uint8))
    assert item.nbytes == 2 * 64 * 2 + 3 * 64
    item.foreground = [np.zeros(5, np.int64)]
    assert item.nbytes == 2 * 64 * 2 + 3 * 64 + 40


def test_grow_keeps_every_voxel_where_it_is():
    turn = np.array([[0, 0, 2.0], [-0.8, 0, 0], [0, 1.5, 0]])
    to_world = np.eye(4)
    to_world[:3, :3], to_world[:3, 3] = turn, (5, 6, 7)
    codes = np.random.default_rng(0).integers(1, 999, (1, 5, 12, 3)).astype(np.uint16)
    found = grow(Loaded(codes, (codes % 2).astype(np.uint8), to_world), (8, 8, 8))
    assert found.codes.shape == (1, 8, 12, 8)
    value_at = {}
    for index in np.ndindex(codes.shape[1:]):
        value_at[tuple(np.round(turn @ index + (5, 6, 7), 6) + 0.0)] = codes[0, *index]
    seen = 0
    for index in np.ndindex(found.codes.shape[1:]):
        world = tuple(np.round(found.to_world[:3, :3] @ index + found.to_world[:3, 3], 6) + 0.0)
        value = value_at.get(world, 0)
        assert found.codes[0, *index] == value
        assert found.mask[0, *index] == value % 2
        seen += value > 0
    assert seen == codes.size
    assert to_world[:3, 3].tolist() == [5, 6, 7], "the argument is not changed"
    large = Loaded(np.zeros((1, 9, 9, 9), np.uint16))
    assert grow(large, (8, 8, 8)).codes is large.codes
