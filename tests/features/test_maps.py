"""Dense maps: where a level's voxels lie is known by construction, colours and attention against slow references."""

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder
from torch import nn
from torch.nn import functional as F

from ssl_med.features.core.placing import offsets_of, on_grid
from ssl_med.features.maps import Maps, MapsConfig, attention, moments, on_image, token_attention
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.backbones.resnet18 import ResNet18
from ssl_med.networks.pyramid import Backbone, Level
from ssl_med.spec import SslMedError

CPU = torch.device("cpu")


class Strided(Backbone):
    """One level of stride 4: convolutions that are centred on every second voxel, or patches."""

    def __init__(self, dims, *, patches):
        self.patches = patches
        super().__init__(Backbone.Config(), spatial_dims=dims, in_channels=1)
        self.weight = nn.Parameter(torch.ones(1, 1, *((4 if patches else 3),) * dims))
        self.convolve = {2: F.conv2d, 3: F.conv3d}[dims]

    @classmethod
    def pyramid_of(cls, config, spatial_dims):
        return [Level(1, (4,) * spatial_dims)]

    def forward(self, x):
        if self.patches:
            return [self.convolve(x, self.weight, stride=4)]
        once = self.convolve(x, self.weight, stride=2, padding=1)
        return [self.convolve(once, self.weight, stride=2, padding=1)]

    def levels_of_modules(self):
        return ((self,),)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("patches", "offset"), [(True, 1.5), (False, 0.0)])
def test_a_map_lies_where_the_image_is_whatever_the_network_does_at_borders(dims, patches, offset):
    network = Strided(dims, patches=patches)
    shape = (24, 16, 16)[:dims]
    assert offsets_of(network, 0, shape, device=CPU) == (offset,) * dims
    ramp = torch.arange(24.0).view(1, 1, -1, *[1] * (dims - 1)).expand(1, 1, *shape)  # its features know their place
    found = network(ramp)[0][0].detach()
    scale = found / (4**dims if patches else 9**dims)  # means of what they see
    laid = on_grid(scale, shape, stride=(4,) * dims, offset=(offset,) * dims)
    inner = (0, slice(6, 18), *[slice(6, 11)] * (dims - 1))
    torch.testing.assert_close(laid[inner], ramp[0][inner])
    wrong = on_grid(scale, shape, stride=(4,) * dims, offset=(1.5 - offset,) * dims)
    torch.testing.assert_close(wrong[inner] - laid[inner], torch.full_like(laid[inner], 2 * offset - 1.5))


def test_offsets_of_real_networks():
    torch.manual_seed(0)
    resnet = ResNet18(ResNet18.Config(), spatial_dims=2, in_channels=1).eval()
    assert offsets_of(resnet, 3, (128, 128), device=CPU) == pytest.approx((0, 0), abs=1.5)
    vit = build_backbone(vit_config(), spatial_dims=2, in_channels=1).eval()
    assert offsets_of(vit, -1, (32, 32), device=CPU) == pytest.approx((1.5, 1.5), abs=0.5)


def vit_config(**settings):
    return backbone_config("vit", width=16, depth=2, heads=2, patch=4, grid=8, **settings)


def test_the_moments_are_those_of_all_places_of_all_images():
    network = small_encoder()
    x = torch.rand(10, 1, 8, 16, generator=torch.Generator().manual_seed(0))
    found = moments(images_of(network, x, size=4), 1)
    with torch.no_grad():
        every = network(x)[1].double().flatten(2)  # (N, C, P)
    flat = every.transpose(0, 1).flatten(1)
    np.testing.assert_allclose(found["mean"], flat.mean(1), atol=1e-7)
    np.testing.assert_allclose(found["covariance"], np.cov(flat.numpy(), bias=True), atol=1e-8)
    np.testing.assert_allclose(found["between"], every.mean(2).var(0, correction=0), atol=1e-8)


@pytest.mark.parametrize("dims", [2, 3])
def test_colours_are_the_components_of_one_basis(dims):
    network = small_encoder(dims)
    x = torch.rand(10, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    kind = Maps(MapsConfig(level=0, pictures=3))
    found = kind.measure(images_of(network, x))
    with torch.no_grad():
        every = network(x)[0].double().flatten(2)
    flat = every.transpose(0, 1).flatten(1)
    u, s, _ = torch.linalg.svd(flat - flat.mean(1, keepdim=True), full_matrices=False)
    share = s.square() / s.square().sum()
    assert found.numbers["explained"] == pytest.approx(float(share[:3].sum()), rel=1e-5)
    projected = u[:, :3].T @ (every[9] - flat.mean(1, keepdim=True))
    deviation = s[:3, None] / flat.shape[1] ** 0.5
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0, :3, None]
    wanted = (signs * projected / deviation / 4 + 0.5).reshape(3, *x.shape[2:])
    np.testing.assert_allclose(found.arrays["color2"], wanted, atol=1e-4)
    assert found.arrays["shown"].tolist() == [0, 4, 9]
    np.testing.assert_array_equal(found.arrays["image1"], x[4])
    np.testing.assert_allclose(on_image(found.arrays, "color2"), found.arrays["color2"], atol=1e-6)  # stride 1
    (drawing,) = kind.draw({"a": found, "b": found})
    assert len(drawing.figure.axes) == 3 * 3 * (1 if dims == 2 else 3)
    for parameter in network.parameters():
        parameter.data.zero_()
    with pytest.raises(SslMedError, match="the same at all places"):
        kind.measure(images_of(network, x))


@pytest.mark.parametrize(("dims", "settings"), [(2, {}), (3, {"class_token": False}), (2, {"positions": "rotary"})])
def test_attention_is_what_the_block_weighs_values_by(dims, settings):
    torch.manual_seed(0)
    network = build_backbone(vit_config(**settings), spatial_dims=dims, in_channels=1).eval()
    module, caught = network.blocks[-1].attn, []
    module.register_forward_hook(lambda _, inputs, output: caught.append((*inputs, output)))
    x = torch.rand(2, 1, *(16,) * dims)
    found = attention(network, x)
    assert found.shape == (2, 2, *(4,) * dims)
    tokens, turns, output = caught[0]
    with torch.inference_mode():
        value = module.qkv(tokens).unflatten(2, (3, 2, -1))[:, :, 2].transpose(1, 2)  # (B, heads, T, 8)
        share = token_attention(module, tokens, turns)
        torch.testing.assert_close(module.out_proj((share @ value).transpose(1, 2).flatten(2)), output)
    row = share[:, :, 0, 1:] if network.config.class_token else share.mean(2)
    torch.testing.assert_close(found.flatten(2), row)
    drawn = Maps(MapsConfig(pictures=2)).measure(images_of(network, x))
    assert [one.stem for one in Maps(MapsConfig(pictures=2)).draw({"a": drawn})] == ["maps", "attention"]
