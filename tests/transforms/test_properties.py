"""Six properties of every transform, in 2D and 3D: one sweep."""

import inspect

import pytest
import torch

from ssl_med.spec import SslMedError
from ssl_med.transforms import (
    _batched,
    _compiled,
    _cpu,
    _cpu_shuffle,
    _sampling,
    cells,
    corruptions,
    intensity,
    spatial,
)

SHAPES = {2: (24, 18), 3: (22, 20, 20)}


def patch(dims):
    return (5, 4, 3)[:dims]


def maps(x, windows):
    return corruptions.shuffle_maps(3, x.shape[2:], gen(0), windows=windows)


# name -> (full strength, no strength); both (x, generator) -> Tensor
TRANSFORMS = {
    "flip": (lambda x, g: spatial.flip(x, g), lambda x, g: spatial.flip(x, g, p=0)),
    "flip_rot": (
        lambda x, g: spatial.flip_rot(x, g)[0],
        lambda x, g: spatial.flip_rot(x, g, flips=False, rotations=False)[0],
    ),
    "random_resized_crop": (
        lambda x, g: spatial.random_resized_crop(x, g),
        lambda x, g: spatial.random_resized_crop(x, g, scale=(1, 1), ratio=(1, 1)),
    ),
    "rot90": (lambda x, g: spatial.rot90(x, g), lambda x, g: spatial.rot90(x, g, p=0)),
    "small_rotation": (
        lambda x, g: spatial.small_rotation(x, g),
        lambda x, g: spatial.small_rotation(x, g, degrees=0),
    ),
    "brightness_contrast": (
        lambda x, g: intensity.brightness_contrast(x, g, p=1),
        lambda x, g: intensity.brightness_contrast(x, g, brightness=0, contrast=0),
    ),
    "gamma": (lambda x, g: intensity.gamma(x, g, p=1), lambda x, g: intensity.gamma(x, g, p=0)),
    "solarize": (lambda x, g: intensity.solarize(x, g, p=0.6), lambda x, g: intensity.solarize(x, g, p=0)),
    "gaussian_noise": (
        lambda x, g: intensity.gaussian_noise(x, g, p=1),
        lambda x, g: intensity.gaussian_noise(x, g, sigma=(0, 0), p=1),
    ),
    "gaussian_blur": (lambda x, g: intensity.gaussian_blur(x, g, p=1), lambda x, g: intensity.gaussian_blur(x, g, p=0)),
    "cutout": (lambda x, g: intensity.cutout(x, g), lambda x, g: intensity.cutout(x, g, p=0)),
    "nonlinear": (lambda x, g: intensity.nonlinear(x, g, p=1), lambda x, g: intensity.nonlinear(x, g, p=0)),
    "local_shuffle": (
        lambda x, g: corruptions.local_shuffle(x, g, p=1, windows=200),
        lambda x, g: corruptions.local_shuffle(x, g, p=1, windows=0),
    ),
    "inpaint": (lambda x, g: corruptions.inpaint(x, g), lambda x, g: corruptions.inpaint(x, g, p=0)),
    "outpaint": (lambda x, g: corruptions.outpaint(x, g), lambda x, g: corruptions.outpaint(x, g, p=0)),
    "paint": (lambda x, g: corruptions.paint(x, g, p=1), lambda x, g: corruptions.paint(x, g, p=0)),
    "models_genesis": (
        lambda x, g: corruptions.models_genesis(x, g),
        lambda x, g: corruptions.models_genesis(x, g, shuffle=0, nonlinear=0, paint=0),
    ),
    "pooled_shuffle": (
        lambda x, g: corruptions.pooled_shuffle(x, g, maps=maps(x, 200), p=1),
        lambda x, g: corruptions.pooled_shuffle(x, g, maps=maps(x, 200), p=0),
    ),
    "rearrange": (
        lambda x, g: cells.rearrange(x, g, side=(2, 2, 2)[: x.ndim - 2], rotate=True),
        lambda x, g: cells.rearrange(x, g, side=(2, 2, 2)[: x.ndim - 2], share=0, rotate=True),
    ),
    "hide_cells": (
        lambda x, g: cells.hide_cells(x, g, side=(2, 2, 2)[: x.ndim - 2]),
        lambda x, g: cells.hide_cells(x, g, side=(2, 2, 2)[: x.ndim - 2], share=0),
    ),
    "one_of": (
        lambda x, g: corruptions.one_of(x, g, transforms=[corruptions.outpaint, intensity.gaussian_noise]),
        lambda x, g: corruptions.one_of(x, g, transforms=[lambda x, g: x]),
    ),
    "elastic": (lambda x, g: spatial.elastic(x, g, magnitude=2), lambda x, g: spatial.elastic(x, g, magnitude=0)),
    "swap_patches": (
        lambda x, g: corruptions.swap_patches(x, g, patch=patch(x.ndim - 2)),
        lambda x, g: corruptions.swap_patches(x, g, swaps=0, patch=patch(x.ndim - 2)),
    ),
}
SWEEP = pytest.mark.parametrize(
    ("name", "dims", "channels"), [(n, d, c) for n in TRANSFORMS for d in (2, 3) for c in (1, 3)]
)


