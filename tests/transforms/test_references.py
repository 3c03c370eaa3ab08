"""Every transform against a slow reference written from its definition, and against the published figures."""

import functools
import importlib.machinery
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_med.spec import SslMedError
from ssl_med.transforms import _compiled, _cpu_shuffle, cells, corruptions, intensity, spatial
from ssl_med.transforms._sampling import bit_source

SHAPES = {2: (24, 18), 3: (18, 18, 12)}


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def image(dims, batch=4, channels=2, shape=None):
    return torch.rand(batch, channels, *(shape or SHAPES[dims]), generator=gen(9), dtype=torch.float64)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("square", [True, False])
def test_flip_then_rot90_equals_numpy(dims, square):
    shape = (10, 10, 6)[:dims] if square else (10, 8, 6)[:dims]
    x = image(dims, batch=32, shape=shape)
    y, params = spatial.flip_rot(x, gen(0))
    seen = set()
    for b in range(len(x)):
        expected = x[b].numpy()
        for axis in range(dims):
            if params.flips[b, axis]:
                expected = np.flip(expected, 1 + axis)
        turns = int(params.turns[b])
        seen.add(turns)
        expected = np.rot90(expected, turns, (1, 2))
        assert np.array_equal(y[b].numpy(), expected)
        v = spatial.indicator(params)[b]
        assert v.tolist() == [*params.flips[b].float().tolist(), *[float(turns == k) for k in range(4)]]
    assert seen == ({0, 1, 2, 3} if square else {0, 2})


def linear(image, position):
    """Multilinear interpolation of `image` at `position` in voxels; the border repeats."""
    shape, value = image.shape, 0.0
    position = [min(max(p, 0.0), s - 1) for p, s in zip(position, shape, strict=True)]
    for corner in np.ndindex(*(2,) * len(shape)):
        weight, index = 1.0, []
        for c, p, s in zip(corner, position, shape, strict=True):
            low = min(math.floor(p), s - 2)
            weight *= (p - low) if c else 1 - (p - low)
            index.append(low + c)
        value += weight * float(image[tuple(index)])
    return value


