"""What is computed slab by slab is what the whole gives."""

import numpy as np
import pytest
import torch

from ssl_med import slabs
from ssl_med.evaluation import scores
from ssl_med.losses.segmentation import against_others, dice_bce, dice_ce, dice_loss


@pytest.fixture(params=[(1, 2, 9, 7, 5), (2, 3, 11, 6)], ids=["3d", "2d"])
def case(request):
    """Logits and, of numbers that exclude each other, masks: (B, K, *S)."""
    shape = request.param
    g = torch.Generator().manual_seed(0)
    numbers = torch.randint(shape[1] + 1, (shape[0], *shape[2:]), generator=g)
    mask = torch.stack([numbers == k + 1 for k in range(shape[1])], 1)
    return torch.randn(shape, generator=g) * 2, mask


@pytest.fixture
def small(monkeypatch):
    """Slabs of a plane or two."""

    def cut():
        monkeypatch.setattr(slabs, "LARGEST", 80)
        monkeypatch.setattr(scores, "LARGEST", 80)

    return cut


def test_slices_cover_an_axis_once_and_are_bounded(small):
    x = torch.zeros(1, 2, 9, 4, 5)
    assert slabs.slabs(x, 2) == [slice(0, slabs.LARGEST * 9 // 360)]
    small()
    pieces = slabs.slabs(x, 2)
    assert [k for piece in pieces for k in range(9)[piece]] == list(range(9))
    assert all(x[:, :, piece].numel() <= 80 for piece in pieces)
    assert len(slabs.slabs(torch.zeros(0), 0)) == 1


def test_losses_and_answers(case, small):
    logits, mask = case
    losses = {
        "dice": lambda z: dice_loss(z, mask),
        "dice_bce": lambda z: dice_bce(z, mask),
        "regions": lambda z: dice_ce(z, mask, exclusive=False, over_batch=True),
        "classes": lambda z: dice_ce(z, mask, exclusive=True),
    }
    whole = {name: float(loss(logits)) for name, loss in losses.items()}
    odds = against_others(logits)
    small()
    assert {name: float(loss(logits)) for name, loss in losses.items()} == pytest.approx(whole, rel=1e-5)
    assert torch.equal(against_others(logits), odds)
    # what is learned from stays in one piece
    learned = logits.clone().requires_grad_()
    assert float(losses["classes"](learned).detach()) == whole["classes"]


def test_overlaps(case, small):
    logits, mask = case
    dice = scores.dice_per_region(logits[0] > 0, mask[0])
    iou = scores.iou_per_region(logits[0], mask[0])
    small()
    assert torch.equal(scores.dice_per_region(logits[0] > 0, mask[0]), dice)
    for found, wanted in zip(scores.iou_per_region(logits[0], mask[0]), iou, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_distances_of_surfaces(share, small):
    from scipy.ndimage import distance_transform_edt

    rng, spacing = np.random.default_rng(0), (2.0, 0.7, 1.1)
    edge, other = rng.random((23, 6, 7)) < 0.3, rng.random((23, 6, 7)) < share
    other[:9] = False  # far from some slabs
    other[20, 3, 3] = True
    small()
    wanted = distance_transform_edt(~other, sampling=spacing)[edge]
    np.testing.assert_array_equal(scores._by_transform(edge, other, spacing), wanted)
