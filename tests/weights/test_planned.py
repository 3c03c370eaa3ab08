"""nnU-Net and nnssl: decoders, what is written for them, and their own loaders where the package is there."""

import json

import pytest
import torch
from foreign_case import cases_of
from planned_layout import decode, encode, kwargs, turned

from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import convert
from ssl_med.weights.core.exporter import Source, export

ABOUT = {"versions": {}, "git": ""}


def imported(name, number, folder):
    """A case of a family as one of our networks, as it is exported; and what the original saved."""
    case = cases_of(name)[number]
    folder.mkdir()
    made = case.made()
    path = case.write(folder, made)
    found = convert(path, name, **ABOUT)
    decoder = found.decoder.eval() if found.decoder is not None else None
    return Source(path, found.backbone.eval(), decoder, found.card), made, case


def test_the_decoder_is_that_of_nnunet(tmp_path):
    source, made, case = imported("nnunet", 0, tmp_path / "in")
    state, image = made["network_weights"], case.images()
    theirs = turned(lambda x: decode(state, encode(state, x)), image)
    with torch.no_grad():
        ours = source.decoder(source.backbone(image))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_a_decoder_with_unequal_stages_is_left_out_by_name(tmp_path):
    case = cases_of("nnunet")[0]
    made = case.made()
    state = made["network_weights"]
    for key in [key for key in state if key.startswith("decoder.stages.0.convs.1.")]:
        del state[key]
    found = convert(case.write(tmp_path, made), "nnunet", **ABOUT)
    assert found.decoder is None
    assert "decoder with another number of convolutions in each stage" in found.account.dropped.values()


def test_ct_is_clipped_and_normalised_by_the_numbers_of_the_plans(tmp_path):
    source, _, _ = imported("nnunet", 1, tmp_path / "in")
    values = torch.tensor([-2000.0, -900.0, 80.0, 300.0, 5000.0]).view(1, 1, 5, 1, 1)
    wanted = [-7.0, -7.0, 0.0, 220 / 140, 220 / 140]  # less 80, over 140, between -900 and 300 HU
    assert source.contract.transform()(values).flatten().tolist() == pytest.approx(wanted)
    assert source.contract.spacing_mm == (0.7, 0.8, 3.0)
    assert source.contract.patch_size == (16, 12, 8)


@pytest.mark.parametrize(
    ("named", "saw"),
    [
        ("Dataset003_Liver", "MSD (Dataset003_Liver)"),
        ("Dataset027_ACDC", "ACDC (Dataset027_ACDC)"),
        ("Dataset082_BraTS2020", "BraTS2020 (Dataset082_BraTS2020)"),
        ("", "a data set that the file does not name"),
    ],
)
def test_what_nnunet_saw_stands_in_its_plans(named, saw, tmp_path):
    case = cases_of("nnunet")[0]
    made = case.made()
    made["init_args"]["plans"]["dataset_name"] = named
    assert convert(case.write(tmp_path, made), "nnunet", **ABOUT).card.method_config["saw"] == [saw]


@pytest.mark.parametrize("number", [0, 1, 3])
def test_what_nnunet_gets_is_what_nnunet_saved(number, tmp_path):
    source, made, _ = imported("nnunet", number, tmp_path / "in")
    lines = export(source, "nnunet", tmp_path / "out.pth")
    written = torch.load(tmp_path / "out.pth", weights_only=True)["network_weights"]
    wanted = {key: value for key, value in made["network_weights"].items() if ".seg_layers." not in key}
    assert written.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(written[key], value), key
    assert any("[[1, 3, 3], [3, 3, 3], [3, 3, 3]]" in line for line in lines)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_nnssl_gets_is_what_nnssl_saved(number, tmp_path):
    source, made, case = imported("nnssl", number, tmp_path / "in")
    export(source, "nnssl", tmp_path / "out")
    held = torch.load(tmp_path / "out" / "checkpoint_final.pth", weights_only=True)
    wanted = {key: value for key, value in made["network_weights"].items() if key.startswith("encoder.")}
    assert held["network_weights"].keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(held["network_weights"][key], value), key
    plan = json.loads((tmp_path / "out" / "adaptation_plan.json").read_text())
    assert plan == held["nnssl_adaptation_plan"]
    assert plan["architecture_plans"]["arch_kwargs"] == kwargs(deep=number != 1) | {
        "n_conv_per_stage_decoder": [1, 1]
    } | ({} if number != 1 else {"n_conv_per_stage_decoder": [2, 2]})
    for key in plan["keys_to_in_proj"]:
        assert f"{key}.weight" in held["network_weights"]
    again = convert(tmp_path / "out", "", **ABOUT)
    assert again.contract.spacing_mm == source.contract.spacing_mm
    with torch.no_grad():
        for one, two in zip(source.backbone(case.images()), again.backbone.eval()(case.images()), strict=True):
            assert torch.equal(one, two)


def test_what_nnunet_does_not_have_is_refused(tmp_path):
    encoder, _, _ = imported("nnssl", 0, tmp_path / "a")
    with pytest.raises(SslMedError, match="no decoder with skips"):
        export(encoder, "nnunet", tmp_path / "out.pth")
    other = build_backbone(backbone_config("unet", channels=(8, 8, 16)), spatial_dims=3, in_channels=1)
    with pytest.raises(SslMedError, match="is a unet"):
        export(Source(tmp_path, other, None, encoder.card), "nnssl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_nnssl_has_and_we_do_not_is_refused_by_name(tmp_path):
    case = cases_of("nnssl")[0]
    made = case.made()
    made["nnssl_adaptation_plan"]["architecture_plans"] = {"arch_class_name": "PrimusM", "arch_kwargs": None}
    with pytest.raises(SslMedError, match="is a PrimusM"):
        convert(case.write(tmp_path, made), "nnssl", **ABOUT)


@pytest.mark.parametrize("number", [0, 3])
def test_the_real_loader_of_nnunet_takes_it(number, tmp_path):
    loader = pytest.importorskip("nnunetv2.run.load_pretrained_weights", reason="nnunetv2 is not installed")
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    source, _, case = imported("nnunet", number, tmp_path / "in")
    export(source, "nnunet", tmp_path / "out.pth")
    network = get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        kwargs(deep=False),
        ["conv_op", "norm_op", "nonlin"],
        1,
        2,
        deep_supervision=False,
    ).eval()
    loader.load_pretrained_weights(network, str(tmp_path / "out.pth"))
    with torch.no_grad():
        theirs = turned(network.encoder, case.images())
        ours = source.backbone(case.images())
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
