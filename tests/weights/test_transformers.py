"""Tokens of vision transformers: class token, registers and patches as the original has them, whole and in part."""

import pytest
import torch
from foreign_case import cases_of
from torch.nn import functional as F
from transformer_layouts import IMAGENET, normalised, smoothed, tokens_of, transformer

from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import Wishes, convert

ABOUT = {"versions": {}, "git": ""}


def imported(case, name, folder, **wishes):
    made = case.made()
    return made, convert(case.write(folder, made), name, wishes=Wishes(**wishes), **ABOUT).backbone.eval()


@pytest.mark.parametrize(
    ("name", "number", "options"),
    [
        ("dinov2", 1, {"heads": 3, "resize": smoothed}),
        ("dinov3", 0, {"heads": 6, "eps": 1e-5, "rotary": torch.float32}),
    ],
)
@torch.no_grad()
def test_all_tokens_are_those_of_the_original(name, number, options, tmp_path):
    case = cases_of(name)[number]
    made, backbone = imported(case, name, tmp_path)
    x = case.images()
    theirs = tokens_of(made, normalised(x, *IMAGENET), **options)
    size = [side // backbone.config.patch for side in x.shape[2:]]
    mine = backbone.encode(backbone.tokens(backbone.normalised(x)), size)[-1]
    assert mine.shape[1] == 1 + 4 + size[0] * size[1]
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    order = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(0)).expand(len(x), -1)
    moved = backbone.encode(backbone.tokens(backbone.normalised(x), order), size, order)[-1]
    torch.testing.assert_close(moved[:, :5], mine[:, :5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved[:, 5:], mine[:, 5 + order[0]], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_another_patch_resamples_the_embedding_and_says_so(tmp_path):
    case = cases_of("dinov2")[0]
    made = case.made()
    found = convert(case.write(tmp_path, made), "dinov2", wishes=Wishes(backbone={"patch": 21}), **ABOUT)
    assert found.notes == ("patch embedding resampled: embed.weight",)
    x = torch.rand(1, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    larger = F.interpolate(x, size=21, mode="bilinear", align_corners=False)
    same = F.conv2d(x, made["patch_embed.proj.weight"], made["patch_embed.proj.bias"])
    torch.testing.assert_close(found.backbone.embed(larger), same, rtol=1e-4, atol=1e-4)


def test_rotary_positions_are_not_inflated(tmp_path):
    case = cases_of("med_dinov3")[0]
    with pytest.raises(SslMedError, match=r"does not become a 3D vit: backbone.positions=rotary_bf16 exists in 2D"):
        convert(case.write(tmp_path, case.made()), "med_dinov3", wishes=Wishes(inflate="i3d"), **ABOUT)


def test_heads_that_no_file_says_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(transformer(torch.Generator(), width=64, depth=1), path)
    with pytest.raises(SslMedError, match="tokens of 64 channels, and the file does not say its attention heads"):
        convert(path, "timm_vit", **ABOUT)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"patch": 22}, "patch is 22; it must be a product of 2, 3, 5 and 7"),
        ({"patch": 14, "thin_patch": 4}, "thin_patch is 4; beside backbone.patch=14 it must be one of 2, 14"),
        ({"positions": "rotary", "width": 36, "heads": 6}, "needs a multiple of 4 channels for each head; there are 6"),
    ],
)
def test_a_transformer_that_cannot_be_is_refused(settings, complaint):
    with pytest.raises(SslMedError, match=complaint):
        backbone_config("vit", **settings)
