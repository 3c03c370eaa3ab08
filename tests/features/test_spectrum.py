"""The spectrum of features whose covariance is known by construction, and its way from images to numbers."""

import math

import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.catalogue import get_class, list_names
from ssl_med.features.core.analysis import Analysis
from ssl_med.features.spectrum import Spectrum, SpectrumConfig, spectrum, uniformity
from ssl_med.spec import SslMedError


def features_of(deviations, n=64):
    """(n, d) features whose singular values are exactly `deviations`: orthonormal columns of mean 0, scaled and turned."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(n, len(deviations), generator=generator, dtype=torch.float64)
    columns = torch.linalg.qr(noise - noise.mean(0))[0]
    turn = torch.linalg.qr(torch.randn(len(deviations), len(deviations), generator=generator, dtype=torch.float64))[0]
    return columns * torch.tensor(deviations, dtype=torch.float64) @ turn + 3.0  # an offset must not count


def test_equal_variances_have_full_rank_and_no_decay():
    found = spectrum(features_of([2.0] * 5))
    assert found["effective_rank"] == pytest.approx(5, rel=1e-9)
    assert found["relative_rank"] == pytest.approx(1, rel=1e-9)
    assert found["decay"] == pytest.approx(0, abs=1e-9)


def test_a_power_law_gives_its_exponent_and_the_entropy_of_its_shares():
    values = [k**-0.75 for k in range(1, 9)]  # eigenvalues k^-1.5
    share = [v / sum(values) for v in values]
    found = spectrum(features_of(values))
    assert found["decay"] == pytest.approx(1.5, rel=1e-6)
    assert found["effective_rank"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-9)


def test_one_direction_and_equal_features():
    assert spectrum(features_of([1.0, 0.0, 0.0]))["effective_rank"] == pytest.approx(1, rel=1e-6)
    assert spectrum(torch.ones(20, 4)) == pytest.approx(
        {"effective_rank": 0.0, "relative_rank": 0.0, "decay": math.nan}, nan_ok=True
    )


def test_uniformity_of_two_directions():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, 0.5]])  # 2 pairs alike, 4 at a right angle
    assert uniformity(x) == pytest.approx(math.log((2 + 4 * math.exp(-4)) / 6))
    assert uniformity(torch.ones(5, 3)) == pytest.approx(0)
    tall = torch.randn(1500, 4, generator=torch.Generator().manual_seed(0))
    pairs = torch.pdist(torch.nn.functional.normalize(tall.double()))
    assert uniformity(tall) == pytest.approx(float(pairs.square().mul(-2).exp().mean().log()))


@pytest.mark.parametrize("dims", [2, 3])
def test_every_level_of_a_network_is_measured(dims):
    network = small_encoder(dims)
    x = torch.rand(20, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    found = Spectrum(SpectrumConfig()).measure(images_of(network, x))
    assert found.numbers["images"] == 20
    assert found.headline == "level1/effective_rank"
    with torch.no_grad():
        pyramid = network(x)
    for level, features in enumerate(pyramid):
        mine = spectrum(features.flatten(2).mean(2))
        assert found.numbers[f"level{level}/effective_rank"] == pytest.approx(mine["effective_rank"], rel=1e-4)
    with pytest.raises(SslMedError, match=r"16 images or more, there are 8; raise images\.cases"):
        Spectrum(SpectrumConfig()).measure(images_of(network, x[:8]))
    next(network.parameters()).data.fill_(math.nan)
    with pytest.raises(SslMedError, match="hold NaN or infinity"):
        Spectrum(SpectrumConfig()).measure(images_of(network, x))


def test_the_figure_shows_the_eigenvalues_of_the_last_level_of_each_network():
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {
        name: Spectrum(SpectrumConfig()).measure(images_of(small_encoder(seed=k), x)) for k, name in enumerate("ab")
    }
    (drawing,) = Spectrum(SpectrumConfig()).draw(found)
    lines = drawing.figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert lines[0].get_ydata()[1] == pytest.approx(found["a"].arrays["level1"][1] / found["a"].arrays["level1"][0])


@pytest.mark.parametrize("name", list_names("ssl_med.features"))
def test_every_analysis_is_one_file_that_declares_itself(name):
    found = get_class("ssl_med.features", name, kind="kind", base=Analysis)
    assert found.paper
    assert found(found.Config()).config == found.Config()
