"""Pairs of crops of sizes of their own: their law against the list of all pairs, and their way into samples."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.core.intensity import TOP
from datamodules.core.pairs import box_iou, draw_sizes
from datamodules.core.starts import Starts, find_starts, integral
from datamodules.core.volumes import Crops, Loaded
from ssl_med.spec import Need

SHAPE, SIZES = (8, 6, 5), ((4, 4, 3), (3, 3, 3), (5, 4, 4), (2, 1, 1))


def voxels(start, size):
    return set(product(*(range(int(s), int(s) + n) for s, n in zip(start, size, strict=True))))


def iou(first, size, second, other):
    """By counting voxels."""
    one, two = voxels(first, size), voxels(second, other)
    return len(one & two) / len(one | two)


@pytest.fixture(scope="module")
def choices():
    weight = (np.random.default_rng(5).random(SHAPE) < 0.6).astype(np.uint8) * 2
    found = [find_starts(SHAPE, size, total=integral(weight), low=0.62, high=1.0, margin=(1, 0, 0)) for size in SIZES]
    assert all(0 < starts.count < np.prod(starts.grid) for starts in found)
    return found


def test_overlap_is_that_of_counted_voxels():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (2, 40, 3))
    got = box_iou(first, SIZES[0], second, SIZES[2])
    assert got == pytest.approx([iou(a, SIZES[0], b, SIZES[2]) for a, b in zip(first, second, strict=True)])
    assert 0 in got


@pytest.mark.parametrize("min_iou", [0.0, 0.3])
def test_pairs_of_sizes_have_the_law_of_uniform_pairs(choices, min_iou):
    """Pairs of sizes that can overlap enough are equally likely, and so are the admissible pairs of starts of each."""
    best = {(a, b): iou((0, 0, 0), a, (0, 0, 0), b) for a, b in product(SIZES, repeat=2)}
    able = [pair for pair, overlap in best.items() if overlap > min_iou]
    assert min_iou == 0 or len(able) < len(best)
    places = {}
    for starts in choices:
        relative = np.array(list(np.ndindex(starts.grid)))
        places[starts.size] = [tuple((r + starts.offset).tolist()) for r in relative[starts.passes(relative)]]
    rng, draws, seen = np.random.default_rng(1), 1500, {}
    for _ in range(draws):
        (first, size), (second, other) = draw_sizes(choices, min_iou, rng)
        key = (tuple(first.tolist()), tuple(second.tolist()))
        seen.setdefault((size, other), []).append(key)
    assert set(seen) == set(able)
    assert stats.chisquare([len(seen[pair]) for pair in able]).pvalue > 1e-3
    for (size, other), found in seen.items():
        allowed = [p for p in product(places[size], places[other]) if iou(p[0], size, p[1], other) > min_iou]
        assert set(found) <= set(allowed)
        firsts = sorted({a for a, _ in allowed})
        law = np.array([sum(a == one for a, _ in allowed) for one in firsts])
        drawn = np.array([sum(a == one for a, _ in found) for one in firsts])
        assert stats.chisquare(drawn, law / law.sum() * drawn.sum()).pvalue > 1e-3


def test_where_hardly_a_pair_passes_both_have_one_size():
    bits = np.zeros((60, 50, 40), bool)
    bits[3, 4, 5] = bits[50, 40, 30] = True
    far = [Starts(size, bits.shape, (0, 0, 0), np.packbits(bits), 2) for size in ((6, 6, 6), (5, 6, 6))]
    for seed in range(3):
        (first, size), (second, other) = draw_sizes(far, 0.9, np.random.default_rng(seed))
        assert iou(first, size, second, other) > 0.8
        assert bits[tuple(first)]
        assert bits[tuple(second)]


def test_samples_hold_two_crops_of_sizes_of_their_own():
    """A ramp along x: its slope in a crop of patch size says how large the crop was."""
    ramp = torch.arange(48).mul(1000).view(48, 1, 1).expand(48, 30, 30).numpy().astype(np.uint16)
    need = Need(pair=True, min_iou=0.0, pair_scales=((1.0, 1.0, 1.0), (1.5, 1.0, 1.0)), equal_pairs=False)
    case = type("Case", (), {"name": "one", "images": ("one.nii",)})
    dataset = Crops([case], lambda _: Loaded(ramp[None]), patch=(16, 16, 16), per_case=80, seed=0, need=need)
    found = []
    for index in range(80):
        sample = dataset[0, index]
        assert sample["image"].shape == sample["image2"].shape == (1, 16, 16, 16)
        lines = [sample[name][0, :, 8, 8] * TOP / 1000 for name in ("image", "image2")]
        found.append(tuple(round(float(line[9] - line[6]) / 3, 1) for line in lines))
    assert set(found) == set(product((1.0, 1.5), repeat=2))
