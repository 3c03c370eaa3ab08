"""Whitening of known covariances, networks whose invariance is known by construction, and the changes themselves."""

import math

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder
from sklearn.covariance import ledoit_wolf

from ssl_med.features.core.changes import CHANGES, changes_for
from ssl_med.features.core.whitening import Whitening, chosen_whitening, cosine
from ssl_med.features.invariance import Invariance, InvarianceConfig
from ssl_med.spec import SslMedError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def correlated(n=400, d=6):
    mix = torch.randn(d, d, generator=rng(1), dtype=torch.float64)
    return torch.randn(n, d, generator=rng(2), dtype=torch.float64) @ mix + 5


def test_whitened_features_have_the_identity_as_covariance_and_the_products_of_the_inverse():
    x = correlated()
    z = Whitening.of(x, robust=False)(x)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-4)
    precision = np.linalg.inv(np.cov(x.T.numpy()) + 1e-6 * np.eye(6))
    centred = x.mean(0) - x
    np.testing.assert_allclose(z[0] @ z[1], centred[0].numpy() @ precision @ centred[1].numpy(), rtol=1e-9)


@pytest.mark.parametrize("n", [12, 400])
def test_the_robust_covariance_is_scikit_learns(n):
    x = correlated(n, 20)
    wanted, shrinkage = ledoit_wolf(x.numpy())
    found = Whitening.of(x, robust=True)
    assert found.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    precision = found.matrix @ found.matrix.T
    np.testing.assert_allclose(np.linalg.inv(precision.numpy()), wanted + 1e-6 * np.eye(20), rtol=1e-6, atol=1e-8)


def test_fewer_images_than_features_are_shrunk_and_told():
    _, notes = chosen_whitening(correlated(12, 20), robust=False)
    assert any("Ledoit and Wolf's" in note and "no more images than features" in note for note in notes)
    assert len(chosen_whitening(correlated(40, 20), robust=False)[1]) == 1


def test_cosine_of_the_same_is_one_even_of_nothing():
    a = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    b = torch.tensor([[0.0, 0.0], [0.0, 2.0], [1.0, 0.0], [-2.0, -2.0]])
    assert cosine(a, b).tolist() == pytest.approx([1.0, 0.0, 0.0, -1.0])


class Known(torch.nn.Module):
    """A stand-in for an encoder with 8 features: `answer` says which."""

    channels, strides = (8,), ((1, 1),)

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return [self.answer(x)[:, :, None, None]]

    def pool(self, pyramid):
        return pyramid[-1].flatten(2).mean(2)


def measured(answer, **settings):
    x = torch.rand(60, 1, 12, 12, generator=rng())
    config = InvarianceConfig(steps=4, changed=20, **settings)
    return Invariance(config).measure(images_of(Known(answer), x))


def test_a_network_that_ignores_its_input_has_one_and_white_noise_none():
    blind = measured(lambda x: torch.ones(len(x), 8))
    assert blind.numbers["mean"] == 1
    noise = rng(5)
    deaf = measured(lambda x: torch.randn(len(x), 8, generator=noise))
    assert abs(deaf.numbers["mean"]) < 0.03
    assert deaf.numbers["hflip/with_identity"] == pytest.approx((deaf.numbers["hflip"] + 1) / 2)
    assert len(deaf.rows) == 20


def test_a_network_of_sums_sees_brightness_and_no_flip():
    found = measured(
        lambda x: x.flatten(1)[:, :64].view(-1, 8, 8).mean(2) * 0 + x.mean((1, 2, 3))[:, None] ** torch.arange(1, 9)
    )
    assert found.numbers["hflip"] == pytest.approx(1, abs=1e-3)
    assert found.numbers["invert"] < 0.5


