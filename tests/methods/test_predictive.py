"""The predictive methods against their definitions."""

import numpy as np
import pytest
import test_methods
import torch
from test_methods import batch_of, blobs, generator, make


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
