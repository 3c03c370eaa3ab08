"""The linear probe of levels of which one knows the label and another knows nothing."""

import numpy as np
import pytest
import torch
from looking import images_of

from ssl_med.evaluation.protocols.linear import LinearConfig, linear
from ssl_med.features.probe_depth import ProbeDepth, ProbeDepthConfig
from ssl_med.networks.pyramid import Backbone, Level


class TwoLevels(Backbone):
    """Level 0 is the image and its square, level 1 is 1 everywhere."""

    @classmethod
    def pyramid_of(cls, config, spatial_dims):
        return [Level(2, (1,) * spatial_dims), Level(3, (1,) * spatial_dims)]

    def forward(self, x):
        return [torch.cat([x, x.square()], 1), torch.ones_like(x).expand(-1, 3, *x.shape[2:])]

    def levels_of_modules(self):
        return (), (self,)


def parts(dims, *, overlap):
    """Images that are darker in class a and brighter in class b, in train, val and test."""
    generator = torch.Generator().manual_seed(0)
    network = TwoLevels(Backbone.Config(), spatial_dims=dims, in_channels=1).eval()
    made = []
    for count in (40, 20, 30):
        label = torch.arange(count) % 2
        level = label + overlap * torch.randn(count, generator=generator)
        x = level.view(-1, 1, *[1] * dims) + 0.01 * torch.rand(count, 1, *(4,) * dims, generator=generator)
        made.append(images_of(network, x, labels=label, classes=("a", "b")))
    images = made[2]
    images.others = {"train": made[0], "val": made[1]}
    return images


@pytest.mark.parametrize("dims", [2, 3])
def test_a_level_that_knows_the_label_is_told_from_one_that_knows_nothing(dims):
    images = parts(dims, overlap=0.05)
    kind = ProbeDepth(ProbeDepthConfig(strengths=5))
    assert kind.passes(images) == 90
    found = kind.measure(images)
    for known in ("level0/auc", "joined/auc", "level0/accuracy"):
        assert found.numbers[known] == pytest.approx(1)
    assert found.numbers["level1/auc"] == pytest.approx(0.5)
    assert found.headline == "level1/auc"
    (drawing,) = kind.draw({"a": found})
    assert drawing.figure.axes[0].get_lines()[0].get_ydata() == pytest.approx([1, 0.5])


def test_it_is_the_probe_of_the_protocol():
    images = parts(2, overlap=0.8)
    found = ProbeDepth(ProbeDepthConfig(strengths=5)).measure(images)
    features = [part.all_features((0,)) for part in (*images.others.values(), images)]
    outcome = linear(LinearConfig(strengths=5), images.spec, *features, refit=True)
    right = outcome.logits.argmax(1) == features[2].label
    assert found.numbers["level0/accuracy"] == pytest.approx(float(right.float().mean()))
    assert 0.5 < found.numbers["level0/accuracy"] < 1
    score = (outcome.logits[:, 1] - outcome.logits[:, 0]).numpy()
    truth = features[2].label.numpy()
    wins = np.subtract.outer(score[truth == 1], score[truth == 0]) > 0
    assert found.numbers["level0/auc"] == pytest.approx(wins.mean())
    assert found.notes == ["L2 chosen on 20 validation samples; final fit on train and val, 60 samples"]