@pytest.mark.parametrize("dims", [2, 3])
def test_crop_equals_interpolation_point_by_point(dims):
    x = image(dims, batch=2)
    shape = SHAPES[dims]
    drawn = spatial.sample_crop(2, dims, gen(1), scale=(0.2, 0.9), ratio=(0.75, 4 / 3))
    crop = spatial.Crop(*(v.double() for v in drawn))
    y = spatial.apply_crop(x, crop)
    rng = np.random.default_rng(0)
    for _ in range(40):
        b, c, point = rng.integers(2), rng.integers(2), [int(rng.integers(s)) for s in shape]
        position = [
            s * (float(crop.corner[b, a]) + float(crop.side[b, a]) * (p + 0.5) / s) - 0.5
            for a, (p, s) in enumerate(zip(point, shape, strict=True))
        ]
        assert float(y[(b, c, *point)]) == pytest.approx(linear(x[b, c].numpy(), position), abs=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_crop_equals_grid_sampling_and_shrinks_without_aliasing(dims):
    x = image(dims)
    crop = spatial.sample_crop(4, dims, gen(1), scale=(0.2, 1.0), ratio=(0.75, 4 / 3))
    theta = torch.zeros(4, dims, dims + 1, dtype=torch.float64)
    for a in range(dims):  # torch names the last axis first
        theta[:, dims - 1 - a, dims - 1 - a] = crop.side[:, a]
        theta[:, dims - 1 - a, -1] = 2 * crop.corner[:, a] + crop.side[:, a] - 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    expected = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    assert torch.allclose(spatial.apply_crop(x, crop), expected, atol=1e-5)
    if dims == 2:
        whole = spatial.Crop(torch.zeros(4, 2), torch.ones(4, 2))
        expected = F.interpolate(x, (7, 9), mode="bilinear", antialias=True)
        assert torch.allclose(spatial.apply_crop(x, whole, size=(7, 9)), expected, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_crop_boxes_lie_inside_and_have_the_share_and_ratio_they_should(dims):
    crop = spatial.sample_crop(4000, dims, gen(2), scale=(0.2, 0.6), ratio=(0.75, 4 / 3))
    assert float(crop.corner.min()) >= 0
    assert float((crop.corner + crop.side).max()) <= 1 + 1e-6
    share = crop.side.prod(1)
    assert float(share.min()) > 0.19
    assert float(share.max()) < 0.61
    assert float(share.mean()) == pytest.approx(0.4, abs=0.01)
    ratio = crop.side.amax(1) / crop.side.amin(1)
    assert 1.3 < float(ratio.max()) < 4 / 3 + 1e-5
    assert float(crop.corner.mean()) == pytest.approx(float((1 - crop.side).mean()) / 2, abs=0.01)


def test_a_lopsided_ratio_is_columns_to_rows():
    side = spatial.sample_crop(1000, 2, gen(3), scale=(0.3, 0.4), ratio=(1.5, 2.0)).side
    ratio = side[:, 1] / side[:, 0]
    assert float(ratio.min()) > 1.5 - 1e-5
    assert float(ratio.max()) < 2 + 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_rotation_equals_interpolation_point_by_point(dims):
    x, angle = image(dims, batch=2), torch.tensor([0.15, -0.1], dtype=torch.float64)
    y, shape = spatial.apply_rotation(x, angle), SHAPES[dims]
    rng = np.random.default_rng(1)
    for _ in range(40):
        b, c, point = rng.integers(2), rng.integers(2), [int(rng.integers(s)) for s in shape]
        offset = [p - (s - 1) / 2 for p, s in zip(point[:2], shape[:2], strict=True)]
        cos, sin = math.cos(angle[b]), math.sin(angle[b])
        back = [cos * offset[0] + sin * offset[1], -sin * offset[0] + cos * offset[1]]
        position = [o + (s - 1) / 2 for o, s in zip(back, shape[:2], strict=True)] + point[2:]
        assert float(y[(b, c, *point)]) == pytest.approx(linear(x[b, c].numpy(), position), abs=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_displacement_equals_interpolation_point_by_point(dims):
    x, shape = image(dims, batch=2), SHAPES[dims]
    shift = torch.randn(2, 2, *shape, generator=gen(2), dtype=torch.float64) * 3
    y = spatial.apply_displacement(x, shift)
    rng = np.random.default_rng(1)
    for _ in range(40):
        b, c, point = rng.integers(2), rng.integers(2), tuple(int(rng.integers(s)) for s in shape)
        position = [p + (float(shift[(b, a, *point)]) if a < 2 else 0.0) for a, p in enumerate(point)]
        assert float(y[(b, c, *point)]) == pytest.approx(linear(x[b, c].numpy(), position), abs=1e-10)


@pytest.mark.parametrize("dims", [2, 3])
def test_elastic_deformation_has_the_stated_magnitude_and_smoothness(dims, monkeypatch):
    seen = []
    monkeypatch.setattr(spatial, "apply_displacement", lambda x, shift: seen.append(shift) or x)
    shape, sigma = ((200, 200), 4.0) if dims == 2 else ((48, 48, 48), 2.0)
    spatial.elastic(torch.zeros(4, 1, *shape), gen(0), magnitude=3.0, sigma=sigma)
    inner = seen[0][(..., *[slice(12, -12)] * dims)]
    assert float(inner.std()) == pytest.approx(3.0, rel=0.1)
    lag = round(2 * sigma)  # noise smoothed by a Gaussian is correlated by exp(-(d / 2 sigma)^2) at distance d
    a, b = inner[..., lag:].flatten(), inner[..., :-lag].flatten()
    assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) == pytest.approx(math.exp(-1), abs=0.1)


def test_one_of_gives_each_sample_to_one_transform():
    x = torch.rand(300, 1, 6, 6, generator=gen(0))
    y = corruptions.one_of(x, gen(1), transforms=[lambda x, g: x + 2, lambda x, g: -x, lambda x, g: x * 0 + 9])
    hits = [(y == z).flatten(1).all(1) for z in (x + 2, -x, torch.full_like(x, 9))]
    assert bool((torch.stack(hits).sum(0) == 1).all())
    assert all(70 < int(h.sum()) < 130 for h in hits)


def test_small_rotation_turns_in_voxel_geometry():
    """A point that lies 6 voxels from the centre stays 6 voxels from it, whatever the sides of the image."""
    x = torch.zeros(1, 1, 41, 31)
    x[0, 0, 20 + 6, 15] = 1
    y = spatial.apply_rotation(x, torch.tensor([math.radians(30)]))[0, 0]
    row, column = (y * torch.arange(41.0)[:, None]).sum() / y.sum(), (y * torch.arange(31.0)).sum() / y.sum()
    assert math.hypot(float(row) - 20, float(column) - 15) == pytest.approx(6, abs=0.1)
    assert math.degrees(math.atan2(float(column) - 15, float(row) - 20)) == pytest.approx(30, abs=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_blur_equals_scipy(dims):
    from scipy.ndimage import gaussian_filter1d

    x = image(dims, batch=2, channels=1)
    y = intensity.apply_blur(x, torch.tensor([0.8, 1.5]), 5)
    for b, sigma in enumerate((0.8, 1.5)):
        expected = x[b, 0].numpy()
        for axis in range(dims):
            expected = gaussian_filter1d(expected, sigma, axis=axis, radius=5, mode="nearest")
        assert np.allclose(y[b, 0], expected, atol=1e-8)


def test_brightness_contrast_equals_the_formula():
    x = image(2)
    y = intensity.apply_brightness_contrast(x, torch.tensor([1.0, 0.7, 1.4, 1.0]), torch.tensor([1.0, 1.0, 0.6, 1.3]))
    for b, (bright, contrast) in enumerate([(1.0, 1.0), (0.7, 1.0), (1.4, 0.6), (1.0, 1.3)]):
        z = x[b] * bright
        expected = ((z - z.mean()) * contrast + z.mean()).clamp(0, 1)
        assert torch.allclose(y[b], expected, atol=1e-6)


def bezier(points, falling, value):
    """Official definition: 100,000 points, both coordinates sorted (only x when the curve falls), then interpolation."""
    t = np.linspace(0, 1, 100_000)
    p = np.array([[0, 0], *points, [1, 1]], dtype=float)
    basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    xs, ys = p[:, 0] @ basis, p[:, 1] @ basis
    xs, ys = np.sort(xs), (ys[::-1] if falling else np.sort(ys))
    return np.interp(value, xs, ys)


@pytest.mark.parametrize("dims", [2, 3])
def test_nonlinear_equals_the_bezier_definition(dims):
    x = image(dims, batch=12)
    curve = intensity.sample_curve(12, gen(4), p=1.0)
    y = intensity.apply_curve(x, curve)
    for b in range(12):
        expected = bezier(curve.points[b].numpy(), bool(curve.falling[b]), x[b].numpy())
        assert np.abs(y[b].numpy() - expected).max() < 2e-3
        assert np.abs(y[b].numpy() - expected).mean() < 1e-5
    assert 2 <= int(curve.falling.sum()) <= 10


def test_nonlinear_is_exact_for_integer_hounsfield_units():
    x = (torch.arange(2001, dtype=torch.float64) / 2000).view(1, 1, 3, 667).expand(20, -1, -1, -1)
    curve = intensity.sample_curve(20, gen(4), p=1.0)
    y = intensity.apply_curve(x, curve)
    for b in range(20):
        expected = bezier(curve.points[b].numpy(), bool(curve.falling[b]), x[b].numpy())
        assert np.abs(y[b].numpy() - expected).max() < 1e-4  # 1,000 instead of 100,000 points on the curve


def test_gamma_and_noise_equal_their_formulas():
    x = image(2)
    exponent = torch.tensor([1.0, 0.5, 2.0, 1.3])
    y = intensity.apply_gamma(x, exponent)
    for b in range(4):
        assert np.allclose(y[b], x[b].numpy() ** float(exponent[b]), atol=1e-7)
    sigma, normal = (
        torch.tensor([0.0, 0.1, 0.2, 5.0], dtype=torch.float64),
        torch.randn(x.shape, generator=gen(1)).double(),
    )
    y = intensity.apply_noise(x, sigma, normal)
    for b in range(4):
        assert np.allclose(y[b], np.clip(x[b].numpy() + float(sigma[b]) * normal[b].numpy(), 0, 1), atol=1e-12)
    noisy = intensity.gaussian_noise(torch.full((8, 1, 64, 64), 0.5), gen(2), sigma=(0.1, 0.1), p=1)
    assert float((noisy - 0.5).std()) == pytest.approx(0.1, abs=0.002)


def test_solarize_inverts_from_the_threshold_upwards():
    x = torch.tensor([0.0, 0.49, 0.5, 0.8, 1.0]).repeat(3, 1).view(3, 1, 1, 5)
    y = intensity.apply_solarize(x, torch.tensor([0.5, 0.9, 2.0]))
    assert torch.allclose(y[0, 0, 0], torch.tensor([0.0, 0.49, 0.5, 0.2, 0.0]))
    assert torch.allclose(y[1, 0, 0], torch.tensor([0.0, 0.49, 0.5, 0.8, 0.0]))
    assert torch.equal(y[2], x[2])
    drawn = intensity.solarize(torch.ones(4000, 1, 1, 1), gen(0), p=0.2)
    assert float(1 - drawn.mean()) == pytest.approx(0.2, abs=0.02)


def sequential_shuffle(x, params, draws):
    """Window after window: each sorts its own keys, reads the original and overwrites what stands there."""
    y = x.clone()
    for b in range(len(x)):
        volumes = params.size[b].prod(1)
        if not int(volumes.sum()):
            continue
        drawn, used, keys = draws(int(volumes.sum())), 0, {}
        for w in sorted(range(len(volumes)), key=lambda w: int(volumes[w])):
            keys[w] = drawn[used : used + int(volumes[w])]
            used += int(volumes[w])
        for w, (start, size) in enumerate(zip(params.start[b].tolist(), params.size[b].tolist(), strict=True)):
            box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
            order = sorted(range(len(keys[w])), key=keys[w].tolist().__getitem__)  # stable
            for c in range(x.shape[1]):
                values = torch.empty_like(x[b, c][box].flatten())
                values[order] = x[b, c][box].flatten()
                y[b, c][box] = values.view(size)
    return y


def few_keys(seed):
    """Keys of which many are equal."""
    draws = bit_source(gen(seed))
    return lambda count: draws(count) & 7


@pytest.fixture(params=["numba", "numpy", "batched"])
def shuffle_form(request, monkeypatch):
    """Each form that local shuffling has: compiled, without numba, as on an accelerator."""
    monkeypatch.setattr(_cpu_shuffle, "_SMALL", 10**9)
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is not installed: its form is not tested")
        assert _compiled.sources()
        monkeypatch.setattr(_cpu_shuffle, "sources", None)
    elif request.param == "numpy":
        monkeypatch.setattr(_compiled, "sources", lambda: None)
    else:
        monkeypatch.setattr(corruptions, "on_cpu", lambda x: False)


@pytest.mark.parametrize("keys", [lambda seed: bit_source(gen(seed)), few_keys], ids=["keys", "equal keys"])
@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 20), (13, 16, 11), (40, 60)])
def test_local_shuffle_is_bit_identical_to_the_sequential_definition(shape, keys, shuffle_form):
    x = image(len(shape), shape=shape)
    params = corruptions.sample_shuffle(4, shape, gen(2), p=0.5, windows=300)
    y = corruptions.apply_shuffle(x, params, keys(5))
    assert torch.equal(y, sequential_shuffle(x, params, keys(5)))
    active = params.size.flatten(1).any(1)
    assert 0 < int(active.sum()) < 4
    assert torch.equal(y[~active], x[~active])
    assert not torch.equal(y[active], x[active])


