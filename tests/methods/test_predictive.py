"""The predictive methods against their definitions."""

import numpy as np
import pytest
import test_methods
import torch
from test_methods import batch_of, blobs, generator, make

from ssl_med.spec import SslMedError


@pytest.fixture
def sized(monkeypatch):
    """`make` for crops of another size."""

    def make_sized(name, size, *words):
        monkeypatch.setitem(test_methods.SIZE, len(size), size)
        return make(name, len(size), *words)

    return make_sized


# --- rotation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "every", "classes"), [(2, "true", 4), (2, "false", 4), (3, "true", 10), (3, "false", 10)]
)
def test_rotation_labels_name_the_numpy_turn(dims, every, classes):
    method = make("rotation", dims, "method.flip=0", f"method.every={every}")
    planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
    expected = [((0, 1), 0), *((plane, k) for plane in planes for k in (1, 2, 3))]
    images = blobs(12, dims)
    views = method.views(batch_of(images), generator(1))
    assert views["image"].shape == (12, classes if every == "true" else 1, 1, *method.spec.patch_size)
    for b in range(12):
        for copy, label in zip(views["image"][b], views["label"][b].tolist(), strict=True):
            plane, k = expected[label]
            assert np.array_equal(copy[0].numpy(), np.rot90(images[b, 0].numpy(), k, plane))
    assert len(set(views["label"].flatten().tolist())) > 2
    assert float(method.terms(views)["trivial"]) == pytest.approx(1 / classes)


@pytest.mark.parametrize(("size", "classes"), [((16, 16, 8), 6), ((16, 8, 4), 4), ((32, 16), 2), ((16, 16), 4)])
def test_rotation_takes_what_the_crop_admits(sized, size, classes):
    method = sized("rotation", size)
    assert method.head.layers[-1].out_features == classes
    assert torch.isfinite(method.losses(batch_of(torch.rand(4, 1, *size)), generator(0))["loss"])


def test_rotation_mirrors_left_and_right_only():
    method = make("rotation", 2, "method.flip=1")
    images = blobs(2, 2)
    assert torch.equal(method.views(batch_of(images), generator(0))["image"][:, 0], images.flip(3))
    method = make("rotation", 3, "method.flip=1", "method.every=true")
    volumes = blobs(2, 3)
    assert torch.equal(method.views(batch_of(volumes), generator(0))["image"][:, 0], volumes.flip(2))


# --- relative position -----------------------------------------------------------------------------------------------


def coordinates(dims, batch=1):
    """Images whose voxels hold their own flat position: a patch says where it was cut."""
    size = test_methods.SIZE[dims]
    return torch.arange(float(np.prod(size))).view(1, 1, *size).repeat(batch, *[1] * (dims + 1))


def place(patch, size):
    """First voxel of a patch of `coordinates`."""
    return np.array(np.unravel_index(int(patch.flatten()[0]), size))


