"""Intraclass correlation of known variances, and distances of features that are known by construction."""

import math

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.features.stability import Stability, StabilityConfig, icc
from ssl_med.spec import SslMedError


def test_icc_of_known_variances():
    generator = torch.Generator().manual_seed(0)
    n, k = 20000, 3
    images = torch.randn(n, 1, 4, generator=generator) * torch.tensor([1.0, 2.0, 0.0, 1.0])
    repeats = torch.randn(n, k, 4, generator=generator) * torch.tensor([1.0, 0.5, 1.0, 0.0])
    wanted = [1 / 2, 4 / 4.25, 0.0, 1.0]  # variance between images / all variance
    assert icc(images + repeats + 7).tolist() == pytest.approx(wanted, abs=0.02)


def test_icc_is_that_of_the_analysis_of_variance():
    x = torch.tensor([[9.0, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert float(icc(x[:, :, None])) == pytest.approx(0.166, abs=5e-4)  # the example of Shrout and Fleiss 1979, Table 4
    assert math.isnan(icc(torch.ones(3, 2, 1)))


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_change_everything_repeats(dims, tmp_path):
    x = torch.rand(6, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    config = StabilityConfig(repeats=3, shift=0, rotation=0, noise=0)
    images = images_of(small_encoder(dims), x, size=4, subjects=[0, 0, 1, 1, 2, 2])
    still = Stability(config).measure(images)
    assert still.numbers["icc"] == pytest.approx(1, abs=1e-9)
    assert still.numbers["recognised"] == still.numbers["reliable"] == 1
    assert still.numbers["distance_ratio"] == pytest.approx(0, abs=1e-6)
    images.kept_in = tmp_path
    moved = Stability(StabilityConfig(repeats=3)).measure(images)
    assert moved.numbers["icc"] < 1
    assert Stability(StabilityConfig(repeats=3)).passes(images) == 18
    assert [row["case"] for row in moved.rows] == [f"case{k}" for k in range(6)]
    next(images.backbone.parameters()).data.zero_()
    assert Stability(StabilityConfig(repeats=3)).measure(images).numbers == moved.numbers  # kept
    first, second = Stability(config).draw({"a": still, "b": moved})
    assert len(first.figure.axes[0].get_lines()) == 2
    assert [len(axes.get_lines()) for axes in second.figure.axes] == [2, 2]


def test_distances_between_patients_leave_out_the_own():
    x = torch.zeros(4, 1, 8, 8)
    for k, value in enumerate([0.0, 1.0, 0.4, 0.4]):
        x[k] = value
    network = small_encoder()
    images = images_of(network, x, subjects=[0, 0, 1, 1])
    found = Stability(StabilityConfig(shift=0, rotation=0, noise=0)).measure(images)
    features = images.pooled(x).double()
    wanted = np.mean([float((features[a] - features[b]).norm()) for a in (0, 1) for b in (2, 3)])
    assert found.numbers["patient_distance"] == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(SslMedError, match="there is one; raise images"):
        Stability(StabilityConfig()).measure(images_of(network, x, subjects=[3] * 4))


def test_changes_have_the_size_that_is_asked_for():
    x = torch.full((200, 1, 16, 16), 0.5)
    x[:, :, 8:] = 0.7
    generators = [np.random.default_rng(k) for k in range(200)]
    noisy = Stability(StabilityConfig(shift=0, rotation=0, noise=0.05))._changed(x, generators)
    assert float((noisy - x).std()) == pytest.approx(0.05, rel=0.02)
    generators = [np.random.default_rng(k) for k in range(200)]
    moved = Stability(StabilityConfig(shift=2, rotation=0, noise=0))._changed(x, generators)
    shift = (moved[:, 0, :, 0] - x[:, 0, :, 0]).sum(1) / 0.2  # rows by which the edge moved
    assert 1.9 < float(shift.abs().max()) <= 2.001
    assert float(shift.std()) == pytest.approx(2 / math.sqrt(3), rel=0.1)
