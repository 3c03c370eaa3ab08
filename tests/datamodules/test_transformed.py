"""Pipelines in the loaders: the same samples bit by bit whatever the workers and interruptions, in training and evaluation."""

import numpy as np
import pytest
import torch

from datamodules.core.loader import EpochBatches, ResumableLoader
from datamodules.core.transformed import Transformed
from datamodules.core.volumes import Crops, LabelledCrops, Loaded
from datamodules.msd import MsdConfig, MsdData
from experiments.config.transform_lists import read_list
from ssl_med.spec import DataSpec, Need, SslMedError
from ssl_med.transforms.samples.lists import TransformList, variables_of

PATCH = (12, 10, 8)
SPEC = DataSpec(name="x", spatial_dims=3, in_channels=1, patch_size=PATCH, target="mask", class_names=("a",))
STRONG = TransformList(read_list("strong_3d", "task.augment"), variables=variables_of(SPEC, (0, 1, 2)))
SHADE = {"_target_": "RandScaleIntensityd", "keys": ["image"], "prob": 1, "factors": 0.5}


class Case:
    images = ("scan",)

    def __init__(self, name):
        self.name = self.subject = name


def read(case):
    rng = np.random.default_rng(int(case.name))
    codes = rng.integers(0, 65536, (1, 20, 22, 18)).astype(np.uint16)
    return Loaded(codes, (codes > 30000).astype(np.uint8), np.diag([1.0, 2, 3, 1]))


def crops(need=None):
    cases = [Case(str(k)) for k in range(4)]
    if need is not None:
        return Crops(cases, read, patch=PATCH, per_case=2, seed=0, need=need)
    return LabelledCrops(cases, read, patch=PATCH, per_case=2, seed=0, foreground_p=0.5)


def batches(workers, *, start=0, steps=8, lists=(STRONG,), need=None, seed=0):
    samples = Transformed(crops(need), lists, seed=seed, patch=PATCH)
    order = EpochBatches(len(samples), batch_size=2, seed=0, shuffle=True)
    loader = ResumableLoader(samples, order, num_workers=workers)
    loader.load_state_dict({"epoch": start // 4, "position": start % 4})
    found = []
    while len(found) < steps:
        found += list(loader)
    return found


@pytest.fixture(scope="module")
def alone():
    return batches(0)


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["id"] == other["id"]
        for key in ("image", "mask"):
            assert type(one[key]) is torch.Tensor
            assert torch.equal(one[key], other[key])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(alone, workers):
    torch.manual_seed(workers)
    same(batches(workers), alone)


@pytest.mark.parametrize("start", [1, 6])
def test_a_resume_in_mid_epoch_goes_on_with_the_same_samples(alone, start):
    same(batches(0, start=start, steps=8 - start), alone[start:])


def test_epochs_and_seeds_differ(alone):
    by_key = {
        (step // 4, i): x for step, b in enumerate(alone) for i, x in zip(b["index"].tolist(), b["image"], strict=True)
    }
    assert all(not torch.equal(by_key[0, i], by_key[1, i]) for i in range(8))
    assert not torch.equal(batches(0, steps=4, seed=1)[0]["image"], alone[0]["image"])


def test_the_loaders_crops_are_what_they_were():
    """Without lists and windows a crop is the same; with a window the crop lies in its middle."""
    samples = crops()
    for index in range(4):
        plain = samples[0, index]
        wide, window, to_world = samples.placed((0, index), (20, 18, 16))
        low = [round(m - (n - 1) / 2) for m, n in zip(window.middle, PATCH, strict=True)]
        inside = wide["image"][:, low[0] : low[0] + 12, low[1] : low[1] + 10, low[2] : low[2] + 8]
        assert torch.equal(inside, plain["image"])
        np.testing.assert_allclose(to_world[:3, 3], window.start * [1, 2, 3])
        assert (window.start >= 0).all()


def test_crops_of_a_pair_are_drawn_for_themselves():
    need = Need(pair=True, min_iou=0.3, pair_scales=((1.0, 1.0, 1.0),))
    shade = TransformList((SHADE,), "data.transforms")
    plain, (found, *_) = batches(0, steps=4, lists=(), need=need), batches(0, steps=4, lists=(shade,), need=need)
    first, second = (found[key].mean() / plain[0][key].mean() for key in ("image", "image2"))
    assert abs(first - 1) > 0.01
    assert abs(first - second) > 0.01


def test_a_transform_that_fails_names_the_case_and_the_entry():
    crop = TransformList(
        ({"_target_": "RandSpatialCropd", "keys": ["image", "mask"], "roi_size": [4, 4, 4]},), "mine.yaml"
    )
    for workers in (0, 1):
        with pytest.raises(SslMedError, match=r"\d: mine.yaml made image 1x4x4x4 float32; training needs .* 12x10x8"):
            batches(workers, steps=1, lists=(crop,))


@pytest.fixture(scope="module")
def folder(shared_phantom):
    return shared_phantom("msd", subjects=6, size=(24, 24, 24))


@pytest.mark.slow
def test_random_entries_act_in_training_alone(folder):
    """Deterministic entries change every part; random ones training samples; task.augment those of fine-tuning."""
    half = {"_target_": "ScaleIntensityRanged", "keys": ["image"], "a_min": 0, "a_max": 1, "b_min": 0, "b_max": 0.5}

    def data(transforms=(), augment=()):
        config = MsdConfig(name="msd", root=str(folder), patch_size=PATCH, crops_per_volume=2, transforms=transforms)
        return MsdData(config, labelled=True, batch_size=2, augment=TransformList(augment))

    def images(data, loader):
        return torch.cat([batch["image"].flatten() for batch in getattr(data, loader)()])

    plain, halved, both, augmented = data(), data((half,)), data((half, SHADE)), data((), (SHADE,))
    for loader in ("val_dataloader", "test_dataloader"):
        torch.testing.assert_close(images(halved, loader), images(plain, loader) / 2)
        assert torch.equal(images(both, loader), images(halved, loader))
        assert torch.equal(images(augmented, loader), images(plain, loader))
    torch.testing.assert_close(images(halved, "train_dataloader"), images(plain, "train_dataloader") / 2)
    assert not torch.equal(images(both, "train_dataloader"), images(halved, "train_dataloader"))
    assert not torch.equal(images(augmented, "train_dataloader"), images(plain, "train_dataloader"))
    still = torch.cat([b["image"].flatten() for b in both.still_loader(both.parts["train"], part="train", crops=True)])
    assert still.max() <= 0.5
    with pytest.raises(SslMedError, match="transforms is 'strong_3d'; names are for commands"):
        data("strong_3d")
