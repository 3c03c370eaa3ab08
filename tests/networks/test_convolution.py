"""Gradients in bfloat16 on the CPU where oneDNN's are wrong: narrower than the kernel, and at both sides of that bound."""

import copy
from itertools import product

import pytest
import torch
from torch import nn

from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.convolution import GuardedConv2d, GuardedConv3d, guard_convolutions, unsafe

SIDES = (1, 2, 3, 4)


def gradients(module, x, *, bf16):
    """Output, gradient of the input, gradients of all parameters; memory that was never written is likely to be NaN."""
    junk = [torch.full((n,), float("nan")) for n in (100, 1000, 4096, 16384, 65536, 200000)]
    del junk
    module.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = module(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    (y.float() * weights).sum().backward()
    return [y.detach().float(), x.grad, *(p.grad.clone() for p in module.parameters())]


def close(found, wanted, rel):
    return all((a - b).abs().max() <= rel * b.abs().max() for a, b in zip(found, wanted, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dims", "kernel", "stride"), [(2, 3, 1), (2, 3, 2), (2, 7, 2), (3, 3, 1), (3, 3, 2), (3, 1, 2)]
)
def test_gradients_in_bfloat16_are_those_of_float32_and_repeat(dims, kernel, stride):
    torch.manual_seed(0)
    convolution = (nn.Conv2d, nn.Conv3d)[dims - 2](16, 32, kernel, stride=stride, padding=kernel // 2)
    plain = copy.deepcopy(convolution)
    guard_convolutions(convolution)
    for size in product(SIDES, repeat=dims):
        for format_ in (torch.contiguous_format, (torch.channels_last, torch.channels_last_3d)[dims - 2]):
            x = torch.randn(4, 16, *size).contiguous(memory_format=format_)
            wanted = gradients(plain, x, bf16=False)
            first, second = (gradients(convolution, x, bf16=True) for _ in range(2))
            assert close(first, wanted, rel=0.03), size
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), size
            exact = gradients(convolution, x, bf16=False)
            assert all(torch.equal(a, b) for a, b in zip(exact, wanted, strict=True)), size


def test_only_what_is_narrow_is_computed_otherwise():
    x = torch.zeros(1, 2, 2, 5, 5)
    assert not unsafe(x, (3, 3, 3))  # float32
    with torch.autocast("cpu", torch.bfloat16):
        assert unsafe(x, (3, 3, 3))
        assert not unsafe(x, (1, 1, 1))
        assert not unsafe(torch.zeros(1, 2, 3, 5, 5), (3, 3, 3))
        assert unsafe(torch.zeros(1, 2, 9, 6), (7, 7))
        wide, narrow = torch.ones(1, 2, 4, 4, 4), torch.ones(1, 2, 2, 4, 4)
        plain = nn.Conv3d(2, 3, 3, padding=1)
        guarded = guard_convolutions(copy.deepcopy(plain))
        assert guarded(narrow).dtype == plain(narrow).dtype == torch.bfloat16
        assert torch.equal(guarded(wide), plain(wide))


def test_a_network_stays_what_it_is():
    config = backbone_config("unet", channels=(4, 8, 8))
    backbone = build_backbone(config, spatial_dims=3, in_channels=1)
    decoder = backbone.build_decoder()
    both = nn.ModuleList([backbone, decoder])
    keys, x = list(both.state_dict()), torch.rand(2, 1, 8, 8, 8)
    before = decoder(backbone(x))
    assert guard_convolutions(both) is both
    assert guard_convolutions(both) is both  # again changes nothing
    assert list(both.state_dict()) == keys
    assert torch.equal(decoder(backbone(x)), before)
    assert all(type(m) is not nn.Conv3d for m in both.modules())
    assert type(guard_convolutions(nn.Conv2d(1, 1, 3))) is GuardedConv2d
    assert isinstance(copy.deepcopy(both[0]).levels[0][0].conv, GuardedConv3d)
    resnet = build_backbone(backbone_config("resnet18"), spatial_dims=2, in_channels=1)
    assert any(isinstance(m, GuardedConv2d) for m in guard_convolutions(resnet).modules())


@pytest.mark.parametrize("size", [(16, 16, 8), (8, 8, 8), (8, 8, 16), (16, 8, 16)])
def test_a_deep_network_repeats_its_gradients(size):
    """Four levels: the coarsest has sides of 1 or 2, and the decoder comes up from them."""
    torch.manual_seed(0)
    config = backbone_config("unet", channels=(8, 8, 8, 8, 8), norm="batch")
    backbone = build_backbone(config, spatial_dims=3, in_channels=1)
    network = guard_convolutions(nn.Sequential(backbone, backbone.build_decoder()))
    x = torch.rand(4, 1, *size)
    first, second = (gradients(network, x, bf16=True) for _ in range(2))
    assert all(torch.isfinite(a).all() for a in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
