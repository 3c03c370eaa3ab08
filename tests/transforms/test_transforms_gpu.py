"""Transforms on a GPU: the same operations where the random numbers are given, and the same law where the GPU draws them.

A GPU's generator gives other numbers than a CPU's of the same seed, so that images cannot be compared one by one. What can: the
mean over many images of statistics of each. Two independent means differ by more than five of their standard errors once in
two million times.
"""

import pytest
import torch
from test_properties import TRANSFORMS, gen, image, maps, patch

from ssl_med.transforms import _batched, _cpu, _sampling, corruptions, intensity, spatial

COUNT = 192
FURTHER = 5.0  # standard errors


def applied(name, x, generator):
    if name == "pooled_shuffle":  # its maps are made once, on a CPU, and move with the method
        return corruptions.pooled_shuffle(x, generator, maps=maps(x, 200).to(x.device), p=1)
    return TRANSFORMS[name][0](x, generator)


def statistics(x, y):
    """(N, 6): of each image its mean, spread, extremes, the change, and the roughness along the last axis."""
    flat = y.flatten(1)
    rough = (y[..., 1:] - y[..., :-1]).abs().flatten(1).mean(1)
    change = (y - x).abs().flatten(1).mean(1)
    return torch.stack([flat.mean(1), flat.std(1), flat.amin(1), flat.amax(1), change, rough], 1).double().cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_has_the_same_law_on_a_gpu(name, dims, device):
    x = image(dims, 2, batch=COUNT)
    there = x.to(device)
    y = applied(name, there, torch.Generator(device).manual_seed(11))
    assert y.device.type == device.type
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    mine, theirs = statistics(x, applied(name, x, gen(7))), statistics(there, y)
    error = ((mine.var(0) + theirs.var(0)) / COUNT).sqrt()
    assert ((mine.mean(0) - theirs.mean(0)).abs() <= FURTHER * error + 1e-4).all()


@pytest.mark.gpu
@pytest.mark.parametrize("dims", [2, 3])
def test_with_given_numbers_a_gpu_does_exactly_the_same(dims, device):
    shape = {2: (40, 40), 3: (30, 30, 24)}[dims]
    x, g = torch.rand(7, 2, *shape, generator=gen(5)), gen(6)
    there = x.to(device)

    def moved(parameters):
        return [value.to(device) for value in parameters]

    turned = spatial.sample_flip_rot(7, shape, g)
    assert torch.equal(_batched.flip_rot(there, *moved(turned)).cpu(), _cpu.flip_rot(x, *turned))
    painting = corruptions.sample_paint(7, shape, g, p=0.8, inpaint_rate=0.5)
    mine = _cpu.paint(x, *painting, noise=torch.zeros)
    theirs = _batched.paint(there, *moved(painting), noise=lambda size: torch.zeros(tuple(size), device=device))
    assert torch.equal(theirs.cpu(), mine)
    boxes = painting.start, painting.size
    assert torch.equal(_batched.fill_boxes(there, *moved(boxes), 0.5).cpu(), _cpu.fill_boxes(x, *boxes, 0.5))
    starts = corruptions.sample_swaps(7, shape, g, swaps=6, patch=patch(dims), disjoint=False)
    assert torch.equal(_batched.swap(there, starts.to(device), patch(dims)).cpu(), _cpu.swap(x, starts, patch(dims)))
    index = torch.randint(0, x[0, 0].numel(), (7, x[0, 0].numel()), generator=g)
    assert torch.equal(_sampling.rearranged(there, index.to(device)).cpu(), _sampling.rearranged(x, index))
    curve = intensity.sample_curve(7, g, p=0.6)
    # the curve is interpolated, and a GPU may multiply and add in one rounding
    torch.testing.assert_close(
        intensity.apply_curve(
            there, curve.to(device) if isinstance(curve, torch.Tensor) else type(curve)(*moved(curve))
        ).cpu(),
        intensity.apply_curve(x, curve),
        rtol=1e-5,
        atol=1e-6,
    )
