"""Augmentations in the form of MONAI: right values against slow references, the law of their draws, plain MONAI."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandGaussianSmooth
from scipy import ndimage

from datamodules.core.crops import around, cut
from ssl_med.spec import SslMedError
from ssl_med.transforms.monai import RandFlipAxesd
from ssl_med.transforms.samples.augment import RandChannelsd, RandDeviationNoised
from ssl_med.transforms.samples.resampled import RandCropRotated, RandRotateScaled, Resampled, rotation

BOTH = ["image", "mask"]


def drawn(transform, size, count, seed=0):
    """Maps of `count` draws, None where nothing was changed."""
    transform.set_random_state(seed)
    return [transform.draw(size) for _ in range(count)]


@pytest.mark.parametrize("shape", [(20, 24), (14, 18, 16)])
@pytest.mark.parametrize("make", [RandRotateScaled, RandCropRotated])
def test_a_window_of_a_scan_gives_what_the_whole_scan_gives(shape, make):
    """Crop, rotation and scale equal one linear interpolation of the whole scan in float64 with its border repeated."""
    options = {"rotate_deg": 30, "prob_rotate": 1, "prob_scale": 1} if make is RandRotateScaled else {"rotate_deg": 20}
    transform = make(BOTH, **options).set_random_state(3)
    rng = np.random.default_rng(0)
    image, mask = rng.random((2, *shape), np.float32), (rng.random((1, *shape)) < 0.5).astype(np.float32)
    patch = tuple(n // 2 - k for k, n in enumerate(shape))  # even and odd sides
    for start in (np.array([n // 4 for n in shape]), np.zeros(len(shape), int)):
        window = around(start, patch, transform.window(patch), shape)
        matrix, shift = transform._map
        transform.middle = window.middle
        seen = {"image": cut(image, window.start, window.size), "mask": cut(mask, window.start, window.size)}
        kept = seen["image"].copy()
        found = transform(seen)
        assert (seen["image"] == kept).all()
        centre = start + (np.array(patch) - 1) / 2
        offset = centre + shift - matrix @ ((np.array(patch) - 1) / 2)
        wanted = [
            ndimage.affine_transform(x.astype(np.float64), matrix, offset, output_shape=patch, order=1, mode="nearest")
            for x in (*image, *mask)
        ]
        assert found["image"].shape == (2, *patch)
        np.testing.assert_allclose(found["image"].numpy(), np.stack(wanted[:2]), atol=2e-5)
        sure = np.abs(wanted[2] - 0.5) > 1e-4
        assert (found["mask"].numpy()[0] == (wanted[2] >= 0.5))[sure].all()


def test_the_affine_follows_the_voxels():
    """The world position of a voxel of the result is where its value comes from."""
    ramp = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (9, 11, 7)], indexing="ij"))
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    for transform in (RandRotateScaled(["image"], 10, 1, (0.5, 0.6), 1), RandFlipAxesd(["image"], axes=[0, 2], p=1.0)):
        found = transform.set_random_state(1)({"image": MetaTensor(ramp, affine=affine)})["image"]
        assert isinstance(found, MetaTensor)
        index = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
        came_from = torch.as_tensor(found.as_tensor()[:, 4, 3, 2]).double() * torch.tensor([2.0, 3.0, 4.0])
        torch.testing.assert_close((found.affine @ index)[:3], came_from, atol=1e-3, rtol=0)


def test_rotations_turn_about_each_axis_and_in_a_plane():
    matrix = rotation([0.1, 0.2, 0.3], None)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    quarter = rotation([math.pi / 2], (0, 2))
    np.testing.assert_allclose(quarter @ [1, 5, 0], [0, 5, 1], atol=1e-12)
    np.testing.assert_allclose(rotation([math.pi / 2], None) @ [1, 0], [0, 1], atol=1e-12)


def angle_of(matrix):
    return math.degrees(math.acos(np.clip((np.trace(matrix / np.cbrt(np.linalg.det(matrix))) - 1) / 2, -1, 1)))


def test_law_of_rotation_and_scale():
    """Chances .2 and .2, independent; angles up to 30 degrees about each axis; one factor for all axes in [.7, 1.4]."""
    maps = drawn(RandRotateScaled(BOTH, rotate_deg=30, in_plane=False), (32, 32, 32), 4000)
    changed = [one[0] for one in maps if one is not None]
    assert len(changed) / 4000 == pytest.approx(1 - 0.8**2, abs=0.03)
    factors = np.array([np.cbrt(np.linalg.det(matrix)) for matrix in changed])
    assert np.mean(np.abs(factors - 1) > 1e-9) == pytest.approx(0.2 / 0.36, abs=0.05)
    scaled = factors[np.abs(factors - 1) > 1e-9]
    assert 0.7 <= scaled.min() < 0.72
    assert 1.38 < scaled.max() <= 1.4
    assert scaled.mean() == pytest.approx(1.05, abs=0.03)
    turned = np.array([angle_of(m) for m in changed])
    assert turned.max() < 53  # three turns of 30 degrees
    assert np.median(turned[turned > 1e-3]) == pytest.approx(28, abs=3)


@pytest.mark.parametrize(
    ("size", "plane", "largest"),
    [
        ((32, 32, 8), (0, 1), 180),
        ((8, 40, 24), (1, 2), 15),
        ((32, 32, 16), None, 30),
        ((40, 40), None, 180),
        ((40, 20), None, 15),
    ],
)
def test_auto_follows_the_shape_of_the_crop(size, plane, largest):
    maps = [one[0] for one in drawn(RandRotateScaled(BOTH), size, 300) if one is not None]
    if plane is not None:
        other = ({0, 1, 2} - set(plane)).pop()
        assert all(m[other, other] == 1 and abs(m[other]).sum() == 1 for m in maps)
        maps = [m[np.ix_(plane, plane)] for m in maps]
    if len(maps[0]) == 2:
        angles = [abs(math.degrees(math.atan2(m[1, 0], m[0, 0]))) for m in maps]
        assert 0.9 * largest < max(angles) <= largest
    else:
        assert max(map(angle_of, maps)) < 53


def test_law_of_resized_crops():
    size = (64, 48)
    maps = drawn(RandCropRotated(BOTH, area=(0.35, 1.0)), size, 3000)
    shares = np.array([abs(np.linalg.det(matrix)) for matrix, _ in maps])
    assert 0.33 < shares.min() < 0.38
    assert shares.max() <= 1
    assert shares.mean() == pytest.approx(0.66, abs=0.03)  # 0.675 less what the border cuts
    for matrix, shift in maps[:200]:
        corners = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)]) * np.array(size) / 2 @ matrix.T + shift
        assert (np.abs(corners) <= np.array(size) / 2 + 1e-9).all()
    assert drawn(RandCropRotated(BOTH, prob=0), size, 3) == [None] * 3


def test_noise_follows_the_deviation_of_each_channel():
    x = torch.randn(2, 40, 40, 40) * torch.tensor([0.1, 2.0]).view(2, 1, 1, 1)
    noise = RandDeviationNoised(["image"], std=(0.1, 0.1), prob=1).set_random_state(0)({"image": x})["image"] - x
    assert noise[0].std() == pytest.approx(0.01, rel=0.03)
    assert noise[1].std() == pytest.approx(0.2, rel=0.03)
    assert abs(noise.mean()) < 0.002


def test_channels_are_changed_one_by_one():
    x = torch.rand(4, 12, 12)
    transform = RandChannelsd(["image"], RandGaussianSmooth(prob=1), prob=0.5, channel_prob=0.5).set_random_state(0)
    counts = np.zeros(5, int)
    for _ in range(400):
        found = transform({"image": x})["image"]
        counts[int((found != x).flatten(1).any(1).sum())] += 1
    chances = np.array([1, 4, 6, 4, 1]) / 16 * 0.5 + np.array([0.5, 0, 0, 0, 0])
    np.testing.assert_allclose(counts / 400, chances, atol=0.06)


def test_they_work_in_plain_monai():
    steps = Compose(
        [
            RandRotateScaled(BOTH, prob_rotate=1),
            RandDeviationNoised(["image"], prob=1),
            RandChannelsd(["image"], RandGaussianSmooth(prob=1)),
            RandFlipAxesd(BOTH, axes=[0]),
        ]
    )
    data = {"image": MetaTensor(torch.rand(1, 8, 8, 8)), "mask": MetaTensor(torch.ones(1, 8, 8, 8))}
    steps.set_random_state(5)
    first, second = steps(data), steps(data)
    steps.set_random_state(5)
    again = steps(data)
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], second["image"])
    assert isinstance(first["image"], MetaTensor)
    assert (first["mask"] == 1).all()  # the border is repeated


def test_arguments_are_checked():
    for wrong in ({"rotate_deg": 200}, {"scale": [2, 1]}, {"prob_scale": -1}):
        with pytest.raises(SslMedError, match=f"argument '{next(iter(wrong))}'"):
            RandRotateScaled(BOTH, **wrong)
    with pytest.raises(TypeError, match="abstract"):
        Resampled(BOTH)