def image(dims, channels, batch=5, seed=0):
    return torch.rand(batch, channels, *SHAPES[dims], generator=torch.Generator().manual_seed(seed))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_public_transform_is_swept():
    public = {
        name
        for module in (spatial, intensity, corruptions, cells)
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and list(inspect.signature(f).parameters)[:2] == ["x", "generator"]
    }
    assert public == set(TRANSFORMS)


@SWEEP
def test_shape_type_range_replay_and_purity(name, dims, channels):
    x = image(dims, channels)
    before = x.clone()
    transform = TRANSFORMS[name][0]
    y = transform(x, gen(1))
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.isfinite(y).all()
    assert float(y.min()) >= -1e-6
    assert float(y.max()) <= 1 + 1e-6
    assert torch.equal(x, before), "the input was changed"
    assert y.data_ptr() != x.data_ptr()
    assert torch.equal(transform(x, gen(1)), y), "the same seed must replay"
    assert not torch.equal(transform(x, gen(2)), y)
    assert not torch.equal(y, x)


@SWEEP
def test_no_strength_is_the_identity(name, dims, channels):
    x = image(dims, channels)
    assert torch.allclose(TRANSFORMS[name][1](x, gen(1)), x, atol=1e-5)


def test_other_float_types_keep_their_type():
    for dtype in (torch.float64, torch.bfloat16):
        x = image(3, 2).to(dtype)
        for transform in (corruptions.models_genesis, spatial.flip, intensity.gaussian_blur, intensity.cutout):
            assert transform(x, gen(1)).dtype == dtype


def one_by_one(apply, x, *params):
    """Applies to each sample alone with its part of the parameters."""
    return torch.cat([apply(x[i : i + 1], *(v[i : i + 1] for v in params)) for i in range(len(x))])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_equals_its_samples_one_by_one(dims):
    x, g, shape = image(dims, 2), gen(3), SHAPES[dims]
    params = spatial.sample_flip_rot(5, shape, g)
    single = one_by_one(lambda x, *p: spatial.apply_flip_rot(x, spatial.FlipRot(*p)), x, *params)
    assert torch.equal(single, spatial.apply_flip_rot(x, params))
    curve = intensity.sample_curve(5, g, p=0.7)
    single = one_by_one(lambda x, *p: intensity.apply_curve(x, intensity.Curve(*p)), x, *curve)
    assert torch.allclose(single, intensity.apply_curve(x, curve), atol=1e-7)
    crop = spatial.sample_crop(5, dims, g, scale=(0.2, 1), ratio=(0.75, 1.33))
    single = one_by_one(lambda x, *p: spatial.apply_crop(x, spatial.Crop(*p)), x, *crop)
    assert torch.allclose(single, spatial.apply_crop(x, crop), atol=1e-6)
    angle = torch.tensor([0.1, -0.2, 0.0, 0.05, 0.15])
    single = one_by_one(spatial.apply_rotation, x, angle)
    assert torch.allclose(single, spatial.apply_rotation(x, angle), atol=1e-6)
    shift = torch.randn(5, 2, *shape, generator=g)
    single = one_by_one(spatial.apply_displacement, x, shift)
    assert torch.allclose(single, spatial.apply_displacement(x, shift), atol=1e-6)
    sigma = torch.tensor([0.0, 0.3, 1.0, 2.0, 0.7])
    single = one_by_one(lambda x, s: intensity.apply_blur(x, s, 6), x, sigma)
    assert torch.allclose(single, intensity.apply_blur(x, sigma, 6), atol=1e-6)
    painting = corruptions.sample_paint(5, shape, g, p=0.8, inpaint_rate=0.5)
    single = one_by_one(lambda x, *p: corruptions.apply_paint(x, corruptions.Paint(*p), torch.zeros), x, *painting)
    assert torch.equal(single, corruptions.apply_paint(x, painting, torch.zeros))
    starts = corruptions.sample_swaps(5, shape, g, swaps=6, patch=patch(dims), disjoint=False)
    single = one_by_one(lambda x, s: corruptions.apply_swaps(x, s, patch(dims)), x, starts)
    assert torch.equal(single, corruptions.apply_swaps(x, starts, patch(dims)))
    side = (2, 2, 2)[:dims]
    arrangement = cells.sample_arrangement(5, shape, g, side=side, share=0.7, permute=True, rotate=True)
    single = one_by_one(lambda x, *p: cells.apply_arrangement(x, cells.Arrangement(*p), side), x, *arrangement)
    assert torch.equal(single, cells.apply_arrangement(x, arrangement, side))
    shuffle = corruptions.sample_shuffle(5, shape, g, p=0.8, windows=50)
    keys = _sampling.bit_source(gen(4))  # one source: each sample takes its keys in turn
    single = one_by_one(lambda x, *p: corruptions.apply_shuffle(x, corruptions.Shuffle(*p), keys), x, *shuffle)
    assert torch.equal(single, corruptions.apply_shuffle(x, shuffle, _sampling.bit_source(gen(4))))


