"""Images made from features: an encoder that keeps the image gives it back; and the likeness of images."""

import math

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder
from torch import nn

from ssl_med.features.core.image_prior import SkipNetwork, levels_for
from ssl_med.features.inversion import Inversion, InversionConfig, likeness, matched
from ssl_med.spec import SslMedError


class Identity(nn.Module):
    """An encoder whose only level is the image."""

    channels = (1,)

    def forward(self, x):
        return [x]


def smooth_image(*shape):
    axes = torch.meshgrid(*[torch.linspace(0, 3, n) for n in shape], indexing="ij")
    return (0.5 + 0.4 * torch.stack([axis.sin() for axis in axes]).prod(0))[None, None]


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_an_encoder_that_keeps_the_image_gives_it_back(dims):
    config = InversionConfig(iterations=150, widths=(8, 16), kernels=(3, 3), code=8)
    found = Inversion(config).measure(images_of(Identity(), smooth_image(*(12,) * dims)))
    assert found.numbers["loss"] < 0.01
    assert found.numbers["similarity"] > 0.9
    assert len(found.arrays["loss"]) == 150


@pytest.mark.parametrize("dims", [2, 3])
def test_each_image_has_a_search_of_its_own_and_is_kept(dims, tmp_path):
    shape = (12, 9, 8)[:dims]
    x = torch.rand(3, 2, *shape, generator=torch.Generator().manual_seed(0))
    config = InversionConfig(iterations=4, widths=(4, 4, 4), layer=0, pictures=1)
    network = small_encoder(dims, in_channels=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = images_of(network, x, kept_in=tmp_path, size=2)
    found = Inversion(config).measure(images)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert [row["case"] for row in found.rows] == ["case0", "case1", "case2"]
    assert found.arrays["made0"].shape == (2, *shape)
    assert found.arrays["loss"][0] == 1
    assert Inversion(config).passes(images) == 12
    assert Inversion(config).seconds(images) > 0
    (tmp_path / "inversion-1.safetensors").unlink()  # stopped there: the others are not made again, this one the same
    again = Inversion(config).measure(images)
    assert again.rows == found.rows
    pictures, lines = Inversion(config).draw({"a": found, "b": again})
    assert len(pictures.figure.axes) == 3 * (3 if dims == 3 else 1)
    assert len(lines.figure.axes[0].get_lines()) == 2


def test_likeness_is_one_for_the_same_and_falls_with_noise():
    image = smooth_image(32, 32)[0] * 5 - 2  # a range of its own
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    values = [likeness(image + scale * noise, image) for scale in (0, 0.1, 0.5)]
    assert values[0] == pytest.approx(1)
    assert values[0] > values[1] > values[2]
    assert likeness(matched(3 * image + 2, image), image) == pytest.approx(1, abs=1e-6)
    assert matched(-image, image).flatten().tolist() == pytest.approx([float(image.mean())] * image.numel(), abs=1e-4)
    assert likeness(smooth_image(16, 16, 6)[0], smooth_image(16, 16, 6)[0]) == pytest.approx(1)


def test_likeness_is_that_of_the_equation():
    """One scale, a window of 9 x 9 around every pixel, beyond the border mirrored."""
    rng = np.random.default_rng(0)
    x, noise = rng.random((2, 9, 10))
    y = 0.6 * x + 0.4 * noise
    y = (y - y.min()) / (y.max() - y.min())
    weight = np.exp(-0.5 * (np.arange(-4, 5) / (4 / 3.5)) ** 2)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    values = []
    padded = [np.pad(one, 4, mode="reflect") for one in (x, y)]
    for row, column in np.ndindex(9, 10):
        u, v = (one[row : row + 9, column : column + 9] for one in padded)
        mu, nu = (weight * u).sum(), (weight * v).sum()
        su, sv, suv = (weight * u * u).sum() - mu**2, (weight * v * v).sum() - nu**2, (weight * u * v).sum() - mu * nu
        values.append((2 * mu * nu + 1e-4) * (2 * suv + 9e-4) / ((mu**2 + nu**2 + 1e-4) * (su + sv + 9e-4)))
    found = likeness(torch.from_numpy(x)[None].float(), torch.from_numpy(y)[None].float())
    assert found == pytest.approx(np.mean(values), abs=1e-5)


@pytest.mark.parametrize(("shape", "levels"), [((64, 64), 5), ((224, 224), 6), ((32, 32, 16), 3), ((4, 8), 1)])
def test_the_prior_has_as_many_levels_as_the_image_allows(shape, levels):
    assert levels_for(shape, 6) == levels
    network = SkipNetwork(len(shape), code=2, out_channels=3, widths=[2] * levels, kernels=[3] * levels)
    sides = [math.ceil(side / 2**levels) * 2**levels for side in shape]
    assert network(torch.rand(1, 2, *sides)).shape == (1, 3, *sides)


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(SslMedError, match=r"features\.kernels is \[4\]; each must be odd"):
        InversionConfig(kernels=(4,))
    with pytest.raises(SslMedError, match="have different lengths"):
        InversionConfig(kernels=(3,), widths=(4, 4))
    with pytest.raises(SslMedError, match=r"features\.layer is 3; the network has 2 levels"):
        Inversion(InversionConfig(layer=3)).measure(images_of(small_encoder(), torch.rand(1, 1, 16, 16)))
