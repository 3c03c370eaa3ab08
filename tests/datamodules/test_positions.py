"""Crops at positions that all scans share: where they lie, what they show, and the thumbnails beside them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules import chest14, lits
from datamodules.core.intensity import TOP
from datamodules.core.positions import places, position_box, position_crop, thumbnail
from datamodules.core.volumes import Crops, Loaded
from datamodules.phantoms import chest14 as radiograph_phantoms
from datamodules.phantoms import lits as scan_phantoms
from ssl_med.spec import Need, Positions


def ramp(shape):
    """Codes whose three channels are the voxel's place along x, y and z as a share of the side."""
    axes = np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij")
    return np.stack([np.rint(a * TOP).astype(np.uint16) for a in axes])


@pytest.mark.parametrize("dims", [2, 3])
def test_places_are_spread_and_do_not_move_when_more_are_asked_for(dims):
    many = places(200, dims)
    assert np.array_equal(many[:44], places(44, dims))
    assert 0 <= many.min() <= many.max() < 1
    gaps = np.linalg.norm(many[:, None] - many[None], axis=2) + 9 * np.eye(200)
    assert gaps.min() > 0.5 / 200 ** (1 / dims), "no two positions are close"
    for axis in range(dims):  # every tenth of an axis holds about its share
        assert np.histogram(many[:, axis], 10, (0, 1))[0].min() >= 15


@pytest.mark.parametrize("shape", [(100, 80, 60), (300, 200, 90)])
def test_a_position_is_the_same_share_of_the_way_in_every_scan(shape):
    wanted = Positions(8, (4, 4, 4), border=0.2)
    for place in places(8, 3):
        start, size = position_box(shape, place, None, positions=wanted, patch=(32, 24, 8))
        assert size == (32, 24, 8)
        way = (start + 0.5) / (np.array(shape) - size)
        assert np.abs(way - (0.2 + 0.6 * place)).max() < 1.1 / (min(shape) - 32)


def test_crops_of_small_scans_are_half_of_them_and_margins_are_kept():
    wanted = Positions(8, (4, 4, 4))
    start, size = position_box((40, 100, 10), np.zeros(3), None, positions=wanted, patch=(32, 32, 32))
    assert size == (20, 32, 5)
    assert start.tolist() == [0, 0, 0]
    start, _ = position_box(
        (40, 100, 10), np.ones(3) - 1e-9, None, positions=wanted, patch=(32, 32, 32), margin=(3, 10, 0)
    )
    assert start.tolist() == [17, 58, 5]
    _, size = position_box((300, 200), np.full(2, 0.5), None, positions=Positions(8, (4, 4), share=0.5), patch=(32, 32))
    assert size == (150, 100)


def test_size_and_shift_vary_around_the_position_within_their_bounds():
    wanted, rng = Positions(4, (4, 4, 4), scale=(0.5, 1.5), jitter=0.25), np.random.default_rng(0)
    place, shape, patch = np.full(3, 0.5), (200, 200, 200), (40, 40, 40)
    boxes = [position_box(shape, place, rng, positions=wanted, patch=patch) for _ in range(500)]
    sizes, middles = np.array([b[1] for b in boxes]), np.array([b[0] + np.array(b[1]) / 2 for b in boxes])
    assert sizes[:, 0].min() in (20, 21)
    assert sizes[:, 0].max() in (59, 60)
    assert (sizes[:, 0] == sizes[:, 1]).all()
    assert (sizes[:, 2] == 40).all(), "the third side keeps its size"
    assert np.abs(middles - 100).max() <= 0.25 * 40 + 1
    assert np.abs(middles - 100).max() > 8
    for _ in range(200):  # never outside
        place = rng.uniform(0, 1, 3)
        start, size = position_box((30, 25, 12), place, rng, positions=wanted, patch=patch)
        assert (start >= 0).all()
        assert (start + size <= (30, 25, 12)).all()


@pytest.mark.parametrize("shape", [(50, 40, 30), (60, 40)])
def test_a_crop_shows_the_position_it_names(shape):
    dims = len(shape)
    wanted = Positions(6, (4,) * dims, share=0.4, jitter=0.05)
    codes, rng, seen = ramp(shape), np.random.default_rng(0), set()
    for _ in range(80):
        sample = position_crop(codes, rng, positions=wanted, patch=(8,) * dims)
        assert sample["image"].shape == (dims, *(8,) * dims)
        place = places(6, dims)[sample["instance"]]
        seen.add(sample["instance"])
        middle = sample["image"].flatten(1).mean(1).numpy()  # the mean place of its voxels
        assert np.abs(middle - (0.2 + 0.6 * place)).max() < 0.4 * 0.05 + 1.5 / min(shape)
    assert seen == set(range(6))


@pytest.mark.parametrize(("shape", "size"), [((7, 9, 5), (3, 4, 5)), ((12, 8), (4, 4)), ((3, 5), (4, 8))])
def test_thumbnail_equals_means_over_boxes(shape, size):
    codes = np.random.default_rng(0).integers(0, TOP + 1, (2, *shape)).astype(np.uint16)
    small = thumbnail(codes, size)
    assert small.shape == (2, *size)
    for place in np.ndindex(size):
        box = tuple(slice(k * n // m, math.ceil((k + 1) * n / m)) for k, n, m in zip(place, shape, size, strict=True))
        expected = codes[(slice(None), *box)].reshape(2, -1).astype(float).mean(1) / TOP
        np.testing.assert_allclose(small[(slice(None), *place)], expected, atol=1e-6)


def test_samples_name_their_scan_and_replay():
    reads = []

    def read(case):
        reads.append(case.name)
        return Loaded(ramp((20, 20, 20)))

    cases = [SimpleNamespace(name=f"case{i}", images=("",)) for i in range(3)]
    need = Need(positions=Positions(5, (4, 4, 4), jitter=0.1))
    dataset = Crops(cases, read, patch=(8, 8, 8), per_case=4, seed=0, need=need)
    sample = dataset[2, 9]
    assert sample["case"] == 2
    assert sample["scan"].shape == (3, 4, 4, 4)
    again = Crops(cases, read, patch=(8, 8, 8), per_case=4, seed=0, need=need)[2, 9]
    assert torch.equal(sample["image"], again["image"])
    assert sample["instance"] == again["instance"]
    drawn = {dataset[epoch, 0]["instance"] for epoch in range(40)}
    assert drawn == set(range(5))


@pytest.mark.parametrize(
    ("data_class", "phantoms", "settings", "options"),
    [
        (lits.LitsData, scan_phantoms, {"patch_size": (16, 16, 8)}, {"subjects": 6, "size": (40, 40, 24)}),
        (
            chest14.Chest14Data,
            radiograph_phantoms,
            {"patch_size": (16, 16), "image_size": 32},
            {"subjects": 8, "size": (64, 80)},
        ),
    ],
)
def test_loaders_yield_positions(tmp_path, data_class, phantoms, settings, options):
    phantoms.generate(tmp_path, **options)
    dims = len(settings["patch_size"])
    config = data_class.Config(name="x", root=str(tmp_path), **settings)
    need = Need(positions=Positions(7, (8,) * dims, share=0.5))
    data = data_class(config, need=need, labelled=False, batch_size=4)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 1, *settings["patch_size"])
    assert batch["scan"].shape == (4, 1, *(8,) * dims)
    assert batch["instance"].dtype == batch["case"].dtype == torch.int64
    assert int(batch["instance"].max()) < 7
    same = batch["case"][:, None] == batch["case"][None]
    names = [[a == b for b in batch["id"]] for a in batch["id"]]
    assert same.tolist() == names, "one number a scan"
