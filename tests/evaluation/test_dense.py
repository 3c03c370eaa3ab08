"""Voxel features and their linear map against interpolation of whole feature maps."""

import pytest
import torch

from ssl_med.evaluation.features import Features
from ssl_med.evaluation.protocols.dense import (
    DenseConfig,
    LinearDecoder,
    Threshold,
    fit_voxels,
    resize,
    sample_voxels,
    set_head,
)
from ssl_med.evaluation.scores import dice_per_region
from ssl_med.evaluation.tasks import Segmentation, TaskConfig
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import DataSpec, SslMedError


def network(dims, name="unet"):
    torch.manual_seed(0)
    widths = {"channels": (4, 8, 8, 16)} if name == "unet" else {}
    return build_backbone(backbone_config(name, **widths), spatial_dims=dims, in_channels=1).eval()


@pytest.mark.parametrize(("dims", "name"), [(2, "unet"), (3, "unet"), (2, "resnet18")])
def test_sampled_features_are_those_of_interpolated_maps(dims, name):
    backbone = network(dims, name)
    shape = (32, 64, 8)[:dims] if name == "unet" else (64, 32)
    image = torch.randn(2, 1, *shape)
    # the mask carries each voxel's number, so that the sample tells where it was taken
    number = torch.arange(image[0, 0].numel()).view(1, 1, *shape).expand(2, -1, *shape).float()
    mask = torch.cat([number, torch.zeros_like(number)], 1)
    levels = (0, 2)
    with torch.no_grad():
        batch = {"image": image, "mask": mask, "id": ["a", "b"]}
        names, x, regions = sample_voxels(backbone, batch, levels, 30, torch.Generator().manual_seed(0))
        pyramid = backbone(image)
        whole = torch.cat([resize(pyramid[level], list(shape)) for level in levels], 1).flatten(2)
    assert names == ["a"] * 30 + ["b"] * 30
    for row in range(60):
        place = int(regions[row, 0])
        assert torch.allclose(x[row], whole[row // 30, :, place], atol=1e-5)


def test_half_of_the_voxels_are_labelled_where_there_are_as_many():
    backbone = network(2)
    mask = torch.zeros(2, 1, 32, 32)
    mask[0, 0, :8, :8] = 1
    mask[1, 0, 0, :3] = 1
    batch = {"image": torch.randn(2, 1, 32, 32), "mask": mask, "id": ["a", "b"]}
    with torch.no_grad():
        _, _, regions = sample_voxels(backbone, batch, (0,), 60, torch.Generator().manual_seed(0))
    assert 30 <= regions[:60].sum() <= 40
    assert 3 <= regions[60:].sum() <= 6


@pytest.mark.parametrize("dims", [2, 3])
def test_the_linear_decoder_is_the_map_of_interpolated_features(dims):
    backbone = network(dims)
    shape = (16, 24, 8)[:dims]
    levels, regions = (0, 1, 2), 2
    decoder = LinearDecoder(backbone, levels, regions)
    g = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(regions, 8 + 8 + 16, generator=g), torch.randn(regions, generator=g)
    decoder.fill(weight, bias)
    image = torch.randn(2, 1, *shape)
    with torch.no_grad():
        pyramid = backbone(image)
        joined = torch.cat([resize(pyramid[level], list(shape)) for level in levels], 1)
        expected = torch.einsum("kd,bd...->bk...", weight, joined) + bias.view(1, -1, *[1] * dims)
        assert torch.allclose(decoder(pyramid), expected, atol=1e-4)
        spec = DataSpec(
            name="x", spatial_dims=dims, in_channels=1, patch_size=shape, target="mask", class_names=("p", "q")
        )
        task = Segmentation(TaskConfig(), spec, backbone, decoder).eval()
        set_head(task, torch.tensor([0.5, -1.0]))
        shifted = expected - torch.tensor([0.5, -1.0]).view(1, -1, *[1] * dims)
        assert torch.allclose(task.predict(image, backbone, decoder), shifted, atol=1e-4)


def test_a_region_that_is_a_linear_function_of_the_features_is_found():
    g = torch.Generator().manual_seed(0)
    direction = torch.randn(5, 2, generator=g)

    def part(n):
        x = torch.randn(n, 5, generator=g)
        return Features(tuple(map(str, range(n))), x, (x @ direction > 0.3).float())

    train, val = part(900), part(300)
    weight, bias, chosen, notes = fit_voxels(DenseConfig(most=500), train, val, generator=g)
    answer = val.x.double() @ weight.T + bias > 0
    assert (answer == (val.label > 0.5)).double().mean() > 0.97
    assert set(chosen) == {"l2/0", "l2/1"}
    assert notes == () or "max_iter" in notes[0]
    empty = Features(train.ids, train.x, torch.stack([train.label[:, 0], torch.zeros(900)], 1))
    with pytest.raises(SslMedError, match="region number 1 has no voxel in the training crops"):
        fit_voxels(DenseConfig(), empty, val, generator=g)


def test_the_threshold_has_the_best_mean_dice():
    g = torch.Generator().manual_seed(0)
    search = Threshold(2)
    assert search.best().tolist() == [0, 0]
    cases = []
    for _ in range(3):
        mask = (torch.rand(2, 8, 8, generator=g) > 0.8).float()
        logits = 2 * mask + torch.randn(2, 8, 8, generator=g) + 1
        cases.append((logits, mask))
        search.add(logits, mask)
    best = search.best()
    for region in range(2):
        values = {
            float(option): sum(
                float(dice_per_region((lo > option)[region : region + 1], (m > 0.5)[region : region + 1]))
                for lo, m in cases
            )
            for option in search.options
        }
        assert values[float(best[region])] == max(values.values())
