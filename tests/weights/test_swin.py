"""SwinUNETR's decoder, and MONAI's own loader of a pretrained transformer beside ours."""

import torch
from foreign_case import cases_of
from swin_layout import original

from ssl_med.weights.core.convert import Wishes, convert

ABOUT = {"versions": {}, "git": ""}


def test_the_decoder_is_that_of_monai(tmp_path):
    case = cases_of("voco")[0]
    made = case.made()
    found = convert(case.write(tmp_path, made), "voco", **ABOUT)
    image = torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(1))
    network, seen = original(made["state_dict"], v2=True), []
    network.decoder1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        network(image)
        ours = found.decoder.eval()(found.backbone.eval()(image))
    torch.testing.assert_close(ours, seen[0], rtol=1e-4, atol=1e-4 * float(seen[0].abs().max()))


def test_blocks_without_the_rest_of_the_decoder_are_left_out_by_name(tmp_path):
    case = cases_of("voco")[1]
    found = convert(case.write(tmp_path, case.made()), "voco", **ABOUT)
    assert found.decoder is None
    dropped = [key for key in found.account.dropped if "encoder10" in key]
    assert len(dropped) == 2


def test_todays_order_of_tokens_is_a_setting_and_computes_something_else(tmp_path):
    case = cases_of("swin_unetr")[0]
    made = case.made()
    path, image = case.write(tmp_path, made), case.images()
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).eval()
    network.load_from(made)
    with torch.no_grad():
        theirs = network.swinViT(image, True)
        old = convert(path, "swin_unetr", **ABOUT).backbone.eval()(image)[1:]
        new = convert(path, "swin_unetr", wishes=Wishes(backbone={"merging": "v1"}), **ABOUT).backbone.eval()(image)[1:]
    for ours, other in zip(new, theirs, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)
    assert float((old[2] - theirs[2]).abs().max()) > 0.1