def test_permutations_of_a_window_are_equally_likely(shuffle_form):
    x = torch.arange(4.0).expand(24_000, 1, 4).reshape(24_000, 1, 2, 2)
    params = corruptions.Shuffle(torch.zeros(24_000, 1, 2).long(), torch.full((24_000, 1, 2), 2))
    y = corruptions.apply_shuffle(x, params, bit_source(gen(0))).flatten(1)
    counts = torch.unique(y, dim=0, return_counts=True)[1].double()
    assert len(counts) == 24
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 23 + 5 * (2 * 23) ** 0.5


def test_a_seed_shuffles_alike_with_and_without_numba(monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed: there is nothing to compare")
    x = torch.rand(3, 2, 64, 64, 32, generator=gen(0))
    with_numba = corruptions.models_genesis(x, gen(1), windows=10_000)
    monkeypatch.setattr(_compiled, "sources", lambda: None)
    assert torch.equal(with_numba, corruptions.models_genesis(x, gen(1), windows=10_000))


def test_without_numba_nothing_is_compiled_or_said(monkeypatch, recwarn):
    monkeypatch.setattr(_compiled.importlib.util, "find_spec", lambda name: None)
    assert _compiled.sources.__wrapped__() is None
    assert not recwarn.list


def test_a_numba_that_fails_is_said_once(monkeypatch):
    broken = types.ModuleType("numba")
    broken.njit = lambda *args, **options: (_ for _ in ()).throw(RuntimeError("no locator\nand more"))
    broken.__spec__ = importlib.machinery.ModuleSpec("numba", None)
    monkeypatch.setitem(sys.modules, "numba", broken)
    fresh = functools.cache(_compiled.sources.__wrapped__)
    monkeypatch.setattr(_compiled, "sources", fresh)
    x = torch.rand(2, 1, 20, 20, generator=gen(0))
    with pytest.warns(UserWarning, match=r"numba cannot compile local shuffling \(no locator\)") as said:
        first, again = (corruptions.local_shuffle(x, gen(1), p=1, windows=50) for _ in range(2))
    assert len(said) == 1
    assert torch.equal(first, again)


def test_shuffle_windows_follow_the_official_ranges():
    params = corruptions.sample_shuffle(8, (64, 64, 32), gen(6), p=1, windows=500)
    assert [(int(params.size[..., a].min()), int(params.size[..., a].max())) for a in range(3)] == [
        (1, 6),
        (1, 6),
        (1, 3),
    ]
    assert int(params.start.min()) == 0
    assert (params.start + params.size).flatten(0, 1).amax(0).tolist() == [64, 64, 32]


@pytest.mark.parametrize(("windows", "share"), [(1000, 0.160), (10_000, 0.786)])
def test_shuffle_changes_the_published_share_of_voxels(windows, share):
    x = torch.rand(2, 1, 64, 64, 32, generator=gen(0))
    changed = (corruptions.local_shuffle(x, gen(1), p=1, windows=windows) != x).float().mean()
    assert float(changed) == pytest.approx(share, abs=0.004)


def test_paint_equals_boxes_drawn_one_by_one():
    x = image(3, batch=40, channels=1, shape=(30, 30, 24))
    params = corruptions.sample_paint(40, (30, 30, 24), gen(7), p=0.8, inpaint_rate=0.5)
    y = corruptions.apply_paint(x, params, torch.zeros)
    noise = torch.zeros_like(x)
    for b in range(40):
        expected = noise[b].clone() if params.outside[b] else x[b].clone()
        for w in range(5):
            if params.size[b, w].any():
                box = tuple(
                    slice(s, s + n)
                    for s, n in zip(params.start[b, w].tolist(), params.size[b, w].tolist(), strict=True)
                )
                expected[0][box] = (x if params.outside[b] else noise)[b, 0][box]
        assert torch.equal(y[b], expected if params.active[b] else x[b])


def test_paint_windows_follow_the_official_ranges_and_figures():
    params = corruptions.sample_paint(4000, (64, 64, 32), gen(8), p=0.9, inpaint_rate=0.2)
    inside = ~params.outside
    drawn = params.size[..., 0] > 0
    sizes, starts = params.size[inside][drawn[inside]], params.start[inside][drawn[inside]]
    assert sizes.amin(0).tolist() == [10, 10, 5]
    assert sizes.amax(0).tolist() == [21, 21, 10]
    assert int(starts.min()) == 3
    assert (starts + sizes).amax(0).tolist() == [61, 61, 29]
    assert float((drawn.sum(1) == 0)[inside].float().mean()) == pytest.approx(0.05, abs=0.03)
    assert bool(drawn[params.outside, 0].all())
    kept = params.size[params.outside][drawn[params.outside]]
    assert kept.amin(0).tolist() == [28, 28, 14]
    assert kept.amax(0).tolist() == [37, 37, 19]
    assert float(inside.float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(params.active.float().mean()) == pytest.approx(0.9, abs=0.02)
    x = torch.full((128, 1, 64, 64, 32), 2.0)
    assert float((corruptions.inpaint(x, gen(1)) != 2).float().mean()) == pytest.approx(0.055, abs=0.004)
    assert float((corruptions.outpaint(x, gen(1)) != 2).float().mean()) == pytest.approx(0.68, abs=0.02)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("disjoint", [False, True])
def test_swapping_is_sequential_on_the_current_image_and_a_permutation(dims, disjoint):
    x = image(dims)
    patch = (5, 4, 3)[:dims]
    starts = corruptions.sample_swaps(4, SHAPES[dims], gen(10), swaps=7, patch=patch, disjoint=disjoint)
    y = corruptions.apply_swaps(x, starts, patch)
    for b in range(4):
        expected = x[b].clone()
        for t in range(starts.shape[1]):
            one, two = (
                (slice(None), *(slice(s, s + n) for s, n in zip(starts[b, t, i].tolist(), patch, strict=True)))
                for i in range(2)
            )
            expected[one], expected[two] = expected[two].clone(), expected[one].clone()
        assert torch.equal(y[b], expected)
    assert torch.equal(x.flatten(2).sort(2).values, y.flatten(2).sort(2).values)
    assert not torch.equal(x, y)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_swapped_patches_never_overlap_and_are_uniform_over_what_is_free(dims):
    shape, patch = (9, 7, 6)[:dims], (2, 2, 2)[:dims]
    starts = corruptions.sample_swaps(4000, shape, gen(11), swaps=200 if dims == 3 else 50, patch=patch, disjoint=False)
    gap = (starts[:, :, 0] - starts[:, :, 1]).abs()
    assert bool((gap >= torch.tensor(patch)).any(-1).all())
    assert bool((starts >= 0).all())
    assert bool((starts + torch.tensor(patch) <= torch.tensor(shape)).all())
    room = [s - p + 1 for s, p in zip(shape, patch, strict=True)]
    corner = (starts[:, :, 0] == 0).all(-1)  # first patch in the corner: count where the second goes
    second = starts[:, :, 1][corner]
    flat = torch.zeros(len(second), dtype=torch.long)
    for axis in range(dims):
        flat = flat * room[axis] + second[:, axis]
    counts = torch.bincount(flat, minlength=math.prod(room)).float()
    free = math.prod(room) - math.prod(patch)
    assert int((counts > 0).sum()) == free
    expected = len(second) / free
    chi2 = float(((counts[counts > 0] - expected) ** 2 / expected).sum())
    assert chi2 < free + 5 * math.sqrt(2 * free)


def test_disjoint_swaps_use_each_cell_once():
    starts = corruptions.sample_swaps(50, (24, 20), gen(12), swaps=6, patch=(5, 4), disjoint=True)
    for b in range(50):
        assert len({tuple(s) for s in starts[b].flatten(0, 1).tolist()}) == 12


def test_cutout_zeroes_boxes_of_the_stated_side():
    y = intensity.cutout(torch.ones(64, 1, 224, 224), gen(0), holes=1)
    assert ((y == 0).flatten(1).sum(1) == 32 * 32).all()


def rotations(side):
    """All that quarter turns of single planes reach from the identity, among those that keep the shape."""
    found, open_ends = {}, [np.arange(math.prod(side)).reshape(side)]
    planes = [(a, b) for a in range(len(side)) for b in range(a + 1, len(side))]
    seen = {}
    while open_ends:
        cell = open_ends.pop()
        key = (cell.shape, cell.tobytes())
        if key in seen:
            continue
        seen[key] = True
        if cell.shape == tuple(side):
            found[tuple(cell.ravel().tolist())] = True
        open_ends += [np.rot90(cell, 1, plane).copy() for plane in planes]
    return set(found)


@pytest.mark.parametrize(
    ("side", "count"), [((3, 3), 4), ((2, 3), 2), ((3, 3, 3), 24), ((3, 3, 2), 8), ((2, 3, 2), 8), ((2, 3, 4), 4)]
)
def test_turns_of_a_cell_are_all_rotations_that_keep_its_shape(side, count):
    rows = cells.turns(side)
    assert rows[0].tolist() == list(range(math.prod(side)))
    assert len(rows) == count
    assert {tuple(row.tolist()) for row in rows} == rotations(side)


@pytest.mark.parametrize(
    ("shape", "side"), [((12, 9), (3, 3)), ((8, 6), (2, 3)), ((8, 4, 4), (2, 2, 2)), ((6, 4, 4), (3, 2, 4))]
)
def test_rearranged_cells_stand_and_turn_as_drawn(shape, side):
    x = image(len(shape), batch=8, shape=shape)
    params = cells.sample_arrangement(8, shape, gen(0), side=side, share=0.6, permute=True, rotate=True)
    y = cells.apply_arrangement(x, params, side)
    corners = list(np.ndindex(*[s // a for s, a in zip(shape, side, strict=True)]))
    turned = cells.turns(side)
    for b in range(8):
        assert sorted(params.order[b].tolist()) == list(range(len(corners)))
        for place, corner in enumerate(corners):
            source = corners[int(params.order[b, place])]
            box, origin = (
                (slice(None), *(slice(k * a, k * a + a) for k, a in zip(at, side, strict=True)))
                for at in (corner, source)
            )
            expected = x[b][origin].flatten(1)[:, turned[params.turn[b, place]]].view(x.shape[1], *side)
            assert torch.equal(y[b][box], expected)
    still = params.order == torch.arange(len(corners))
    moved = round(0.6 * len(corners))
    assert int((~still).sum(1).max()) <= moved
    assert int(((params.turn > 0).sum(1)).max()) <= moved
    assert torch.equal(x.flatten(2).sort(2).values, y.flatten(2).sort(2).values)


def test_cells_are_split_and_joined_row_by_row():
    x = torch.arange(2 * 6 * 4).view(2, 1, 6, 4)
    parts = cells.split_cells(x, (3, 2))
    assert torch.equal(parts[1, 0, 1], x[1, 0, 0:3, 2:4].flatten())
    assert torch.equal(parts[0, 0, 2], x[0, 0, 3:6, 0:2].flatten())
    y = image(3, shape=(6, 4, 8))
    assert torch.equal(cells.join_cells(cells.split_cells(y, (3, 2, 4)), (6, 4, 8), (3, 2, 4)), y)
    chosen = torch.zeros(1, 4, dtype=torch.bool)
    chosen[0, 2] = True
    assert torch.equal(cells.cells_mask(chosen, (6, 4), (3, 2))[0, 0].nonzero().amin(0), torch.tensor([3, 0]))


@pytest.mark.parametrize(("side", "words"), [((5, 2), "do not fill"), ((3,), "do not fill"), ((0, 2), "do not fill")])
def test_cells_that_do_not_fill_the_image_are_refused(side, words):
    with pytest.raises(SslMedError, match=words):
        cells.rearrange(torch.rand(1, 1, 12, 8), gen(0), side=side)


def test_chosen_cells_are_uniform_and_equally_many():
    chosen = cells.sample_cells(4000, 16, gen(1), share=0.75)
    assert chosen.sum(1).tolist() == [12] * 4000
    assert float((chosen.float().mean(0) - 0.75).abs().max()) < 0.03


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_of_the_pool_shuffles_as_its_windows_would(dims):
    shape = (30, 20, 20)[:dims]
    x = image(dims, batch=6, shape=shape)
    maps = corruptions.shuffle_maps(3, shape, gen(2), windows=300)
    assert maps.dtype == torch.int32
    assert torch.equal(maps, corruptions.shuffle_maps(3, shape, gen(2), windows=300))
    g = gen(2)
    for row in maps:  # the same windows, drawn for one image after the other
        params = corruptions.sample_shuffle(1, shape, g, p=1.0, windows=300)
        expected = corruptions.apply_shuffle(x[:1], params, bit_source(g))
        assert torch.equal(x[:1].flatten(2)[:, :, row.long()].view_as(x[:1]), expected)
    y = corruptions.apply_maps(x, maps, torch.tensor([2, -1, 0, 1, -1, 0]))
    for b, row in enumerate((2, -1, 0, 1, -1, 0)):
        expected = x[b].flatten(1)[:, maps[row].long()].view_as(x[b]) if row >= 0 else x[b]
        assert torch.equal(y[b], expected)


def test_pooled_shuffling_uses_all_maps_and_half_of_the_images():
    x = torch.rand(400, 1, 40, 40, generator=gen(0))
    maps = corruptions.shuffle_maps(4, (40, 40), gen(1), windows=200)
    y = corruptions.pooled_shuffle(x, gen(2), maps=maps, p=0.5)
    same = torch.stack(
        [(corruptions.apply_maps(x, maps, torch.full((400,), k)) == y).flatten(1).all(1) for k in range(4)]
    )
    counts = same.sum(1)
    assert int(counts.sum()) == 400 - int((x == y).flatten(1).all(1).sum())
    assert int(counts.min()) > 20
    assert int(counts.max()) < 80


def test_windows_of_small_crops_are_two_voxels_wide():
    params = corruptions.sample_shuffle(2, (16, 19, 20), gen(0), p=1, windows=400)
    assert params.size.flatten(0, 1).amax(0).tolist() == [2, 2, 2]