@pytest.mark.parametrize("dims", [2, 3])
def test_real_encoders_and_what_is_finished_is_kept(dims, tmp_path):
    x = torch.rand(12, 1, *(8,) * dims, generator=rng())
    images = images_of(small_encoder(dims), x, kept_in=tmp_path, size=5)
    config = InvarianceConfig(steps=3, changed=7)
    found = Invariance(config).measure(images)
    assert len(found.rows) == 7
    assert set(changes_for(dims, 1)) | {"mean"} == {name for name in found.numbers if "/" not in name}
    count = sum(len(found.arrays[f"{name}/cosine"]) for name in changes_for(dims, 1))
    assert Invariance(config).passes(images) == 12 + 7 * (count + 1)
    assert all(-1 <= value <= 1 + 1e-12 for value in found.numbers.values())
    assert Invariance(config).measure(images).numbers == found.numbers
    points, lines = Invariance(config).draw({"a": found, "b": found})
    assert [text.get_text() for text in points.figure.axes[0].get_yticklabels()] == list(
        name for name in CHANGES if name in changes_for(dims, 1)
    )
    assert len(lines.figure.axes[0].get_lines()) == 2


# --- the changes -----------------------------------------------------------------------------------------------------


def changed(name, x, *parameter):
    return CHANGES[name](x, parameter, torch.zeros_like(x))


@pytest.mark.parametrize("name", CHANGES)
def test_identities_are_left_out_and_change_nothing(name):
    change = CHANGES[name]
    dims = change.dims[0]
    x = torch.rand(2, change.channels or 1, *(24, 20, 8)[:dims], generator=rng())
    steps = change.steps(5, x.shape[2:])
    assert steps
    assert not any(change(x, parameter, torch.ones_like(x)).equal(x) for parameter in steps)
    if change.identity is not None:
        same = change(x, (change.identity,) * len(steps[0]), torch.ones_like(x))
        torch.testing.assert_close(same, x, rtol=0, atol=2e-6)


def test_changes_do_what_they_are_called():
    x = torch.rand(1, 1, 8, 8, generator=rng())
    v = torch.rand(1, 1, 8, 8, 8, generator=rng())
    torch.testing.assert_close(changed("rotation", x, 90.0), torch.rot90(x, 1, (2, 3)))
    for name, plane in {"rotation_x": (3, 4), "rotation_y": (2, 4), "rotation_z": (2, 3)}.items():
        torch.testing.assert_close(changed(name, v, 90.0), torch.rot90(v, 1, plane))
    assert changed("hflip", x, 1.0).equal(x.flip(3))
    assert changed("vflip", x, 1.0).equal(x.flip(2))
    assert [changed(name, v, 1.0).equal(v.flip(axis)) for name, axis in (("hflip", 2), ("vflip", 3), ("zflip", 4))] == [
        True
    ] * 3
    torch.testing.assert_close(changed("translation", x, 0.25, -0.125)[..., :6, 1:], x[..., 2:, :7])
    torch.testing.assert_close(changed("shear", x, 45.0, 0.0)[0, 0, 4, 4], (x[0, 0, 4, 4] + x[0, 0, 5, 4]) / 2)
    means = v.view(8, 8, 4, 2).mean(3)
    thick = changed("thickness", v, 2.0)[0, 0]
    assert thick.std() < v.std()
    np.testing.assert_allclose(thick.mean(), means.mean(), atol=0.02)
    torch.testing.assert_close(changed("intensity_shift", v, 0.1), (v + 0.1).clamp(0, 1))
    torch.testing.assert_close(changed("crop", x, 0.5, 1.0, 1.0).mean(), x[..., 4:, 4:].mean(), rtol=0.1, atol=0)
    assert changed("scale", x, 2.0)[..., 3:5, 3:5].mean() == pytest.approx(float(x[..., 3:5, 3:5].mean()), rel=1e-5)


def test_standardised_images_are_changed_on_their_own_range():
    x = torch.rand(1, 1, 6, 6, generator=rng())
    x = (x - x.min()) / (x.max() - x.min())
    torch.testing.assert_close(changed("gamma", x * 7 - 3, 2.0), x**2 * 7 - 3)
    assert math.isclose(float(changed("invert", x * 7 - 3, 1.0).max()), 4, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transforms": ("rotatoin",)}, "there is no 'rotatoin'; did you mean 'rotation'"),
        ({"transforms": ("hue",)}, "'hue' is not for images of 2 dimensions and 1 channels"),
    ],
)
def test_unknown_changes_are_refused(settings, message):
    with pytest.raises(SslMedError, match=message):
        Invariance(InvarianceConfig(**settings)).measure(images_of(small_encoder(), torch.rand(4, 1, 8, 8)))
