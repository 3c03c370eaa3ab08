"""Six properties of every transform, in 2D and 3D: one sweep."""

import inspect

import pytest
import torch

from ssl_med.transforms import corruptions, intensity, spatial

SHAPES = {2: (24, 18), 3: (22, 20, 20)}


def patch(dims):
    return (5, 4, 3)[:dims]


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
    "small_rotation": (
        lambda x, g: spatial.small_rotation(x, g),
        lambda x, g: spatial.small_rotation(x, g, degrees=0),
    ),
    "brightness_contrast": (
        lambda x, g: intensity.brightness_contrast(x, g, p=1),
        lambda x, g: intensity.brightness_contrast(x, g, brightness=0, contrast=0),
    ),
    "gaussian_blur": (lambda x, g: intensity.gaussian_blur(x, g, p=1), lambda x, g: intensity.gaussian_blur(x, g, p=0)),
    "cutout": (lambda x, g: intensity.cutout(x, g), lambda x, g: intensity.cutout(x, g, p=0)),
    "nonlinear": (lambda x, g: corruptions.nonlinear(x, g, p=1), lambda x, g: corruptions.nonlinear(x, g, p=0)),
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
        for module in (spatial, intensity, corruptions)
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


def one_by_one(apply, x, params, **options):
    """Applies to each sample alone with its part of the parameters."""
    return torch.cat(
        [apply(x[i : i + 1], type(params)(*[v[i : i + 1] for v in params]), **options) for i in range(len(x))]
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_a_batch_equals_its_samples_one_by_one(dims):
    x, g, shape = image(dims, 2), gen(3), SHAPES[dims]
    params = spatial.sample_flip_rot(5, shape, g)
    assert torch.equal(one_by_one(spatial.apply_flip_rot, x, params), spatial.apply_flip_rot(x, params))
    curve = corruptions.sample_curve(5, g, p=0.7)
    assert torch.allclose(one_by_one(corruptions.apply_curve, x, curve), corruptions.apply_curve(x, curve), atol=1e-7)
    matrix = spatial.sample_crop(5, dims, g, scale=(0.2, 1), ratio=(0.75, 1.33))
    whole = spatial.apply_affine(x, matrix)
    assert torch.allclose(torch.cat([spatial.apply_affine(x[i : i + 1], matrix[i : i + 1]) for i in range(5)]), whole)
    sigma = torch.tensor([0.0, 0.3, 1.0, 2.0, 0.7])
    whole = intensity.apply_blur(x, sigma, 6)
    single = torch.cat([intensity.apply_blur(x[i : i + 1], sigma[i : i + 1], 6) for i in range(5)])
    assert torch.allclose(single, whole, atol=1e-6)
    painting = corruptions.sample_paint(5, shape, g, p=0.8, inpaint_rate=0.5)
    noise = torch.rand_like(x)
    single = [
        corruptions.apply_paint(x[i : i + 1], corruptions.Paint(*[v[i : i + 1] for v in painting]), noise[i : i + 1])
        for i in range(5)
    ]
    assert torch.equal(torch.cat(single), corruptions.apply_paint(x, painting, noise))
    starts = corruptions.sample_swaps(5, shape, g, swaps=6, patch=patch(dims), disjoint=False)
    single = [corruptions.apply_swaps(x[i : i + 1], starts[i : i + 1], patch(dims)) for i in range(5)]
    assert torch.equal(torch.cat(single), corruptions.apply_swaps(x, starts, patch(dims)))
    shuffle = corruptions.sample_shuffle(5, shape, g, p=0.8, windows=50)
    counts = shuffle.size.prod(-1).sum(1).tolist()
    parts = torch.split(shuffle.keys, counts)
    single = [
        corruptions.apply_shuffle(
            x[i : i + 1],
            corruptions.Shuffle(shuffle.start[i : i + 1], shuffle.size[i : i + 1], parts[i], shuffle.active[i : i + 1]),
        )
        for i in range(5)
    ]
    assert torch.equal(torch.cat(single), corruptions.apply_shuffle(x, shuffle))
