"""What is special to families of encoders behind a prefix: names that decide, code that is refused, paddings that differ."""

import pickle
import sys
import types

import numpy as np
import pytest
import torch
from convolutional_layouts import beside, resnet
from foreign_case import cases_of

from ssl_med.spec import SslMedError
from ssl_med.weights.core.convert import convert
from ssl_med.weights.core.files import read_document
from ssl_med.weights.core.find import choose, matches, opened

ABOUT = {"versions": {}, "git": ""}


def named(name, case):
    return next(one for one in cases_of(name) if one.name == case)


def test_of_two_trainings_with_one_layout_the_user_names_the_one(tmp_path):
    case = named("moco", "v1_resnet18")
    document = read_document(case.write(tmp_path, case.made()))
    with pytest.raises(SslMedError, match="several families recognise it: moco, moco_cxr; name the one that it is"):
        choose(document)
    _, family, file = choose(document, "moco_cxr")
    contract = family.contract(file)
    assert (contract.modality, contract.patch_size) == ("X-ray", (320, 320))
    assert (contract.mean, contract.std) == ((0.5020,) * 3, (0.085585,) * 3)
    _, family, file = choose(document, "moco")
    assert family.contract(file).modality == "photograph"


def test_an_encoder_without_its_prefix_is_torchvisions_unless_it_is_named(tmp_path):
    path = tmp_path / "bare.pth"
    torch.save(resnet("resnet18", torch.Generator().manual_seed(0), classes=0), path)
    document = read_document(path)
    assert [match.name for match in matches(document)] == ["torchvision"]
    assert choose(document).name == "torchvision"
    _, family, file = choose(document, "simclr")
    assert family.contract(file).mean == ()


def test_the_head_of_a_densenet_is_left_out_by_its_name(tmp_path):
    case = named("mimic_chexpert", "densenet121")
    found = convert(case.write(tmp_path, case.made()), "mimic_chexpert", **ABOUT)
    assert found.account.dropped["model.encoder_q.classifier.weight"] == "projection head"  # rules for `fc` miss it


def test_a_second_name_with_other_numbers_is_unexplained(tmp_path):
    case = named("byol", "lucidrains")
    made = case.made()
    made["net.conv1.weight"] = made["net.conv1.weight"] + 1
    with pytest.raises(SslMedError, match=r"unexplained 1: net\.conv1\.weight"):
        convert(case.write(tmp_path, made), "byol", **ABOUT)


def test_arrays_of_numpy_are_tensors_by_name(tmp_path):
    path = tmp_path / "byol.npz"
    np.savez(path, **{"res_net50/~/initial_conv/w": np.zeros((7, 7, 3, 64), np.float32)})
    document = read_document(path)
    assert document.containers == [""]
    assert choose(document).name == "byol"


def test_a_checkpoint_without_teacher_gives_the_student(tmp_path):
    case = named("dino_resnet", "full_resnet18")
    made = case.made()
    assert choose(read_document(case.write(tmp_path, made))).file.container == "teacher"
    del made["teacher"]
    found = choose(read_document(case.write(tmp_path, made))).file
    assert found.container == "student"
    key = "module.backbone.conv1.weight"
    assert torch.equal(found.state[key], made["student"][key])


def test_a_pickled_model_is_refused_with_its_familys_remedy(tmp_path, monkeypatch):
    ran = []

    class DenseNet:
        def __setstate__(self, state):
            ran.append(state)

    DenseNet.__module__, DenseNet.__qualname__ = "torchxrayvision.models", "DenseNet"
    package, module = types.ModuleType("torchxrayvision"), types.ModuleType("torchxrayvision.models")
    module.DenseNet = DenseNet
    monkeypatch.setitem(sys.modules, "torchxrayvision", package)
    monkeypatch.setitem(sys.modules, "torchxrayvision.models", module)
    path = tmp_path / "densenet.pt"
    model = DenseNet()
    model.drop_rate = 0
    torch.save(model, path)
    with pytest.raises(SslMedError) as caught:
        opened(path)
    line = str(caught.value)
    assert f"{path}: would run code when it is read (torchxrayvision.models.DenseNet); where you trust it" in line
    assert "state_dict()" in line
    assert line.endswith("family=torchxrayvision")
    assert not ran


def test_code_of_no_family_is_refused_with_the_general_remedy(tmp_path):
    path = tmp_path / "model.pt"
    torch.save(beside, path)
    with pytest.raises(SslMedError, match=r"would run code when it is read .*save its state_dict\(\) alone"):
        opened(path)


def test_a_bare_pickle_is_refused_before_it_is_opened(tmp_path):
    path = tmp_path / "pretrain_res50x1.pkl"
    path.write_bytes(pickle.dumps({"experiment_state": 1}))
    with pytest.raises(SslMedError, match=r"is a pickle, which runs code when it is read; .* numpy\.savez"):
        opened(path)


@pytest.mark.slow
def test_of_even_sides_deepminds_padding_differs_and_the_contract_says_which_do_not(tmp_path):
    case = named("byol", "deepmind")
    made = case.made()
    found = convert(case.write(tmp_path, made), "byol", **ABOUT)
    assert any("32 n + 1" in note for note in found.contract.notes)
    network = found.backbone.eval()

    def apart(side):
        image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            mine, theirs = network(image)[0], case.forward(made, image)[0]
        return float((mine - theirs).abs().max() / theirs.abs().max())

    assert apart(33) < 1e-4
    assert apart(32) > 0.1