@pytest.mark.parametrize("dims", [2, 3])
def test_accelerator_and_cpu_forms_are_bit_identical(dims, monkeypatch):
    shape = {2: (40, 40), 3: (30, 30, 24)}[dims]
    x, g = torch.rand(7, 2, *shape, generator=gen(5)), gen(6)
    turned = spatial.sample_flip_rot(7, shape, g)
    assert torch.equal(_batched.flip_rot(x, *turned), _cpu.flip_rot(x, *turned))
    painting = corruptions.sample_paint(7, shape, g, p=0.8, inpaint_rate=0.5)
    assert torch.equal(_batched.paint(x, *painting, noise=torch.zeros), _cpu.paint(x, *painting, noise=torch.zeros))
    boxes = painting.start, painting.size
    assert torch.equal(_batched.fill_boxes(x, *boxes, 0.5), _cpu.fill_boxes(x, *boxes, 0.5))
    starts = corruptions.sample_swaps(7, shape, g, swaps=6, patch=patch(dims), disjoint=False)
    assert torch.equal(_batched.swap(x, starts, patch(dims)), _cpu.swap(x, starts, patch(dims)))
    index = torch.randint(0, x[0, 0].numel(), (7, x[0, 0].numel()), generator=g)
    taken = _sampling.rearranged(x, index)
    monkeypatch.setattr(_sampling, "on_cpu", lambda x: False)
    assert torch.equal(taken, _sampling.rearranged(x, index))
    monkeypatch.undo()
    curve, chosen = intensity.sample_curve(7, g, p=0.6), torch.tensor([3, -1, 0, 6, -1, 2, 3])
    mapped = intensity.apply_curve(x, curve), corruptions.apply_maps(x, index.int(), chosen)
    for module in (intensity, corruptions, _sampling):
        monkeypatch.setattr(module, "on_cpu", lambda x: False)
    assert torch.equal(mapped[0], intensity.apply_curve(x, curve))
    assert torch.equal(mapped[1], corruptions.apply_maps(x, index.int(), chosen))
    monkeypatch.undo()
    for p, windows in ((0.6, 700), (0.0, 5), (1.0, 1)):
        shuffle = corruptions.sample_shuffle(7, shape, g, p=p, windows=windows)
        expected = _batched.shuffle(x, *shuffle, keys=_sampling.bit_source(gen(8)))
        for compiled in (_compiled.sources, lambda: None):
            monkeypatch.setattr(_compiled, "sources", compiled)
            assert torch.equal(expected, _cpu_shuffle.shuffle(x, *shuffle, keys=_sampling.bit_source(gen(8))))
            for name in ("_WRITES", "_PART"):  # many pieces, windows of one volume apart
                monkeypatch.setattr(_cpu_shuffle, name, 300)
            assert torch.equal(expected, _cpu_shuffle.shuffle(x, *shuffle, keys=_sampling.bit_source(gen(8))))
            monkeypatch.undo()


def test_noise_is_uniform_and_replays():
    x = torch.zeros(1)
    first, again = (_sampling.noise_source(gen(3), x)((401, 251)) for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.min()) >= 0
    assert float(first.max()) < 1
    assert float(first.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(first.var()) == pytest.approx(1 / 12, abs=0.002)
    counts = torch.histc(first, 64)
    assert float(((counts - counts.mean()) ** 2 / counts.mean()).sum()) < 63 + 5 * (2 * 63) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([first.flatten()[1:], first.flatten()[:-1]]))[0, 1])) < 0.02


@pytest.mark.parametrize(
    ("patch", "words"), [((4,), "does not fit"), ((30, 4), "does not fit"), ((12, 9), "is too large")]
)
def test_a_patch_that_cannot_be_swapped_is_refused(patch, words):
    with pytest.raises(SslMedError, match=words) as error:
        corruptions.swap_patches(image(2, 1), gen(0), patch=patch)
    assert "\n" not in str(error.value)
