"""Dense V-Net: every layer of a stack sees all before it, and the sizes are those that NiftyNet publishes."""

import pytest
import torch
from torch import nn

from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError


@pytest.mark.parametrize(("dims", "skips"), [(2, True), (3, True), (3, False)])
def test_it_halves_three_times_and_answers_at_full_resolution(dims, skips):
    config = backbone_config("dense_vnet", growth=(2, 4), layers=(2, 3), skip_channels=(3, 5), entry=4)
    backbone = build_backbone(config, spatial_dims=dims, in_channels=2)
    decoder = backbone.build_decoder(skips=skips)
    x = torch.rand(2, 2, *[8] * dims)
    pyramid = backbone(x)
    assert [level.shape[1:] for level in pyramid] == [
        (width, *[8 // stride[0]] * dims) for width, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert backbone.channels == (2, 4 + 2 * 2, 4 + 3 * 4)
    y = decoder(pyramid)
    assert y.shape == (2, 8 if skips else 5, *[8] * dims)
    y.square().mean().backward()
    assert all(parameter.grad is not None for parameter in (*backbone.parameters(), *decoder.parameters()))
    owned = [part for level in backbone.levels_of_modules() for module in level for part in module.parameters()]
    assert len(owned) == len(list(backbone.parameters()))


def test_the_layers_are_niftynets():
    backbone = build_backbone(backbone_config("dense_vnet"), spatial_dims=3, in_channels=1)
    decoder = backbone.build_decoder()
    found = [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in backbone.modules() if isinstance(m, nn.Conv3d)]
    stacks = [(25, 4, 5), (24, 8, 10), (24, 16, 10)]  # what enters, what a layer adds, layers
    entries = [(1, 24, 5), (45, 24, 3), (104, 24, 3)]
    wanted = [(first + layer * growth, growth, 3) for first, growth, layers in stacks for layer in range(layers)]
    assert sorted(found) == sorted([*entries, *wanted])
    beside = [(m[0].in_channels, m[0].out_channels) for m in decoder.beside]
    assert beside == [(44, 12), (104, 24), (184, 24)]  # the first one without the image


def test_layers_of_few_channels_have_as_many_groups_as_divide_them():
    backbone = build_backbone(backbone_config("dense_vnet", norm="group"), spatial_dims=3, in_channels=1)
    found = {norm.num_channels: norm.num_groups for norm in backbone.modules() if isinstance(norm, nn.GroupNorm)}
    assert found == {1: 1, 4: 4, 8: 8, 16: 8, 24: 8}


def test_stacks_without_a_number_each_are_refused():
    with pytest.raises(SslMedError, match="a number for each stack"):
        backbone_config("dense_vnet", growth=(4, 8))
