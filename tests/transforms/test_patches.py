"""Patches, their order and quarter turns against loops and numpy."""

import itertools
import math

import numpy as np
import pytest
import torch

from ssl_med.spec import SslMedError
from ssl_med.transforms import rotations
from ssl_med.transforms.patches import (
    cut,
    fold,
    make_grid,
    permutation_set,
    permute,
    sample_corners,
    standardize,
)
from ssl_med.transforms.rotations import apply_rotations, half_turns, rotate, rotations_of

SHAPES = {2: (24, 18), 3: (16, 12, 20)}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def image(dims, batch=3, channels=2, shape=None):
    return torch.rand(batch, channels, *(shape or SHAPES[dims]), generator=gen())


# --- rotations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((8, 8), 4), ((8, 6), 2), ((6, 6, 6), 10), ((8, 8, 4), 6), ((8, 4, 4), 6), ((4, 8, 4), 6), ((8, 6, 4), 4)],
)
def test_classes_are_all_different_shape_preserving_numpy_turns(shape, classes):
    """Independent count: every numpy.rot90 in a plane of two axes that keeps the shape, repeats removed."""
    x = np.arange(math.prod(shape)).reshape(shape)
    legal = {}
    for plane in itertools.combinations(range(len(shape)), 2):
        for k in range(4):
            turned = np.rot90(x, k, plane)
            if turned.shape == x.shape:
                legal[turned.tobytes()] = turned
    found = rotations_of(shape)
    assert found[0][1] == 0
    assert len(found) == len(legal) == classes
    for (plane, k), turned in ((r, rotate(torch.from_numpy(x)[None, None], r)[0, 0]) for r in found):
        assert np.array_equal(turned.numpy(), np.rot90(x, k, plane))
        assert turned.numpy().tobytes() in legal


@pytest.mark.parametrize("dims", [2, 3])
def test_half_turns_fit_every_shape_and_differ(dims):
    x = image(dims)
    turned = [rotate(x, r) for r in half_turns(dims)]
    assert len(turned) == dims
    assert all(t.shape == x.shape for t in turned)
    assert torch.equal(turned[0], x)
    assert torch.equal(turned[-1], x.flip(2, 3))  # "vertical", the plane of the first two axes
    if dims == 3:
        assert torch.equal(turned[1], x.flip(3, 4))


@pytest.mark.parametrize("shape", [(6, 6), (6, 6, 6), (6, 6, 4)])
@pytest.mark.parametrize("accelerator", [False, True])
def test_each_image_gets_its_own_turn(shape, accelerator, monkeypatch):
    if accelerator:
        monkeypatch.setattr(rotations, "on_cpu", lambda x: False)
    classes = rotations_of(shape)
    index = torch.arange(2 * len(classes)) % len(classes)
    x = torch.rand(len(index), 2, *shape, generator=gen())
    before = x.clone()
    y = apply_rotations(x, index, classes)
    for i, k in enumerate(index.tolist()):
        plane, turns = classes[k]
        for c in range(2):
            assert np.array_equal(y[i, c].numpy(), np.rot90(x[i, c].numpy(), turns, plane))
    assert torch.equal(x, before)
    assert y.data_ptr() != x.data_ptr()


# --- cutting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("gap", "jitter"), [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (0.2, 0.25)])
def test_patches_are_boxes_of_their_cells_and_keep_their_distance(dims, gap, jitter):
    x = image(dims, batch=40)
    counts = (3, 2, 2)[:dims]
    grid = make_grid(SHAPES[dims], counts, gap=gap, jitter=jitter)
    corners = sample_corners(len(x), grid, gen(1))
    patches = cut(x, corners, grid.patch)
    assert patches.shape == (40, math.prod(counts), 2, *grid.patch)
    cells = list(itertools.product(*(range(n) for n in counts)))
    for b, (p, cell) in itertools.product(range(40), enumerate(cells)):
        start = corners[b, p].tolist()
        box = tuple(slice(s, s + side) for s, side in zip(start, grid.patch, strict=True))
        assert torch.equal(patches[b, p], x[(b, slice(None), *box)])
        for axis in range(dims):
            side = SHAPES[dims][axis] // counts[axis]
            low = grid.first[axis] + cell[axis] * side
            assert low <= start[axis]
            assert start[axis] + grid.patch[axis] <= low + side
    for p, q in itertools.combinations(range(len(cells)), 2):
        axis = next(a for a in range(dims) if cells[p][a] != cells[q][a])
        if abs(cells[p][axis] - cells[q][axis]) == 1:
            side = SHAPES[dims][axis] // counts[axis]
            free = (corners[:, q, axis] - corners[:, p, axis]).abs() - grid.patch[axis]
            assert int(free.min()) >= round(gap * side)
    for axis in range(dims):  # every place is used
        offsets = corners[..., axis] - corners[..., axis].amin(0)
        assert int(offsets.max()) == grid.jitter[axis]


