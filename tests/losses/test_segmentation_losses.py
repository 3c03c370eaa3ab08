"""Losses of masks against loops in float64."""

import math

import pytest
import torch

from ssl_med.losses.segmentation import (
    against_others,
    dice_bce,
    dice_ce,
    dice_loss,
    shrunk,
    supervision_weights,
)

SHAPES = [(2, 3, 4, 5), (2, 2, 3, 4, 2)]


def draw(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def disjoint(shape, seed=0):
    """Masks of which at most one is 1 at a voxel."""
    label = torch.randint(0, shape[1] + 1, (shape[0], *shape[2:]), generator=torch.Generator().manual_seed(seed))
    return torch.stack([label == k + 1 for k in range(shape[1])], 1).double()


def slow_dice(probability, target, *, smooth, over_batch):
    """1 - Dice by loops, (B, K, N) lists."""
    batch, regions = len(probability), len(probability[0])
    groups = [list(range(batch))] if over_batch else [[b] for b in range(batch)]
    losses = []
    for group in groups:
        for k in range(regions):
            both = total = 0.0
            for b in group:
                for p, t in zip(probability[b][k], target[b][k], strict=True):
                    both += p * t
                    total += p + t
            losses.append(1 - (2 * both + smooth) / (total + smooth))
    return sum(losses) / len(losses)


def slow_ce(logits, target, *, exclusive):
    """Probabilities (B, K, N) and mean cross-entropy by loops."""
    probability, costs = [[[0.0] * len(region) for region in one] for one in logits], []
    for b, sample in enumerate(logits):
        for v in range(len(sample[0])):
            line = [region[v] for region in sample]
            truth = [region[v] for region in target[b]]
            if exclusive:
                total = 1 + sum(map(math.exp, line))
                found = [math.exp(x) / total for x in line]
                costs.append(-math.log(found[truth.index(1)] if 1 in truth else 1 / total))
            else:
                found = [1 / (1 + math.exp(-x)) for x in line]
                costs += [-math.log(p if t else 1 - p) for p, t in zip(found, truth, strict=True)]
            for k, p in enumerate(found):
                probability[b][k][v] = p
    return probability, sum(costs) / len(costs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("exclusive", [False, True])
def test_dice_and_cross_entropy_equal_loops(shape, over_batch, exclusive):
    logits, target = draw(shape), disjoint(shape)
    plain = logits.flatten(2).tolist(), target.flatten(2).tolist()
    probability, ce = slow_ce(*plain, exclusive=exclusive)
    dice = slow_dice(probability, plain[1], smooth=1e-5, over_batch=over_batch)
    got = dice_ce(logits, target, exclusive=exclusive, over_batch=over_batch)
    assert float(got) == pytest.approx(dice + ce, abs=1e-12)
    if not exclusive:
        dice = slow_dice(probability, plain[1], smooth=1.0, over_batch=over_batch)
        assert float(dice_loss(logits, target, over_batch=over_batch)) == pytest.approx(dice, abs=1e-12)
        assert float(dice_bce(logits, target, over_batch=over_batch)) == pytest.approx((dice + ce) / 2, abs=1e-12)


def test_one_region_excludes_nothing_so_softmax_and_sigmoid_are_one_loss():
    logits, target = draw((2, 1, 4, 4)), disjoint((2, 1, 4, 4))
    both = [dice_ce(logits, target, exclusive=exclusive) for exclusive in (False, True)]
    assert float(both[0]) == pytest.approx(float(both[1]), abs=1e-12)
    assert torch.equal(against_others(logits), logits)


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_of_a_softmax_are_its_likeliest_class(shape):
    logits = 3 * draw(shape, seed=2)
    whole = torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)
    answers = against_others(logits)
    for k in range(shape[1]):
        others = torch.cat([whole[:, : k + 1], whole[:, k + 2 :]], 1).amax(1)
        assert torch.allclose(answers[:, k], whole[:, k + 1] - others)
    assert torch.equal(answers > 0, torch.stack([whole.argmax(1) == k + 1 for k in range(shape[1])], 1))
    tied = torch.ones(1, 2, 3)
    assert not (against_others(tied) > 0).any()  # no voxel in two classes


def test_weights_of_levels_halve_and_leave_the_coarsest_out():
    assert supervision_weights(3) == pytest.approx([2 / 3, 1 / 3, 0])
    assert supervision_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_is_shrunk_by_its_middle_voxels(dims):
    mask = torch.randint(0, 2, (1, 2, *(8,) * dims), generator=torch.Generator().manual_seed(0)).float()
    middle = (..., *(slice(2, None, 4),) * dims)
    assert torch.equal(shrunk(mask, torch.Size((2,) * dims)), mask[middle])
    assert torch.equal(shrunk(mask, mask.shape[2:]), mask)
