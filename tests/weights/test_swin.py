"""SwinUNETR's decoder, and MONAI's own loader of a pretrained transformer beside ours."""

import pytest
import torch
from foreign_case import cases_of
from swin_layout import original

from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import Wishes, convert
from ssl_med.weights.core.exporter import Source, export

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_real_loader_of_monai_takes_what_is_written(tmp_path):
    from monai.networks.nets import SwinUNETR

    case = cases_of("swin_unetr")[2]
    wishes = Wishes(backbone={"merging": "v1"})
    found = convert(case.write(tmp_path, case.made()), "swin_unetr", wishes=wishes, **ABOUT)
    source = Source(tmp_path, found.backbone.eval(), None, found.card)
    lines = export(source, "swin_unetr", tmp_path / "out.pt")
    assert any("MONAI 1.5 or later" in line for line in lines)
    network, image = SwinUNETR(in_channels=1, out_channels=2, feature_size=12).eval(), case.images()
    network.load_from(torch.load(tmp_path / "out.pt", weights_only=True))
    with torch.no_grad():
        for ours, theirs in zip(source.backbone(image)[1:], network.swinViT(image, True), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    again = convert(tmp_path / "out.pt", "", wishes=wishes, **ABOUT)
    assert all(
        torch.equal(one, two)
        for one, two in zip(found.backbone.state_dict().values(), again.backbone.state_dict().values(), strict=True)
    )


def test_what_monai_would_leave_random_is_refused(tmp_path):
    case = cases_of("voco")[1]
    found = convert(case.write(tmp_path, case.made()), "voco", **ABOUT)
    with pytest.raises(SslMedError, match=r"backbone\.v2"):
        export(Source(tmp_path, found.backbone, None, found.card), "swin_unetr", tmp_path / "out.pt")