@pytest.mark.parametrize(("dims", "directions"), [(2, 8), (3, 26)])
def test_relative_position_labels_are_directions_row_by_row(dims, directions):
    method = make("relative_position", dims, "method.standardize=false", "method.jitter=0")
    views = method.views(batch_of(coordinates(dims, 100)), generator(0))
    size = method.spec.patch_size
    cells = [np.array(c) - 1 for c in np.ndindex(*(3,) * dims) if any(k != 1 for k in c)]
    assert len(cells) == directions
    for pair, label in zip(views["pair"], views["label"].tolist(), strict=True):
        centre, other = (place(patch[0], size) for patch in pair)
        assert ((other - centre) // (np.array(size) // 3) == cells[label]).all()
    assert len(views["label"].unique()) > directions * 0.8
    assert float(method.terms(views)["trivial"]) == pytest.approx(1 / directions)


def test_pairs_jitter_independently():
    method = make("relative_position", 2, "method.standardize=false")
    views = method.views(batch_of(coordinates(2, 50)), generator(0))
    first = np.stack([[place(patch[0], (32, 32)) % 10 for patch in pair] for pair in views["pair"]])
    assert len({tuple(x) for x in first[:, 0]}) > 3
    assert any((a != b).any() for a, b in first)


# --- jigsaw ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dims", "grid", "cells"), [(2, 0, 9), (3, 0, 8), (3, 3, 27), (2, 2, 4)])
def test_jigsaw_slot_i_shows_patch_order_i(dims, grid, cells):
    words = ["method.standardize=false", "method.jitter=0", f"method.grid={grid}", "method.permutations=10"]
    method = make("jigsaw", dims, *words)
    assert method.orders.shape == (10, cells)
    size, side = method.spec.patch_size, round(cells ** (1 / dims))
    views = method.views(batch_of(coordinates(dims, 20)), generator(0))
    for patches, label in zip(views["patches"], views["label"].tolist(), strict=True):
        for slot, patch in enumerate(patches):
            cell = place(patch[0], size) // (np.array(size) // side)
            assert np.ravel_multi_index(cell, (side,) * dims) == method.orders[label, slot]


def test_jigsaw_tells_slots_apart_by_one_encoder():
    """The features of a slot are those of its patch alone, and the classifier sees their order."""
    method = make("jigsaw", 2).eval()
    views = method.views(batch_of(blobs(3, 2)), generator(0))
    features = method.encode(views["patches"])
    alone = method.backbone.pool(method.backbone(views["patches"][1, 4:5]))
    assert torch.allclose(features[1, 4], alone[0], atol=1e-5)
    order = torch.randperm(9, generator=generator(1))
    assert torch.allclose(method.encode(views["patches"][:, order]), features[:, order], atol=1e-5)
    logits, moved = (method.head(method.patch_head(f).flatten(1)) for f in (features, features[:, order]))
    assert not torch.allclose(logits, moved, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method.grid=4"], "method.grid is 4; it must be 2 or 3"),
        (["method.permutations=1"], "method.permutations is 1"),
        (["method.grid=2"], "method.permutations is 100; 4 cells have 24 orders"),
        (["method.gap=0.5", "method.jitter=0.5"], "method.gap and method.jitter must leave"),
        (["method.jitter=2"], "method.jitter is 2"),
    ],
)
def test_impossible_puzzles_are_one_line(words, message):
    with pytest.raises(SslMedError, match=message):
        make("jigsaw", 2, *words)


def test_cells_too_small_for_the_network_name_the_remedies(sized):
    with pytest.raises(SslMedError, match=r"data.patch_size \[4, 32\].*needs 2 a side.*method.grid"):
        sized("jigsaw", (4, 32))
    with pytest.raises(SslMedError, match="instance needs two voxels"):
        test_methods.make("jigsaw", 3, "method.grid=3", "method.jitter=0.5", norm="instance")


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (16, 16, 16), (32, 32, 16), (64, 64, 32)])
@pytest.mark.parametrize("name", ["jigsaw", "relative_position"])
def test_usual_crops_fit(sized, name, size):
    method = sized(name, size)
    assert torch.isfinite(method.losses(batch_of(torch.rand(2, 1, *size)), generator(0))["loss"])


def test_patches_need_not_suit_a_decoder(monkeypatch):
    """A residual network takes patches of any size; 64x64 in 3x3 cells leaves 16."""
    monkeypatch.setitem(test_methods.SIZE, 2, (64, 64))
    config = test_methods.compose_pretrain(
        ["method=jigsaw", "data=chest14", "data.patch_size=[64,64]", "method.permutations=4", "method.hidden_dim=8"]
    )
    method_class = test_methods.get_class("ssl_med.methods", "jigsaw", kind="method", base=test_methods.Method)
    method = method_class(config.method, spec=config.spec, backbone=config.backbone, optim=config.optim, batch_size=4)
    assert method.grid.patch == (16, 16)
    assert torch.isfinite(method.losses(batch_of(torch.rand(2, 1, 64, 64)), generator(0))["loss"])
