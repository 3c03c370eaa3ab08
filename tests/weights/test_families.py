"""Every family: it declares itself, knows its own files, and the network that it fills computes what the original computes."""

import pytest
import torch
from foreign_case import FOLDER, all_cases, tensors_in

from ssl_med.catalogue import list_names
from ssl_med.checkpoint import load_backbone, save_backbone
from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import Wishes, convert
from ssl_med.weights.core.files import read_document
from ssl_med.weights.core.find import choose, family_of, matches

ABOUT = {"versions": {}, "git": ""}
CASES = all_cases()
FIRST = {name: case for name, case in reversed(CASES)}  # the first one of each family


# families of small files and of each kind of rule, which `make test` runs; CI runs all
QUICK = ("torchvision", "c2l", "models_genesis", "timm_vit", "nnunet")


def each():
    for name, case in CASES:
        quick = name in QUICK and case is FIRST[name] and not case.slow
        yield pytest.param(name, case, id=f"{name}-{case.name}", marks=[] if quick else [pytest.mark.slow])


def test_every_family_has_cases():
    assert sorted(path.stem for path in FOLDER.glob("*.py")) == list_names("ssl_med.weights")


@pytest.mark.parametrize("name", list_names("ssl_med.weights"))
def test_a_family_declares_where_it_comes_from(name):
    family = family_of(name)
    assert family.citation
    assert family.licence
    assert family.source
    assert family.commercial in (True, False, None)


@pytest.mark.parametrize(("name", "case"), each())
def test_the_features_are_those_of_the_original(name, case, tmp_path):
    made = case.made()
    path = case.write(tmp_path, made)
    found = convert(path, name, wishes=Wishes(**case.wishes), **ABOUT)
    assert {match.name for match in matches(read_document(path))} == {*case.also, *(() if case.named else (name,))}
    assert found.account.complete
    assert not set(found.account.dropped) & {theirs for theirs, _ in found.account.used}
    image = case.images()
    with torch.no_grad():
        mine, theirs = found.backbone.eval()(image), case.forward(made, image)
        levels = zip(mine, theirs, strict=True) if isinstance(theirs, list) else [(mine[-1], theirs)]
        for ours, other in levels:
            assert other.std() > 1e-3  # features that are all zero would agree with anything
            torch.testing.assert_close(ours, other, rtol=case.tolerance, atol=case.tolerance * float(other.abs().max()))
    save_backbone(tmp_path / "ours.safetensors", backbone=found.backbone, decoder=found.decoder, card=found.card)
    again, _, card, report = load_backbone(
        tmp_path / "ours.safetensors", in_channels=case.shape[0], with_decoder=found.decoder is not None
    )
    assert report.complete
    assert card.input_contract() == found.contract
    assert card.method_config["family"] == name
    with torch.no_grad():
        for one, two in zip(again.eval()(image), mine, strict=True):
            assert torch.equal(one, two)


def gaps(state):
    for key in list(state)[::3]:  # of each of several encoders in a file, however they lie
        del state[key]


def strange(state):
    state["strange.extra.weight"] = torch.zeros(3)


def transposed(state):
    for key, value in state.items():
        if value.ndim > 1:
            state[key] = value.flatten().reshape(*reversed(value.shape))


def infinite(state):
    for value in state.values():
        if value.is_floating_point():
            value.flatten()[:1] = float("inf")


def damaged():
    """Every family with gaps and turned tensors; what is strange or infinite is found by what they share, so by the quick."""
    for name in list_names("ssl_med.weights"):
        for damage in (gaps, transposed, strange, infinite) if name in QUICK else (gaps, transposed):
            marks = [] if name in QUICK else [pytest.mark.slow]
            yield pytest.param(name, damage, id=f"{name}-{damage.__name__}", marks=marks)


@pytest.mark.parametrize(("name", "damage"), damaged())
def test_a_damaged_file_is_refused_in_one_line(name, damage, tmp_path):
    case = FIRST[name]
    made = case.made()
    damage(tensors_in(made))
    path = case.write(tmp_path, made)
    with pytest.raises(SslMedError) as caught:
        convert(path, name, wishes=Wishes(**case.wishes), **ABOUT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_family_is_refused(tmp_path):
    torch.save({"strange.weight": torch.zeros(3, 3)}, tmp_path / "x.pth")
    for name in list_names("ssl_med.weights"):
        with pytest.raises(SslMedError, match=f"does not have the layout of family={name}"):
            choose(read_document(tmp_path / "x.pth"), name)
