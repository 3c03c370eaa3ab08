"""Colour transforms against PIL, whose values are rounded to 256 levels, and against Python's colorsys."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ssl_med.methods.core.pair import ViewConfig, random_view
from ssl_med.spec import SslMedError
from ssl_med.transforms import colour


@pytest.fixture(scope="module")
def levels():
    """(4, 3, 12, 10) of 256 levels: smooth, noisy, grey, and of two levels only."""
    rng = np.random.default_rng(0)
    ramp = np.stack(
        np.broadcast_arrays(*np.meshgrid(np.linspace(0, 255, 12), np.linspace(255, 0, 10), indexing="ij"), 90.0)
    )
    noise, grey = rng.integers(0, 256, (3, 12, 10)), np.repeat(rng.integers(0, 256, (1, 12, 10)), 3, 0)
    two = np.where(rng.random((3, 12, 10)) < 0.3, 40, 200)
    return torch.from_numpy(np.stack([ramp.round(), noise, grey, two])).float()


def by_pil(levels, change):
    images = [Image.fromarray(one.permute(1, 2, 0).byte().numpy(), "RGB") for one in levels]
    return torch.stack([torch.from_numpy(np.array(change(image))).permute(2, 0, 1).float() for image in images])


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.9])
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (colour.apply_saturation, ImageEnhance.Color),
        (colour.apply_contrast, ImageEnhance.Contrast),
        (colour.apply_sharpness, ImageEnhance.Sharpness),
    ],
)
def test_blends_are_pils_up_to_rounding(levels, factor, mine, theirs):
    found = 255 * mine(levels / 255, torch.full((4,), factor))
    wanted = by_pil(levels, lambda image: theirs(image).enhance(factor))
    # PIL rounds the grey or smooth image first, and cuts the blend off
    assert (found - wanted).abs().max() <= 1 + abs(factor - 1) * 0.51


def test_greyscale_and_equalize_are_pils(levels):
    every = torch.ones(4, dtype=torch.bool)
    found = 255 * colour.apply_greyscale(levels / 255, every)
    assert (found - by_pil(levels, lambda image: image.convert("L").convert("RGB"))).abs().max() <= 0.51
    found = 255 * colour.apply_equalize(levels / 255, every)
    assert torch.equal(found.round(), by_pil(levels, ImageOps.equalize))


def test_equalize_of_many_pixels_is_pils():
    """With fewer than 256 pixels that are not of the highest level nothing changes; here something does."""
    x = torch.from_numpy(np.random.default_rng(1).beta(2, 5, (2, 3, 64, 48)) * 255).round().float()
    found = 255 * colour.apply_equalize(x / 255, torch.tensor([True, False]))
    assert torch.equal(found[0].round(), by_pil(x[:1], ImageOps.equalize)[0])
    assert (found[0] - x[0]).abs().max() > 10
    assert torch.equal(found[1].round(), x[1])


@pytest.mark.parametrize("shift", [0.0, 0.25, -0.4, 0.5])
def test_hue_turns_the_circle_as_colorsys_does(levels, shift):
    x = levels / 255
    found = colour.apply_hue(x, torch.full((4,), shift))
    for sample, mine in zip(x, found, strict=True):
        for row, column in [(0, 0), (3, 7), (11, 9), (5, 2)]:
            h, s, v = colorsys.rgb_to_hsv(*sample[:, row, column].tolist())
            wanted = colorsys.hsv_to_rgb((h + shift) % 1, s, v)
            torch.testing.assert_close(mine[:, row, column], torch.tensor(wanted), atol=2e-6, rtol=0)


def test_no_strength_changes_nothing_and_a_batch_is_its_samples(levels):
    x = levels / 255
    generator = torch.Generator().manual_seed(0)
    same = colour.colour_jitter(x, generator, brightness=0, contrast=0, saturation=0, hue=0, p=1)
    assert torch.equal(same, x)
    assert torch.equal(colour.colour_jitter(x, generator, p=0), x)
    before = x.clone()
    changed = colour.colour_jitter(x, torch.Generator().manual_seed(3), p=1)
    assert torch.equal(x, before)
    assert (changed - x).abs().amax((1, 2, 3)).min() > 0
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.equal(changed, colour.colour_jitter(x, torch.Generator().manual_seed(3), p=1))
    one_by_one = [colour.apply_hue(x[k : k + 1], torch.tensor([0.1 * k])) for k in range(4)]
    torch.testing.assert_close(torch.cat(one_by_one), colour.apply_hue(x, 0.1 * torch.arange(4)))
    volume = x[..., None].expand(-1, -1, -1, -1, 3)
    torch.testing.assert_close(
        colour.apply_hue(volume, torch.full((4,), 0.3))[..., 1], colour.apply_hue(x, torch.full((4,), 0.3))
    )


def test_other_channels_are_refused():
    with pytest.raises(SslMedError, match="these have 4 channels; set them to 0"):
        colour.check_colour(torch.zeros(1, 4, 2, 2))


def test_views_of_coloured_images_lose_their_colour_where_asked(levels):
    x = (levels / 255).repeat(4, 1, 2, 2)
    still = {"crop_scale": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "blur": 0.0}
    grey = random_view(x, torch.Generator().manual_seed(0), ViewConfig(**still, greyscale=1.0))
    plain = random_view(x, torch.Generator().manual_seed(0), ViewConfig(**still))  # the crop has another shape
    torch.testing.assert_close(grey, colour.luminance(plain).expand_as(x), atol=1e-5, rtol=0)
    some = random_view(x, torch.Generator().manual_seed(0), ViewConfig(**still, greyscale=0.5))
    changed = (some[:, 0] - some[:, 2]).abs().amax((1, 2)) > 0.01
    assert 0 < changed.sum() < ((plain[:, 0] - plain[:, 2]).abs().amax((1, 2)) > 0.01).sum()
    flat = random_view(x, torch.Generator().manual_seed(0), ViewConfig(**still, equalize=1.0))
    torch.testing.assert_close(flat, colour.apply_equalize(plain, torch.ones(len(x), dtype=torch.bool)))
    turned = random_view(x, torch.Generator().manual_seed(0), ViewConfig(**{**still, "jitter": 1.0}, hue=0.5))
    assert (turned - plain).abs().amax() > 0.1
    with pytest.raises(SslMedError, match="these have 1 channels"):
        random_view(x[:, :1], torch.Generator(), ViewConfig(hue=0.1))
