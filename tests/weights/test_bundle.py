"""A MONAI bundle answers as the network that it was written from, on the grid of each file."""

import json
import re
from dataclasses import replace

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from ssl_med.checkpoint import Card
from ssl_med.config import to_plain
from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.heads import SegmentationHead
from ssl_med.spec import SslMedError
from ssl_med.weights.core.bundle_network import network_of
from ssl_med.weights.core.exporter import Regions, Source, export

PATCH = (16, 16, 16)
WINDOW = InputContract("CT", PATCH, low=-100.0, high=300.0, unit="HU", orientation="LPS")
BRAIN = InputContract("MR", PATCH, scaling="percentile", low=1.0, high=99.0, unit="%", orientation="LPS")
NETWORKS = {
    "unet": {"channels": (8, 8, 16), "norm": "instance"},
    "segresnet": {"filters": 8, "blocks": (1, 1, 1), "norm": "group"},
    "swin_unetr": {"feature_size": 12, "merging": "v2"},
}


def source(name, tmp_path, *, contract=WINDOW, regions=("liver", "$tumour"), softmax=False, channels=1):
    torch.manual_seed(0)
    config = backbone_config(name, **NETWORKS[name])
    backbone = build_backbone(config, spatial_dims=3, in_channels=channels).eval()
    decoder = backbone.build_decoder().eval() if regions else None
    head = Regions(SegmentationHead(decoder.out_channels, len(regions), 3), regions, softmax) if regions else None
    card = Card(
        method="finetune lits",
        method_config={},
        backbone=to_plain(config),
        spec=contract.spec("lits", in_channels=channels).to_dict(),
        skips=True if regions else None,
        steps=3,
        seed=0,
        versions={},
        git="",
        subjects=(),
        contract=contract.to_dict(),
    )
    return Source(tmp_path, backbone, decoder, card, head)


def scan(folder, name="one.nii.gz"):
    """An oblique-free scan whose axes are neither in the network's order nor direction."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(100, 150, PATCH).astype(np.float32)
    affine = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 7], [0, 1.0, 0, -3], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, affine), folder / name)
    return nib.load(folder / name)


def turn(image, codes):
    there = nib.orientations.axcodes2ornt(tuple(codes))
    return image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), there))


def run(bundle, scans):
    monai.bundle.run(
        config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle), dataset_dir=str(scans)
    )
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("name", "contract", "softmax", "ours"), [("unet", BRAIN, True, True), ("segresnet", WINDOW, False, False)]
)
def test_it_segments_scans_on_their_own_grid(name, contract, softmax, ours, tmp_path):
    made = source(name, tmp_path, contract=contract, softmax=softmax)
    lines = export(made, "monai_bundle", tmp_path / "bundle")
    assert any("ssl_med" in line for line in lines[1:]) is ours
    about = json.loads((tmp_path / "bundle/configs/metadata.json").read_text())
    assert ("ssl-med" in about["required_packages_version"]) is ours
    assert about["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "liver",
        "1": " $tumour",
    }  # no expression
    assert InputContract.from_dict(json.loads(about["input_contract"])) == contract
    file = scan(tmp_path / "scans")
    run(tmp_path / "bundle", tmp_path / "scans")
    answer = nib.load(tmp_path / "bundle/answers/one_mask.nii.gz")
    assert np.allclose(answer.affine, file.affine)
    image = contract.transform()(torch.from_numpy(turn(file, "LPS").get_fdata(dtype=np.float32).copy())[None, None])
    with torch.no_grad():
        logits = made.regions.head(made.decoder(made.backbone(image)))[0]
    if softmax:
        best = torch.cat([torch.zeros_like(logits[:1]), logits]).argmax(0)
        logits = torch.stack([(best == number).float() - 0.5 for number in (1, 2)])
    mine = nib.Nifti1Image((logits > 0).byte().movedim(0, -1).numpy(), turn(file, "LPS").affine)
    found = turn(mine, nib.aff2axcodes(file.affine)).get_fdata()
    assert 0.02 < found.mean() < 0.98
    assert (answer.get_fdata() == found).mean() > 0.999


def test_a_swin_unetr_of_today_needs_monai_alone(tmp_path):
    made = source("swin_unetr", tmp_path, regions=("liver",))
    written = network_of(made)
    assert not written.ours
    theirs = monai.bundle.ConfigParser({"network_def": written.definition}).get_parsed_content("network_def").eval()
    theirs.load_state_dict(written.state)
    image = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        ours = made.regions.head(made.decoder(made.backbone(image)))
        torch.testing.assert_close(theirs(image), ours, rtol=1e-4, atol=1e-4)


def test_an_encoder_answers_with_features(tmp_path):
    made = source("unet", tmp_path, contract=BRAIN, regions=())
    export(made, "monai_bundle", tmp_path / "bundle")
    file = scan(tmp_path / "scans")
    run(tmp_path / "bundle", tmp_path / "scans")
    image = BRAIN.transform()(torch.from_numpy(turn(file, "LPS").get_fdata(dtype=np.float32).copy())[None, None])
    with torch.no_grad():
        mine = made.backbone(image)[-1][0].numpy()
    np.testing.assert_allclose(np.load(tmp_path / "bundle/answers/one.npy"), mine, rtol=1e-4, atol=1e-4)


def test_images_are_refused(tmp_path):
    made = source("unet", tmp_path)
    flat = Source(tmp_path, build_backbone(made.backbone.config, spatial_dims=2, in_channels=1), None, made.card)
    with pytest.raises(SslMedError, match=re.escape("is 2D")):
        export(flat, "monai_bundle", tmp_path / "bundle")


def test_a_bundle_says_what_was_trained_on_what_and_whose_licence_holds(tmp_path):
    made = source("unet", tmp_path)
    about = {"family": "voco", "citation": "Wu et al.", "licence": "CC-BY-NC", "commercial": False, "file": "x.pt"}
    about |= {"finetuned_on": "lits", "start": "voco", "saw": ["LiTS"], "leakage": ["the pretraining saw 2 subjects"]}
    export(replace(made, card=replace(made.card, method_config=about)), "monai_bundle", tmp_path / "bundle")
    text = (tmp_path / "bundle" / "docs" / "README.md").read_text()
    for said in (
        "Method: Fine-tuned on the labels of lits, from weights of Wu et al., imported from x.pt, for 3 steps",
        "The pretraining saw LiTS. The pretraining saw 2 subjects.",
        "Licence: CC-BY-NC; not for commercial use.",
    ):
        assert said in text
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["copyright"] == "CC-BY-NC; not for commercial use."
