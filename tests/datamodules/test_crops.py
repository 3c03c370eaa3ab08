"""Where crops are taken: sums against loops, laws against enumeration, cuts against padding."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from datamodules.core.crops import cut, image_boxes, pad_to, resize
from datamodules.core.starts import Starts, find_starts, integral, tissue_weight, window_sums

SHAPES = [(5, 6, 7), (1, 4, 3), (9, 2, 8), (3, 3, 1)]


def all_windows(shape, size):
    return [np.array(s) for s in product(*(range(n - w + 1) for n, w in zip(shape, size, strict=True)))]


def content(weight, start, size):
    box = tuple(slice(s, s + w) for s, w in zip(start, size, strict=True))
    return int(weight[box].astype(int).sum())


# ------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("shape", SHAPES)
def test_tissue_weight_is_the_rule_of_models_genesis(shape):
    codes = np.random.default_rng(0).integers(0, 10, shape).astype(np.uint16)
    weight = tissue_weight(codes, 6)
    assert weight.dtype == np.uint8
    for x, y, z in np.ndindex(shape):
        dense = codes[x, y, z] >= 6
        follows = z + 1 < shape[2] and codes[x, y, z + 1] >= 6
        assert weight[x, y, z] == (2 if dense else 1 if follows else 0)


@pytest.mark.parametrize("shape", SHAPES)
def test_integral_and_window_sums_equal_loops(shape):
    weight = np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    total = integral(weight)
    for corner in np.ndindex(*(n + 1 for n in shape)):
        assert total[corner] == content(weight, (0, 0, 0), corner)
    for size in product(*(range(1, n + 1) for n in shape)):
        sums = window_sums(total, size)
        assert sums.shape == tuple(n - w + 1 for n, w in zip(shape, size, strict=True))
        for start in np.ndindex(sums.shape):
            assert sums[start] == content(weight, start, size)


# ----------------------------------------------------------------------------------------------- filter


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.3, 0.6), (0.0, 0.15), (0.5, 1.0), (0.45, 0.45)])
@pytest.mark.parametrize("margin", [None, (2, 1, 0), (50, 50, 50)])
def test_find_starts_passes_exactly_the_windows_inside_the_bounds(low, high, margin):
    rng = np.random.default_rng(2)
    shape, size = (11, 8, 6), (4, 3, 5)
    codes = (ndimage.gaussian_filter(rng.normal(size=shape), 1.5) > 0).astype(np.uint16)
    weight = tissue_weight(codes, 1)
    starts = find_starts(shape, size, total=integral(weight), low=low, high=high, margin=margin)
    edge = [min(m, (n - w) // 2) for m, n, w in zip(margin or (0, 0, 0), shape, size, strict=True)]
    expected = {
        tuple(s.tolist())
        for s in all_windows(shape, size)
        if low * 2 * 60 <= content(weight, s, size) <= high * 2 * 60
        and all(e <= a <= n - w - e for a, e, n, w in zip(s, edge, shape, size, strict=True))
    }
    relative = np.array(list(np.ndindex(starts.grid)))
    passed = {tuple((r + starts.offset).tolist()) for r in relative[starts.passes(relative)]}
    assert passed == expected
    assert starts.count == len(expected)
    assert starts.nbytes == -(-len(relative) // 8)
    if expected:
        drawn = {tuple(starts.draw(rng).tolist()) for _ in range(300)}
        assert drawn <= expected


def test_without_a_filter_all_windows_pass():
    starts = find_starts((7, 6, 5), (3, 6, 2), margin=(1, 4, 1))
    assert (starts.grid, starts.offset, starts.count, starts.nbytes) == ((3, 1, 2), (1, 0, 1), 6, 0)
    starts = find_starts((9, 8), (4, 8))
    assert (starts.grid, starts.count) == ((6, 1), 6)


def chi_square(counts, expected):
    return stats.chisquare(counts, np.asarray(expected, float) / np.sum(expected) * np.sum(counts)).pvalue


@pytest.mark.parametrize("kind", ["unfiltered", "common", "rare"])
def test_starts_are_drawn_uniformly(kind):
    rng = np.random.default_rng(3)
    if kind == "rare":  # 7 windows of 64000 pass: proposals miss them, and the list is used
        weight = np.zeros((44, 44, 44), np.uint8)
        weight[20:25, 20:25, 20:25] = 2
        weight[20, 20, 20] = 0
        starts = find_starts((44, 44, 44), (5, 5, 5), total=integral(weight), low=100 / 125, high=1.0)
        assert 3 < starts.count < 12
    elif kind == "common":
        weight = (rng.random((9, 8, 7)) < 0.5).astype(np.uint8) * 2
        starts = find_starts((9, 8, 7), (5, 4, 4), total=integral(weight), low=0.5, high=1.0)
        assert 25 < starts.count < 80
    else:
        starts = find_starts((8, 7, 6), (5, 4, 4), margin=(0, 0, 1))
        assert (starts.count, starts.offset) == (16, (0, 0, 1))
    relative = np.array(list(np.ndindex(starts.grid)))
    keys = {tuple((r + starts.offset).tolist()): 0 for r in relative[starts.passes(relative)]}
    for _ in range(60 * starts.count if kind != "rare" else 400):
        keys[tuple(starts.draw(rng).tolist())] += 1  # a start outside would be a KeyError
    assert len(keys) == starts.count
    assert chi_square(list(keys.values()), np.ones(len(keys))) > 1e-3


# ------------------------------------------------------------------------------------------------ pairs


def iou(first, second, size):
    shared = np.prod(np.clip(size - np.abs(np.asarray(first) - second), 0, None))
    return shared / (2 * np.prod(size) - shared)


def filtered(shape, size, rng):
    codes = (ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0).astype(np.uint16)
    return find_starts(shape, size, total=integral(tissue_weight(codes, 1)), low=0.2, high=0.8, margin=(1, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("min_iou", [0.0, 0.2, 0.5, 0.9])
def test_pairs_overlap_enough_and_both_pass(min_iou):
    rng = np.random.default_rng(4)
    for size in ((8, 8, 8), (16, 10, 4), (5, 20, 7)):
        starts = filtered((40, 36, 30), size, rng)
        pairs = np.array([starts.draw_pair(min_iou, rng) for _ in range(300)])
        overlaps = [iou(a, b, np.array(size)) for a, b in pairs]
        assert min(overlaps) > min_iou - 1e-9
        assert starts.passes((pairs - starts.offset).reshape(-1, 3)).all()
        assert (pairs >= starts.offset).all()
        assert (pairs - starts.offset < starts.grid).all()
        if min_iou < 0.9:
            assert np.std(overlaps) > 0.05, "pairs must differ in their overlap"


@pytest.mark.slow
@pytest.mark.parametrize("min_iou", [0.2, 0.4])
def test_pairs_have_the_law_of_uniform_pairs(min_iou):
    """All admissible pairs of a small volume listed; what is drawn must be uniform over that list."""
    rng = np.random.default_rng(5)
    size = np.array([5, 4, 4])
    weight = (rng.random((9, 6, 7)) < 0.5).astype(np.uint8) * 2
    starts = find_starts((9, 6, 7), tuple(size), total=integral(weight), low=0.45, high=1.0)
    relative = np.array(list(np.ndindex(starts.grid)))
    good = [tuple(r.tolist()) for r in relative[starts.passes(relative)]]
    assert 20 < len(good) < len(relative)
    allowed = [(a, b) for a in good for b in good if iou(a, b, size) > min_iou]
    assert len(allowed) < 0.8 * len(good) ** 2
    number = {a: k for k, a in enumerate(good)}
    drawn = np.zeros((len(good), len(good)))
    for _ in range(2500):
        a, b = starts.draw_pair(min_iou, rng)
        drawn[number[tuple(a.tolist())], number[tuple(b.tolist())]] += 1
    law = np.zeros_like(drawn)
    for a, b in allowed:
        law[number[a], number[b]] = 1
    assert not drawn[law == 0].any()
    assert chi_square(drawn.sum(1), law.sum(1)) > 1e-3
    assert chi_square(drawn.sum(0), law.sum(0)) > 1e-3
    groups = {}
    for a, b in allowed:
        key = round(iou(a, b, size), 6)
        groups.setdefault(key, []).append((number[a], number[b]))
    rows = list(groups.values())
    assert len(rows) >= 4
    assert chi_square([sum(drawn[p] for p in row) for row in rows], [len(row) for row in rows]) > 1e-3


def test_pairs_where_few_windows_pass():
    rng = np.random.default_rng(6)
    bits = np.zeros((60, 50, 40), bool)
    bits[3, 4, 5] = bits[50, 40, 30] = bits[50, 41, 30] = True
    starts = Starts((6, 6, 6), bits.shape, (2, 2, 2), np.packbits(bits), 3)
    seen = set()
    for _ in range(12):
        a, b = (tuple((s - 2).tolist()) for s in starts.draw_pair(0.2, rng))
        assert bits[a]
        assert bits[b]
        assert iou(a, b, np.array([6, 6, 6])) > 0.2
        seen |= {a, b}
    assert len(seen) == 3
    only = find_starts((6, 6, 6), (6, 6, 6))
    assert [s.tolist() for s in only.draw_pair(0.9, rng)] == [[0, 0, 0], [0, 0, 0]]


# ------------------------------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("lead", [(), (2,)])
def test_cut_equals_a_window_of_the_padded_array(lead):
    array = np.random.default_rng(7).integers(1, 999, (*lead, 4, 5, 3)).astype(np.uint16)
    wide = 9
    padded = np.pad(array, [(0, 0)] * len(lead) + [(wide, wide)] * 3, constant_values=77)
    for size in ((2, 3, 3), (6, 1, 5), (4, 5, 3)):
        for start in product(range(-8, 9, 2), range(-8, 9, 4), range(-7, 8, 3)):
            box = tuple(slice(s + wide, s + wide + w) for s, w in zip(start, size, strict=True))
            found = cut(array, np.array(start), size, pad=77)
            expected = padded[(..., *box)]
            if expected.shape[-3:] != size:  # the reference's padding ends before this window does
                continue
            np.testing.assert_array_equal(found, expected)
            assert not np.shares_memory(found, array)


def test_cut_far_outside_and_a_copy_inside():
    array = np.ones((4, 4, 4), np.uint8)
    for start in ((100, 0, 0), (-100, 0, 0), (0, 4, 0), (0, 0, -4)):
        assert not cut(array, np.array(start), (4, 4, 4)).any()
    inside = cut(array, np.array([0, 0, 0]), (4, 4, 4))
    inside[:] = 5
    assert array.max() == 1


@pytest.mark.parametrize("shape", [(3, 9, 4), (8, 8, 8), (9, 9, 9), (7, 1, 8)])
def test_pad_to_puts_the_content_in_the_middle(shape):
    array = np.random.default_rng(8).integers(1, 99, (2, *shape)).astype(np.uint16)
    found = pad_to(array, (8, 8, 8), pad=5)
    target = [max(8, n) for n in shape]
    before = [(t - n) // 2 for t, n in zip(target, shape, strict=True)]
    after = [t - n - b for t, n, b in zip(target, shape, before, strict=True)]
    np.testing.assert_array_equal(found, np.pad(array, [(0, 0), *zip(before, after, strict=True)], constant_values=5))
    assert (found is array) == (min(shape) >= 8)


def test_resize_keeps_constants_and_ramps():
    for shape, size in (((6, 8, 10), (9, 4, 10)), ((12, 10), (7, 20))):
        flat = resize(torch.full((2, *shape), 0.3), size)
        assert flat.shape == (2, *size)
        torch.testing.assert_close(flat, torch.full_like(flat, 0.3))
    same = torch.rand(1, 4, 4, 4)
    assert resize(same, (4, 4, 4)) is same
    ramp = torch.arange(20.0)[None, :, None].expand(1, 20, 8).contiguous()
    found = resize(ramp, (10, 8))[0, :, 3]
    expected = (torch.arange(10) + 0.5) * 2 - 0.5
    torch.testing.assert_close(found[1:-1], expected[1:-1])


# ------------------------------------------------------------------------------------------------ images


def box_iou(a, b):
    """By counting pixels."""
    canvas = np.zeros((2, 200, 200), bool)
    for layer, (top, left, height, width) in zip(canvas, (a, b), strict=True):
        layer[top : top + height, left : left + width] = True
    return (canvas[0] & canvas[1]).sum() / (canvas[0] | canvas[1]).sum()


@pytest.mark.parametrize("shape", [(128, 128), (100, 180), (190, 70)])
def test_image_boxes_overlap_and_have_the_stated_sizes(shape):
    rng = np.random.default_rng(9)
    boxes = np.array([image_boxes(shape, rng, min_iou=0.2, area=(0.2, 1.0)) for _ in range(300)])
    assert boxes.shape == (300, 2, 4)
    flat = boxes.reshape(-1, 4)
    assert (flat[:, :2] >= 0).all()
    assert (flat[:, 2:] >= 1).all()
    assert (flat[:, :2] + flat[:, 2:] <= shape).all()
    assert min(box_iou(a, b) for a, b in boxes) > 0.2
    share = flat[:, 2] * flat[:, 3] / np.prod(shape)
    assert 0.15 < share.min() < 0.35  # clipped to the image where the aspect does not fit
    assert share.max() > 0.6
    if shape[0] == shape[1]:
        assert share.min() > 0.2 * 0.97
        aspect = flat[:, 3] / flat[:, 2]
        assert aspect.min() > 0.72
        assert aspect.max() < 1.39
        assert abs(np.log(aspect).mean()) < 0.03


def test_image_boxes_take_the_closest_pair_when_none_overlaps_enough():
    rng = np.random.default_rng(10)
    overlaps = [box_iou(*image_boxes((90, 90), rng, min_iou=0.9999, area=(0.2, 0.6))) for _ in range(20)]
    assert min(overlaps) > 0.75


def test_image_boxes_have_the_law_of_rejection_sampling():
    """The share of image that both boxes cover, against pairs drawn one by one from the definition."""
    rng = np.random.default_rng(11)

    def one_box():
        area, aspect = rng.uniform(0.2, 1) * 64 * 64, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        height, width = (int(np.clip(np.rint(v), 1, 64)) for v in (np.sqrt(area / aspect), np.sqrt(area * aspect)))
        return (int(rng.integers(64 - height + 1)), int(rng.integers(64 - width + 1)), height, width)

    expected = []
    while len(expected) < 400:
        pair = one_box(), one_box()
        if box_iou(*pair) > 0.5:
            expected.append((box_iou(*pair), pair[0][2] * pair[0][3]))
    found = [image_boxes((64, 64), rng, min_iou=0.5, area=(0.2, 1.0)) for _ in range(400)]
    found = [(box_iou(*pair), pair[0][2] * pair[0][3]) for pair in found]
    for mine, theirs in zip(np.array(found).T, np.array(expected).T, strict=True):
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
