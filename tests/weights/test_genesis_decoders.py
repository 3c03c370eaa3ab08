"""The decoders of Models Genesis' relatives restore from the features that the originals restore from."""

import pytest
import torch
from foreign_case import cases_of
from genesis_layouts import decode, encode, inner

from ssl_med.checkpoint import load_backbone, save_backbone
from ssl_med.weights.core.convert import Wishes, convert

SKIPS = {"models_genesis": True, "semantic_genesis": True, "transvw": True, "pcrl": True, "pcrl_v2": False}


def converted(case, name, folder, made):
    return convert(case.write(folder, made), name, wishes=Wishes(**case.wishes), versions={}, git="")


@pytest.mark.parametrize("name", SKIPS)
def test_the_decoder_is_the_originals(name, tmp_path):
    case = cases_of(name)[0]
    made = case.made()
    found = converted(case, name, tmp_path, made)
    assert found.card.skips is SKIPS[name]
    x = case.images()
    with torch.no_grad():
        theirs = decode(inner(made), encode(inner(made), x), skips=SKIPS[name])
        torch.testing.assert_close(found.decoder.eval()(found.backbone.eval()(x)), theirs, rtol=1e-4, atol=1e-4)
        save_backbone(tmp_path / "ours.safetensors", backbone=found.backbone, decoder=found.decoder, card=found.card)
        backbone, decoder, *_ = load_backbone(tmp_path / "ours.safetensors", in_channels=1, with_decoder=True)
        torch.testing.assert_close(decoder.eval()(backbone.eval()(x)), theirs, rtol=1e-4, atol=1e-4)


def test_batch_statistics_reach_the_decoder_and_leave_the_running_ones(tmp_path):
    case = next(case for case in cases_of("models_genesis") if case.wishes)
    made = case.made()
    found = converted(case, "models_genesis", tmp_path, made)
    before = {key: value.clone() for key, value in found.backbone.state_dict().items()}
    x = case.images()
    with torch.no_grad():
        theirs = decode(inner(made), encode(inner(made), x, batch=True), batch=True)
        torch.testing.assert_close(found.decoder.eval()(found.backbone.eval()(x)), theirs, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in found.backbone.state_dict().items())


def test_the_file_of_an_encoder_has_no_decoder(tmp_path):
    case = next(case for case in cases_of("semantic_genesis") if case.name == "en")
    assert converted(case, "semantic_genesis", tmp_path, case.made()).decoder is None


def test_features_for_each_voxel_are_those_of_anatomix(tmp_path):
    import importlib.util

    from foreign_case import FOLDER

    spec = importlib.util.spec_from_file_location("anatomix_case", FOLDER / "anatomix.py")
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    for case in layout.CASES:
        made = case.made()
        found = converted(case, "anatomix", tmp_path, made)
        x = case.images()
        with torch.no_grad():
            _, theirs = layout.run(made, x, **layout.SIZES[case.name])
            torch.testing.assert_close(found.decoder.eval()(found.backbone.eval()(x)), theirs, rtol=1e-4, atol=1e-4)