def test_a_grid_shares_what_is_left_over_and_gives_way_to_the_network():
    grid = make_grid((16, 64), (3, 3), jitter=0.25)
    assert grid.step == (5, 21)
    assert grid.first == (0, 0)
    assert make_grid((17, 65), (3, 3)).first == (1, 1)
    assert make_grid((16, 64), (3, 3), gap=0.2, jitter=0.25, min_side=5).patch == (5, 12)
    with pytest.raises(SslMedError, match=r"16, 64.*3x3 cells leaves 5x21.*needs 8 a side.* 24x24 or more"):
        make_grid((16, 64), (3, 3), min_side=8)
    assert min(make_grid((24, 24), (3, 3), min_side=8).patch) == 8
    with pytest.raises(SslMedError, match="32x32 or more"):
        make_grid((31, 64), (7, 7), overlap=0.5, min_side=8)
    assert min(make_grid((32, 32), (7, 7), overlap=0.5, min_side=8).patch) == 8


@pytest.mark.parametrize(("side", "cell"), [(32, 8), (38, 8), (50, 12), (224, 56)])
def test_cells_that_overlap_by_half_stay_inside_and_clear_of_the_next_but_one(side, cell):
    grid = make_grid((side, side), (7, 7), overlap=0.5)
    assert grid.patch == (cell, cell)
    assert 2 * grid.step[0] == cell
    assert grid.first[0] == (side - 6 * grid.step[0] - cell) // 2 >= 0


@pytest.mark.parametrize("dims", [2, 3])
def test_fold_puts_whole_cells_back(dims):
    x = image(dims)
    counts = (2, 3, 2)[:dims]
    grid = make_grid(SHAPES[dims], counts)
    patches = cut(x, sample_corners(len(x), grid, gen()), grid.patch)
    assert torch.equal(fold(patches, counts), x)


def test_standardized_patches_tell_nothing_of_brightness_and_air_stays_flat():
    x = torch.rand(2, 3, 2, 5, 4, generator=gen(), dtype=torch.float64)
    y = standardize(x)
    for b, p, c in itertools.product(range(2), range(3), range(2)):
        v = x[b, p, c].numpy()
        assert np.allclose(y[b, p, c].numpy(), (v - v.mean()) / v.std(), atol=1e-12)
    assert torch.allclose(standardize(3 * x + 0.2), y)
    assert torch.equal(standardize(torch.full((1, 1, 1, 4, 4), 0.25)), torch.zeros(1, 1, 1, 4, 4))
    faint = torch.full((1, 1, 1, 4, 4), 0.5) + 1e-4 * torch.randn(4, 4, generator=gen())
    assert float(standardize(faint).abs().max()) < 0.1


# --- order -----------------------------------------------------------------------------------------------------------


def test_slot_i_shows_patch_perm_i_and_argsort_undoes_it():
    patches = torch.arange(10.0).view(2, 5, 1, 1).expand(-1, -1, 1, 3)
    order = torch.tensor([[2, 0, 4, 1, 3], [0, 1, 2, 3, 4]])
    shuffled = permute(patches, order)
    for b in range(2):
        for slot in range(5):
            assert torch.equal(shuffled[b, slot], patches[b, order[b, slot]])
    assert torch.equal(permute(shuffled, order.argsort(1)), patches)


def distances(orders):
    rows = orders.tolist()
    return [sum(a != b for a, b in zip(p, q, strict=True)) for p, q in itertools.combinations(rows, 2)]


def test_the_greedy_set_takes_the_farthest_order_each_time():
    """Slow definition over all orders of five cells."""
    chosen = [tuple(row) for row in permutation_set(5, 12, seed=3).tolist()]
    for n in range(1, len(chosen)):
        scores = {}
        for order in itertools.permutations(range(5)):
            apart = [sum(a != b for a, b in zip(order, other, strict=True)) for other in chosen[:n]]
            scores[order] = (min(apart), sum(apart))
        assert scores[chosen[n]] == max(scores.values())


@pytest.mark.parametrize(("cells", "count", "least"), [(8, 100, 5), (9, 100, 6), (27, 100, 23)])
def test_sets_are_orders_far_apart_and_reproducible(cells, count, least):
    """Random sets of this size come as close as 2, 3 and 20; the best possible for nine cells is 7."""
    orders = permutation_set(cells, count, seed=0)
    assert orders.shape == (count, cells)
    assert torch.equal(orders.sort(1).values, torch.arange(cells).expand(count, -1))
    assert min(distances(orders)) >= least
    assert torch.equal(permutation_set(cells, count, seed=0), orders)
    assert not torch.equal(permutation_set(cells, count, seed=1), orders)


def test_small_sets_may_be_complete_and_no_larger():
    assert len({tuple(row) for row in permutation_set(4, 24, seed=0).tolist()}) == 24
    assert min(distances(permutation_set(4, 12, seed=0))) >= 2
    with pytest.raises(SslMedError, match=r"method\.permutations is 25; 4 cells have 24 orders"):
        permutation_set(4, 25, seed=0)
