"""CKA and canonical correlations of features whose likeness is known by construction."""

import dataclasses
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.features.similarity import (
    Similarity,
    SimilarityConfig,
    directions,
    hsic,
    levels_of,
    linear_cka,
    mean_cca,
)
from ssl_med.spec import SslMedError


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hsic_is_the_mean_over_all_choices_of_four_different_images():
    x, y = noise(6, 2), noise(6, 3, seed=1)
    k, g = x @ x.T, y @ y.T
    # the definition that the closed form sums up: mean of K_ij (G_ij + G_qr - 2 G_iq) over different i, j, q, r
    terms = [float(k[i, j] * (g[i, j] + g[q, r] - 2 * g[i, q])) for i, j, q, r in permutations(range(6), 4)]
    assert float(hsic(k, g)) == pytest.approx(sum(terms) / len(terms), rel=1e-10)


def test_cka_sees_neither_turn_nor_scale_nor_shift_and_is_small_for_strangers():
    x = noise(200, 12)
    turn = torch.linalg.qr(noise(12, 12, seed=1))[0]
    parts = np.array_split(np.random.default_rng(0).permutation(200), 4)
    assert linear_cka(x, 3 * x @ turn + 5, parts) == pytest.approx(1, rel=1e-12)
    strangers = [linear_cka(noise(200, 12, seed=2 * k), noise(200, 12, seed=2 * k + 1), parts) for k in range(20)]
    assert abs(np.mean(strangers)) < 0.02  # the biased form gives 0.2 here
    assert math.isnan(linear_cka(x, torch.ones(200, 3), parts))


def test_the_minibatch_estimate_is_that_of_all_images_where_the_batch_holds_them():
    # of features known up to scale: y is x with a second, independent direction of equal variance
    x, other = torch.linalg.qr(noise(400, 3) - noise(400, 3).mean(0))[0][:, :2].unbind(1)
    value = linear_cka(x[:, None], torch.stack([x, other], 1), [np.arange(400)])
    assert value == pytest.approx(1 / math.sqrt(2), abs=0.01)  # |x'y|^2 / (|x'x| |y'y|) = 1 / sqrt(1^2 + 1^2)


def test_mean_cca_is_the_mean_of_known_correlations():
    q = torch.linalg.qr(noise(50, 5) - noise(50, 5).mean(0))[0]
    q = torch.linalg.qr(q - q.mean(0))[0]
    a, b, c, d, _ = q.unbind(1)
    x = torch.stack([a, b], 1) @ torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.float64)  # any basis of the plane
    y = torch.stack([0.6 * a + 0.8 * c, d], 1) + 4
    assert mean_cca(directions(x, 1), directions(y, 1)) == pytest.approx((0.6 + 0) / 2, abs=1e-9)
    assert directions(torch.stack([a, 0.01 * b], 1), 0.99).shape == (50, 1)
    assert math.isnan(mean_cca(directions(noise(20, 10), 1), directions(noise(20, 10, seed=1), 1)))


@pytest.mark.parametrize("dims", [2, 3])
def test_levels_of_one_network_and_of_two(dims):
    x = torch.rand(20, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    kind = Similarity(SimilarityConfig(batch=10))
    found = {name: kind.measure(images_of(small_encoder(dims, seed=k), x)) for k, name in enumerate("ab")}
    found["a again"] = found["a"]
    mine = levels_of(found["a"].arrays)
    order = np.array_split(found["a"].arrays["order"], 2)
    assert found["a"].numbers["level0-level1/cka"] == pytest.approx(linear_cka(mine[0], mine[1], order))
    pairs = kind.between(found)
    assert pairs["a | a again/level0/cka"] == pytest.approx(1)
    assert pairs["a | b/level1/cka"] == pytest.approx(linear_cka(mine[1], levels_of(found["b"].arrays)[1], order))
    own, between = kind.draw(found)
    assert [axes.get_title(loc="left") for axes in own.figure.axes] == ["a", "b", "a again"]
    assert between.figure.axes[1].images[0].get_array()[1, 1] == pytest.approx(1)
    names = found["b"].arrays["names"] + 1
    found["b"] = dataclasses.replace(found["b"], arrays={**found["b"].arrays, "names": names})
    with pytest.raises(SslMedError, match="a and b looked at other images"):
        kind.between(found)


def test_networks_with_other_numbers_of_levels_are_compared_at_the_last_one():
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kind = Similarity(SimilarityConfig())
    found = {"a": kind.measure(images_of(small_encoder(), x))}
    found["b"] = kind.measure(images_of(small_encoder(channels=(4, 4)), x))
    assert [key for key in kind.between(found) if key.endswith("cka")] == ["a | b/last/cka"]
    with pytest.raises(SslMedError, match=r"16 images or more, there are 9; raise images\.cases"):
        kind.measure(images_of(small_encoder(), x[:9]))
