"""Weights of one size in a network of another: 2D for volumes, positions on another grid, patches of another side."""

import pytest
import torch
from convolutional_layouts import MEAN, STD, resnet
from foreign_case import cases_of
from torch.nn import functional as F

from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.adapt import fit, resample_grid, resample_patch
from ssl_med.weights.core.convert import Wishes, convert

ABOUT = {"versions": {}, "git": ""}


@pytest.mark.parametrize("rule", ["centre", "i3d"])
@torch.no_grad()
def test_a_volume_that_is_constant_in_depth_has_the_features_of_its_slice(rule, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(resnet("resnet18", torch.Generator().manual_seed(0), channels=1, classes=0), path)
    flat = convert(path, "torchvision", **ABOUT).backbone.eval()
    deep = convert(path, "torchvision", wishes=Wishes(inflate=rule), **ABOUT)
    assert deep.notes == ("20 convolutions inflated to 3D by the " + rule + " rule",)
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    volume = image[..., None].expand(1, 1, 32, 32, 64)
    # depth of the border that a kernel of the i3d rule reaches over, in voxels of each level
    reach = {"centre": [0, 0, 0, 0, 0], "i3d": [2, 6]}[rule]
    for level, two, three in zip(reach, flat(image), deep.backbone.eval()(volume), strict=False):
        inside = three[..., level : three.shape[-1] - level]
        assert inside.shape[-1] > 0
        torch.testing.assert_close(
            inside, two[..., None].expand_as(inside), rtol=1e-4, atol=1e-5 * float(two.abs().max())
        )
        if rule == "i3d":
            assert not torch.allclose(three[..., 0], two, rtol=1e-2)


# family, number of its case, channels of the new images; the second's three channels have one mean, the third's their own
@pytest.mark.parametrize(
    ("family", "number", "channels"), [("torchvision", 6, 4), ("moco_cxr", 0, 4), ("torchvision", 0, 1)]
)
@torch.no_grad()
def test_equal_channels_have_the_features_of_before(family, number, channels, tmp_path):
    case = cases_of(family)[number]
    path = case.write(tmp_path, case.made())
    before = convert(path, family, **ABOUT).backbone.eval()
    after = convert(path, family, wishes=Wishes(channels=channels), **ABOUT)
    grey = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    pairs = zip(
        after.backbone.eval()(grey.expand(-1, channels, -1, -1)),
        before(grey.expand(-1, case.shape[0], -1, -1)),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert after.card.data_spec().in_channels == channels
    assert len(after.notes) == 1


@torch.no_grad()
def test_channels_with_means_of_their_own_shift_each_output_by_a_constant(tmp_path):
    case = cases_of("torchvision")[0]
    made = case.made()
    path = case.write(tmp_path, made)
    after = convert(path, "torchvision", wishes=Wishes(channels=4), **ABOUT)
    assert after.notes[0].endswith("the channels' means become one, 0.449, which shifts its outputs by constants")
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    weight = made["conv1.weight"]
    before = F.conv2d((grey.expand(-1, 3, -1, -1) - MEAN) / STD, weight, stride=2)
    image = after.backbone.normalised(grey.expand(-1, 4, -1, -1))
    now = F.conv2d(image, after.backbone.state_dict()["conv1.weight"], stride=2)
    shift = (weight.sum((2, 3)) * ((MEAN - MEAN.mean()) / STD).flatten()).sum(1)  # of the 64 outputs
    torch.testing.assert_close(now - before, shift.view(1, -1, 1, 1).expand_as(now), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("grid", "size"), [((3, 3), (5, 4)), ((4, 6), (2, 3)), ((2, 3, 4), (4, 3, 2))])
def test_positions_are_interpolated(grid, size):
    found = torch.randn(1, 5, *grid, generator=torch.Generator().manual_seed(0))
    mode = "bicubic" if len(grid) == 2 else "trilinear"
    torch.testing.assert_close(resample_grid(found, size), F.interpolate(found, size=size, mode=mode))


@pytest.mark.parametrize(("was", "now"), [((8, 8), (4, 6)), ((6, 4), (9, 8))])
def test_a_patch_embedding_is_the_least_squares_fit(was, now):
    """The embedding w of a resized patch Rx is to be what v was of x: the w of least |R'w - v|."""
    weight = torch.randn(2, 3, *was, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    basis = torch.eye(was[0] * was[1], dtype=torch.double).view(-1, 1, *was)
    resized = F.interpolate(basis, size=now, mode="bilinear").flatten(1)  # row k: R of unit vector k
    # the pseudo-inverse, also where patches grow and many w fit exactly: the shortest of them
    wanted = torch.linalg.lstsq(resized, weight.flatten(2).flatten(0, 1).T, driver="gelsd").solution.T
    torch.testing.assert_close(resample_patch(weight, now), wanted.reshape(2, 3, *now))


def _flat(state):
    """The state of a 3D network as one of 2D: the middle of each kernel."""
    return {key: value[:, :, value.shape[2] // 2].clone() if value.ndim == 5 else value for key, value in state.items()}


def test_a_plan_of_2d_kernels_is_not_inflated(tmp_path):
    made = cases_of("nnunet")[3].made()
    torch.save({"network_weights": _flat(made["network_weights"])}, tmp_path / "x.pth")
    assert convert(tmp_path / "x.pth", "nnunet", **ABOUT).backbone.spatial_dims == 2
    with pytest.raises(SslMedError, match=r"does not become a 3D plainconv: backbone.kernels is .* has 3 axes"):
        convert(tmp_path / "x.pth", "nnunet", wishes=Wishes(inflate="i3d"), **ABOUT)


def test_a_decoder_is_not_inflated():
    """Its kernels would pass for a grid of positions, and be repeated without being divided."""
    config = backbone_config("unet", channels=(4, 4, 8))
    flat, deep = (build_backbone(config, spatial_dims=dims, in_channels=1) for dims in (2, 3))
    tensors = {f"decoder.{key}": value for key, value in flat.build_decoder().state_dict().items()}
    wanted = {f"decoder.{key}": value for key, value in deep.build_decoder().state_dict().items()}
    before = {key: value.shape for key, value in tensors.items()}
    assert fit(tensors, wanted, deep, rule="i3d", resample=True) == []
    assert {key: value.shape for key, value in tensors.items()} == before
