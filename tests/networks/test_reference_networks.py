"""Our encoders and decoders against the classes that define them: the same parameters give the same output."""

import pytest
import torch
from torch import nn

from ssl_med.networks.backbone import backbone_config, build_backbone


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def built(name, dims, channels=1, **settings):
    backbone = build_backbone(backbone_config(name, **settings), spatial_dims=dims, in_channels=channels).eval()
    return backbone, backbone.build_decoder().eval()


def copy_in_order(target: nn.Module, source: nn.Module) -> None:
    """Copies parameters one after the other; both modules define theirs in the order in which they are used."""
    ours, theirs = list(target.parameters()), list(source.parameters())
    assert [p.shape for p in ours] == [p.shape for p in theirs]
    with torch.no_grad():
        for own, other in zip(ours, theirs, strict=True):
            own.copy_(other)


def randomised(network):
    """Every parameter random, so that a norm's scale or a bias that is left out shows."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_densenet_is_monais(dims):
    from monai.networks.nets import DenseNet121

    theirs = randomised(DenseNet121(spatial_dims=dims, in_channels=2, out_channels=3))
    ours, _ = built("densenet121", dims, 2)
    ours.features.load_state_dict(theirs.features.state_dict())
    x = torch.randn(1, 2, *[32] * dims)
    same(ours(x)[-1], torch.relu(theirs.features(x)))


@pytest.mark.parametrize(
    ("dims", "settings", "arguments"),
    [
        (2, {"filters": 8, "blocks": (1, 2)}, {"blocks_down": (1, 2), "norm": "batch"}),
        (
            3,
            {"filters": 8, "blocks": (1, 1, 1), "blocks_up": (2, 1), "resolution": (1.0, 1.0, 3.0)},
            {"blocks_down": (1, 1, 1), "blocks_up": (2, 1), "resolution": (1.0, 1.0, 3.0), "norm": "batch"},
        ),
    ],
)
def test_segresnet_is_monais(dims, settings, arguments):
    from monai.networks.nets import SegResNetDS

    theirs = randomised(SegResNetDS(spatial_dims=dims, init_filters=8, in_channels=1, out_channels=2, **arguments))
    ours, decoder = built("segresnet", dims, norm="batch", **settings)
    ours.encoder.load_state_dict(theirs.encoder.state_dict())
    decoder.up_layers.load_state_dict({k: v for k, v in theirs.up_layers.state_dict().items() if ".head." not in k})
    x = torch.randn(1, 1, *[16] * dims)
    pyramid = ours(x)
    same(theirs.up_layers[-1]["head"](decoder(pyramid)), theirs(x))
    assert [tuple(16 // side for side in level.shape[2:]) for level in pyramid] == list(ours.strides)
    if dims == 3:
        assert ours.strides == ((1, 1, 1), (2, 2, 1), (4, 4, 2))  # 1, 1, 3 mm: the thick axis is halved once less


@pytest.mark.parametrize(
    ("dims", "merging", "v2"),
    [
        (2, "v1", False),
        (3, "v1_legacy", False),
        *(pytest.param(3, name, v2, marks=pytest.mark.slow) for name, v2 in (("v1", False), ("v2", True))),
    ],
)
def test_swin_unetr_is_monais(dims, merging, v2, monkeypatch):
    from monai.networks.nets import SwinUNETR, swin_unetr

    names = {"v1": "merging", "v2": "mergingv2", "v1_legacy": _MergingOf14.named(swin_unetr)}
    heads, depths = (1, 2, 2, 2), (2, 1, 1, 1)
    shape = {"feature_size": 12, "num_heads": heads, "depths": depths, "window_size": 3, "spatial_dims": dims}
    theirs = randomised(SwinUNETR(in_channels=1, out_channels=2, downsample=names[merging], use_v2=v2, **shape))
    ours, decoder = built(
        "swin_unetr", dims, feature_size=12, heads=heads, depths=depths, window=3, merging=merging, v2=v2
    )
    ours.swin.load_state_dict(theirs.swinViT.state_dict())
    beside = [theirs.encoder1, theirs.encoder2, theirs.encoder3, theirs.encoder4, nn.Identity()]
    for own, other in zip([*decoder.laterals, decoder.bottom], [*beside, theirs.encoder10], strict=True):
        copy_in_order(own, other)
    steps = (theirs.decoder5, theirs.decoder4, theirs.decoder3, theirs.decoder2, theirs.decoder1)
    for up, block, step in zip(decoder.up, decoder.blocks, steps, strict=True):
        copy_in_order(up, step.transp_conv)
        copy_in_order(block, step.conv_block)
    x = torch.randn(1, 1, *[64] * dims)
    with torch.no_grad():
        same(theirs.out(decoder(ours(x))), theirs(x))


class _MergingOf14:
    """How MONAI up to 1.4 joined eight tokens, written out from its order of slices."""

    @staticmethod
    def named(module):
        class Merging(module.PatchMergingV2):
            def forward(self, x):
                parts = [
                    x[:, 0::2, 0::2, 0::2], x[:, 1::2, 0::2, 0::2], x[:, 0::2, 1::2, 0::2], x[:, 0::2, 0::2, 1::2],
                    x[:, 1::2, 0::2, 1::2], x[:, 0::2, 1::2, 0::2], x[:, 0::2, 0::2, 1::2], x[:, 1::2, 1::2, 1::2],
                ]  # fmt: skip
                return self.reduction(self.norm(torch.cat(parts, -1)))

        return Merging


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_vit_with_its_decoder_is_monais_unetr(dims):
    from monai.networks.nets import UNETR

    side = 32
    shape = {"feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 2, "spatial_dims": dims}
    theirs = randomised(UNETR(in_channels=1, out_channels=2, img_size=side, **shape))
    ours, decoder = built(
        "vit", dims, width=24, mlp=48, heads=2, grid=side // 16, class_token=False, qkv_bias=False, decoder_width=4
    )
    vit = theirs.vit
    copy_in_order(ours.embed, vit.patch_embedding.patch_embeddings)
    grid = [side // 16] * dims
    positions = vit.patch_embedding.position_embeddings.transpose(1, 2).reshape(1, 24, *grid)
    with torch.no_grad():
        ours.positions.patches.copy_(positions)
    used = {key: value for key, value in vit.blocks.state_dict().items() if ".norm_cross_attn." not in key}
    ours.blocks.load_state_dict(used)
    ours.norm.load_state_dict(vit.norm.state_dict())
    for own, other in zip(
        decoder.laterals, (theirs.encoder1, theirs.encoder2, theirs.encoder3, theirs.encoder4), strict=True
    ):
        copy_in_order(own, other)
    steps = (theirs.decoder5, theirs.decoder4, theirs.decoder3, theirs.decoder2)
    for up, block, step in zip(decoder.up, decoder.blocks, steps, strict=True):
        copy_in_order(up, step.transp_conv)
        copy_in_order(block, step.conv_block)
    x = torch.randn(1, 1, *[side] * dims)
    with torch.no_grad():
        same(theirs.out(decoder(ours(x))), theirs(x))


def test_tokens_that_are_left_out_change_no_other_token_before_the_blocks():
    ours, _ = built("vit", 2, width=24, depth=4, heads=2, grid=4)
    x = torch.randn(2, 1, 64, 64)
    everything, keep = ours.tokens(x), torch.tensor([[3, 0, 9], [15, 2, 7]])
    kept = ours.tokens(x, keep)
    assert (everything.shape, kept.shape) == ((2, 17, 24), (2, 4, 24))
    for row in range(2):
        same(kept[row, 1:], everything[row, 1 + keep[row]])
    same(kept[:, 0], everything[:, 0])
    assert [level.shape for level in ours.encode(kept)] == [(2, 4, 24)] * 4


def test_positions_are_interpolated_for_other_grids_and_exact_for_their_own():
    ours, _ = built("vit", 3, width=24, depth=4, heads=2, grid=2, thin_patch=8)
    assert ours.strides[1] == (16, 16, 8)
    with torch.no_grad():
        ours.positions.patches.fill_(0.5)
    for sides in ((32, 32, 16), (48, 32, 8)):
        size = torch.Size(a // b for a, b in zip(sides, (16, 16, 8), strict=True))
        same(ours._positions(size), torch.full((1, 24, *size), 0.5))
        assert ours(torch.randn(1, 1, *sides))[-1].shape[2:] == size


@pytest.mark.parametrize(
    ("name", "dims", "plan"),
    [
        (
            "plainconv",
            2,
            {"features": (8, 16), "kernels": ((3, 3), (3, 3)), "strides": ((1, 1), (2, 2)), "blocks": (2, 2)},
        ),
        (
            "plainconv",
            3,
            {
                "features": (8, 16, 16),
                "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
                "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
                "blocks": (2, 2, 2),
            },
        ),
        (
            "resenc",
            2,
            {"features": (8, 16), "kernels": ((3, 3), (3, 3)), "strides": ((1, 1), (2, 2)), "blocks": (1, 3)},
        ),
        (
            "resenc",
            3,
            {
                "features": (8, 16, 16),
                "kernels": ((1, 3, 3), (3, 3, 3), (3, 3, 3)),
                "strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)),
                "blocks": (1, 2, 2),
            },
        ),
    ],
)
def test_nnunets_encoders_are_those_of_its_library(name, dims, plan):
    unet = pytest.importorskip(
        "dynamic_network_architectures.architectures.unet",
        reason="dynamic_network_architectures is not installed; `pip install dynamic_network_architectures` to compare",
    )
    kind = {"plainconv": unet.PlainConvUNet, "resenc": unet.ResidualEncoderUNet}[name]
    per_stage = {"plainconv": "n_conv_per_stage", "resenc": "n_blocks_per_stage"}[name]
    up = {"plainconv": 2, "resenc": 1}[name]
    theirs = randomised(
        kind(
            input_channels=1,
            n_stages=len(plan["features"]),
            features_per_stage=plan["features"],
            conv_op=nn.Conv2d if dims == 2 else nn.Conv3d,
            kernel_sizes=plan["kernels"],
            strides=plan["strides"],
            num_classes=2,
            n_conv_per_stage_decoder=[up] * (len(plan["features"]) - 1),
            conv_bias=True,
            norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            **{per_stage: plan["blocks"]},
        )
    )
    ours, decoder = built(name, dims, **plan)
    copy_in_order(ours, theirs.encoder)
    copy_in_order(decoder.blocks, theirs.decoder.stages)
    copy_in_order(decoder.up, theirs.decoder.transpconvs)
    x = torch.randn(1, 1, *[16] * dims)
    with torch.no_grad():
        pyramid = ours(x)
        for own, other in zip(pyramid, theirs.encoder(x), strict=True):
            same(own, other)
        same(theirs.decoder.seg_layers[-1](decoder(pyramid)), theirs(x))


@pytest.mark.parametrize("dims", [2, 3])
def test_any_network_of_monai_is_an_encoder_by_the_names_of_its_modules(dims):
    from monai.networks.nets import BasicUNet

    features = [8, 8, 16, 16, 16, 8]
    ours, decoder = built(
        "monai", dims, target="BasicUNet", args={"features": features}, levels=("conv_0", "down_1", "down_2")
    )
    theirs = randomised(BasicUNet(spatial_dims=dims, in_channels=1, features=features))
    ours.network.load_state_dict({k: v for k, v in theirs.state_dict().items() if k in ours.network.state_dict()})
    x = torch.randn(1, 1, *[16] * dims)
    first = theirs.conv_0(x)
    second = theirs.down_1(first)
    for own, other in zip(ours(x), (first, second, theirs.down_2(second)), strict=True):
        same(own, other)
    assert (ours.channels, ours.strides[-1]) == ((8, 8, 16), (4,) * dims)
    assert not any(key.startswith(("down_3", "upcat")) for key in ours.state_dict())  # what no level needs
    levels = [id(p) for level in ours.levels_of_modules() for module in level for p in module.parameters()]
    assert sorted(levels) == sorted(id(p) for p in ours.parameters())
    assert decoder(ours(x)).shape[2:] == x.shape[2:]


def test_dilated_stages_see_as_far_and_lose_no_resolution():
    from monai.networks.nets import resnet10

    ours, _ = built("resnet10", 2, dilated=True)
    theirs = resnet10(
        spatial_dims=2, n_input_channels=1, num_classes=1, feed_forward=False, bias_downsample=False
    ).eval()
    ours.load_state_dict(theirs.state_dict())  # the same tensors, another function
    x = torch.randn(1, 1, 64, 64)
    assert [tuple(level.shape[2:]) for level in ours(x)] == [(32, 32), (16, 16), (8, 8), (8, 8), (8, 8)]
    dilations = {
        part.dilation[0] for part in ours.layer4.modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] > 1
    }
    assert dilations == {4}
    assert {
        part.dilation[0] for part in ours.layer3.modules() if isinstance(part, nn.Conv2d) and part.kernel_size[0] > 1
    } == {2}
