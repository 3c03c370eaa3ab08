"""Occlusion maps against a loop over pixels, and diffusion of maps that are known by construction."""

import itertools
import math

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.features.saliency import Saliency, SaliencyConfig, covered_value, diffusion, occlusion_map
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError


def slow_map(features_of, image, box, fill):
    """As the paper says it: every pixel sums the change of each box that covers it; pixels that all boxes reach are kept."""
    shape = image.shape[1:]
    total = np.zeros(shape)
    whole = features_of(image[None])[0]
    for corner in itertools.product(*(range(side - b + 1) for side, b in zip(shape, box, strict=True))):
        where = tuple(slice(c, c + b) for c, b in zip(corner, box, strict=True))
        covered = image.clone()
        for channel, value in enumerate(fill):
            covered[(channel, *where)] = value
        total[where] += float((features_of(covered[None])[0] - whole).norm() / whole.norm())
    inner = tuple(slice(b - 1, side - b + 1) for side, b in zip(shape, box, strict=True))
    return total[inner] / math.prod(box)


@pytest.mark.parametrize(("shape", "box"), [((14, 12), (4, 3)), ((8, 8, 8), (3, 2, 2))])
def test_the_map_is_that_of_the_loop(shape, box):
    network = small_encoder(len(shape), in_channels=2)
    image = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    images = images_of(network, image[None])
    fill = torch.tensor([0.2, 0.7])
    ones = [1] * len(shape)
    found = occlusion_map(images.pooled, image, box=box, stride=ones, fill=fill, chunk=7)
    np.testing.assert_allclose(found, slow_map(images.pooled, image, box, fill), rtol=0, atol=1e-6)


def test_a_larger_step_interpolates_and_is_exact_where_the_change_is_linear():
    image = torch.linspace(0, 1, 20).expand(1, 16, 20)

    def means(x):
        return x.mean((2, 3)) + 1  # covering by 0 takes away what the box held: linear in its position

    ones, steps = (
        occlusion_map(means, image, box=(3, 3), stride=(step, step), fill=torch.zeros(1), chunk=64) for step in (1, 4)
    )
    torch.testing.assert_close(ones, steps, rtol=0, atol=1e-6)
    assert (ones[:, 1:] > ones[:, :-1]).all()


@pytest.mark.parametrize(("values", "share"), [([0, 0, 0, 1], 0.25), ([1, 1, 1, 0], 0.75), ([2, 2, 2, 2], 0)])
def test_diffusion_is_the_share_above_the_mean(values, share):
    assert diffusion(np.array(values, dtype=np.float32).reshape(2, 2)) == share


def test_the_box_shows_the_mean_that_the_weights_subtract():
    config = backbone_config("unet", channels=(4, 4, 8), input_mean=[0.4, 0.5, 0.6], input_std=[0.2, 0.2, 0.2])
    assert covered_value(build_backbone(config, spatial_dims=2, in_channels=3), 3).tolist() == pytest.approx(
        [0.4, 0.5, 0.6]
    )
    assert covered_value(small_encoder(), 1).tolist() == [0.0]


@pytest.mark.parametrize("dims", [2, 3])
def test_images_go_through_and_what_is_finished_is_kept(dims, tmp_path):
    x = torch.rand(3, 1, *(16,) * dims, generator=torch.Generator().manual_seed(0))
    config = SaliencyConfig(box=(3,), stride=(4,) if dims == 3 else (), pictures=2)
    images = images_of(small_encoder(dims), x, kept_in=tmp_path, size=2)
    found = Saliency(config).measure(images)
    assert [row["case"] for row in found.rows] == ["case0", "case1", "case2"]
    assert found.numbers["diffusion"] == pytest.approx(
        np.mean([diffusion(found.arrays["map0"])] + [row["diffusion"] for row in found.rows[1:]])
    )
    assert any("approximate" in note for note in found.notes) == (dims == 3)
    places = 14**2 if dims == 2 else 5**3
    assert Saliency(config).passes(images) == 3 * (places + 1)
    next(images.backbone.parameters()).data.zero_()  # not asked again
    again = Saliency(config).measure(images)
    assert again.numbers == found.numbers
    (drawing,) = Saliency(config).draw({"a": found, "b": again})
    assert len(drawing.figure.axes) == 2 * 3 * (3 if dims == 3 else 1)


def test_a_family_of_the_paper_brings_its_numbers():
    images = images_of(small_encoder(), torch.rand(1, 1, 16, 16))
    images.spec = type(images.spec)("chest14", 2, 1, (16, 16))
    notes = Saliency(SaliencyConfig(box=(2,))).measure(images).notes
    assert any("Table A7" in note and "MoCo-CXR 0.36" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"box": (9,)}, r"features\.box is 9 along row, and images have 16 .* take at most 8"),
        ({"box": (3, 3, 3)}, r"features\.box has 3 numbers and images 2 axes"),
    ],
)
def test_boxes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SslMedError, match=message):
        Saliency(SaliencyConfig(**settings)).measure(images_of(small_encoder(), torch.rand(1, 1, 16, 16)))
