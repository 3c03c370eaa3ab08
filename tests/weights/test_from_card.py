"""data.from_card takes the images' settings from the card of the weights; public data that weights saw are told."""

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from foreign_case import cases_of

from datamodules.lits import LitsData
from datamodules.luna import LunaData
from experiments.config.from_card import taken_from_card
from experiments.config.run import compose_finetune
from experiments.config.sources import data_class_of, names
from experiments.run.pretrained import build_network, seen_in_public
from ssl_med.catalogue import list_names
from ssl_med.checkpoint import Card, save_backbone
from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.find import PACKAGE, family_of
from ssl_med.weights.core.origin import origin_of

CONTRACT = InputContract(
    modality="CT", patch_size=(32, 32, 16), low=-175.0, high=250.0, unit="HU", spacing_mm=(1.5, 1.5, 2.0),
    orientation="RAS", channels=("ct",),
)  # fmt: skip


@pytest.fixture
def card():
    config = backbone_config("unet", channels=(8, 8, 16))
    spec = CONTRACT.spec("elsewhere", in_channels=1)
    return Card(
        method="voco", method_config={"saw": ["LiTS", "BTCV"]}, backbone=asdict(config), spec=spec.to_dict(), skips=None,
        steps=0, seed=0, versions={}, git="", subjects=(), contract=CONTRACT.to_dict(),
    )  # fmt: skip


@pytest.fixture
def file(card, tmp_path):
    network = build_backbone(backbone_config("unet", channels=(8, 8, 16)), spatial_dims=3, in_channels=1)
    save_backbone(tmp_path / "elsewhere.safetensors", backbone=network, decoder=None, card=card)
    return tmp_path / "elsewhere.safetensors"


def composed(file, *words):
    return compose_finetune(["task=lits", "trainer.max_steps=1", f"init={file}", *words])


def test_images_are_prepared_as_the_card_says_and_the_line_rules(file):
    plain = composed(file)
    assert CONTRACT.differences(plain.spec)
    taken = composed(file, "data.from_card=true")
    assert CONTRACT.differences(taken.spec) == ()
    assert taken.spec.patch_size == (32, 32, 16)
    assert taken.sources()["data.spacing_mm"] == f"card of {file}"
    (note,) = taken_from_card(taken)
    assert "data.spacing_mm=[1.5,1.5,2.0]" in note
    assert "data.orientation=RAS" in note
    mine = composed(file, "data.from_card=true", "data.spacing_mm=[3,3,3]", "data.patch_size=[48,48,32]")
    assert mine.spec.spacing_mm == (3, 3, 3)
    assert mine.spec.patch_size == (48, 48, 32)
    assert mine.spec.orientation == "RAS"
    assert taken_from_card(plain) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=lits", "data.from_card=true"], "init=scratch has no card"),
        (["task=chest14", "data.from_card=true", "init=FILE"], "are for 3D images, 'chest14' is 2D"),
    ],
)
def test_a_card_that_is_not_there_or_of_other_images_is_refused(file, words, said):
    with pytest.raises(SslMedError, match=said):
        compose_finetune([word.replace("FILE", str(file)) for word in words])


def test_public_data_that_foreign_weights_saw_are_told(card):
    lits, luna = (SimpleNamespace(public_sets=family.public_sets) for family in (LitsData, LunaData))
    (line,) = seen_in_public(card, lits)
    assert "voco saw LiTS" in line
    assert seen_in_public(card, luna) == []
    brats = SimpleNamespace(public_sets=("BraTS",))
    for saw in ("BraTS 2021", "BraTS2020 (Dataset082_BraTS2020)"):
        assert saw in seen_in_public(replace(card, method_config={"saw": [saw]}), brats)[0]
    assert seen_in_public(replace(card, method_config={"saw": ["BraTSy"]}), brats) == []
    assert seen_in_public(replace(card, method_config={}), lits) == []


def test_what_a_family_saw_is_named_as_the_data_are():
    """A set that begins like one of ours, in other letters or as a part of a word, would be passed over."""
    ours = {name for family in names("data") for name in data_class_of(family).public_sets}
    for family in list_names(PACKAGE):
        for seen in family_of(family).saw:
            alike = [name for name in ours if seen.lower().replace("-", "").startswith(name.lower().replace("-", ""))]
            assert not alike or any(re.match(rf"{re.escape(name)}\b", seen) for name in alike), (family, seen)


@pytest.mark.parametrize(
    ("commercial", "said"),
    [
        (True, ""),
        (False, "; not for commercial use"),
        (None, "; whether it allows commercial use is not known, ask the authors"),
    ],
)
def test_origin_licence_and_exceptions_are_one_line(card, commercial, said):
    assert origin_of(card) == ""  # of a pretraining here
    about = {
        "family": "voco",
        "citation": "Wu et al.",
        "licence": "CC-BY-NC",
        "commercial": commercial,
        "allowed": ["swinViT.a"],
    }
    line = f"family: voco (Wu et al.); licence: CC-BY-NC{said}; allowed to differ: swinViT.a"
    assert origin_of(replace(card, method_config=about)) == line


def test_a_run_takes_weights_from_elsewhere_of_the_family_that_it_names(tmp_path):
    """A ResNet-18 of MoCo may be ImageNet's or MoCo-CXR's, and nothing in the file says which."""
    case = next(one for one in cases_of("moco") if one.name == "v1_resnet18")
    made = case.made()
    path = case.write(tmp_path, made)
    words = ["task=chest14", "trainer.max_steps=1", f"data.root={tmp_path}", f"init={path}", "data.patch_size=[64,64]"]
    words.append("transfer.adapt_channels=true")
    for family, mean in (("moco_cxr", (0.5020,) * 3), ("moco", (0.485, 0.456, 0.406))):
        config = compose_finetune([*words, f"family={family}"])
        loaded = build_network(config, with_decoder=False)
        assert loaded.card.method_config["family"] == family
        assert loaded.config.input_mean == mean
        first = made["state_dict"]["module.encoder_q.conv1.weight"]
        assert torch.equal(loaded.backbone.state_dict()["conv1.weight"], first)
    with pytest.raises(SslMedError, match=r"several families recognise it: moco, moco_cxr; name .*, family=NAME"):
        build_network(compose_finetune(words), with_decoder=False)
    taken = compose_finetune([*words[:4], "family=moco_cxr", "data.from_card=true", "data.image_size=320"])
    assert taken.spec.patch_size == (320, 320)
    assert compose_finetune(words).hash() != compose_finetune([*words, "family=moco"]).hash()


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("scratch", r"family=moco has no effect, since init is scratch"),
        ("none.pth", r"none.pth: no such run folder .*; get it from https://github.com/facebookresearch/moco"),
        ("FILE", r"elsewhere.safetensors: is weights of ours, with a card; family=moco is for weights from elsewhere"),
    ],
)
def test_a_family_without_weights_from_elsewhere_is_refused(init, said, file):
    words = ["task=lits", "trainer.max_steps=1", f"init={init.replace('FILE', str(file))}", "family=moco"]
    with pytest.raises(SslMedError, match=said):
        build_network(compose_finetune(words), with_decoder=False)
