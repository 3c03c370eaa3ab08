"""Context restoration's networks: VGG and the path of transposed convolutions."""

import pytest
import torch
from torch.nn import functional as F

from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.deconvolution import Deconvolutions
from ssl_med.spec import SslMedError


@pytest.mark.parametrize("dims", [2, 3])
def test_vgg_is_its_convolutions_and_poolings(dims):
    torch.manual_seed(0)
    settings = {"channels": (4, 6, 8), "convolutions": (1, 2, 1)}
    net = build_backbone(backbone_config("vgg16", **settings), spatial_dims=dims, in_channels=2).double().eval()
    weights = [p for p in net.parameters() if p.ndim > 1]
    biases = [part.bias for part in net.modules() if isinstance(part, (torch.nn.Conv2d, torch.nn.Conv3d))]
    convolve, pool = (F.conv2d, F.max_pool2d) if dims == 2 else (F.conv3d, F.max_pool3d)
    x, expected, number = torch.randn(2, 2, *[8] * dims, dtype=torch.float64), [], 0
    y = x
    for count in settings["convolutions"]:
        y = pool(y, 2) if expected else y
        for _ in range(count):
            y = torch.relu(convolve(y, weights[number], biases[number], padding=1) / (1 + 1e-5) ** 0.5)
            number += 1
        expected.append(y)
    assert number == len(weights)
    for got, one in zip(net(x), expected, strict=True):
        assert torch.allclose(got, one, atol=1e-12)


def test_vgg16_has_the_weights_of_its_thirteen_convolutions():
    """14,714,688 in kernels and biases of form D, and two for each of 4224 normalised channels."""
    net = build_backbone(backbone_config("vgg16"), spatial_dims=2, in_channels=3)
    assert sum(p.numel() for p in net.parameters()) == 14_714_688 + 2 * 4224


def test_vgg_needs_a_number_of_convolutions_for_each_level():
    with pytest.raises(SslMedError, match=r"^backbone.convolutions \[2, 2\]: give one number for each of the 3 levels"):
        backbone_config("vgg16", channels=(8, 8, 8), convolutions=(2, 2))


def test_a_step_of_the_path_spreads_each_voxel_over_its_kernel():
    """Kernels are as large as their strides: each output voxel has one source. The first level is coarser than the image."""
    torch.manual_seed(0)
    path = Deconvolutions((6, 4), ((2, 1), (4, 3)), norm="batch").double().eval()
    first, second = (part for part in path.steps if isinstance(part, torch.nn.ConvTranspose2d))
    assert (first.stride, second.stride, path.out_channels) == ((2, 3), (2, 1), 8)
    x = torch.randn(1, 4, 2, 3, dtype=torch.float64)
    y = x[0]
    for step in (first, second):
        (a, b), found = (
            step.stride,
            torch.zeros(step.out_channels, y.shape[1] * step.stride[0], y.shape[2] * step.stride[1]).double(),
        )
        for o, i, j in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
            total = step.bias[o] + sum(y[c, i // a, j // b] * step.weight[c, o, i % a, j % b] for c in range(len(y)))
            found[o, i, j] = torch.relu(total / (1 + 1e-5) ** 0.5)
        y = found
    assert torch.allclose(path([torch.zeros(1, 6, 4, 9).double(), x])[0], y, atol=1e-12)
