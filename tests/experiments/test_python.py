"""`import ssl_med; ssl_med.pretrain(...)`: the same runs, names and errors as the command line."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import ssl_med
from datamodules.phantoms import chest14
from experiments.api.overrides import overrides_of
from experiments.api.result import Result
from experiments.cli import main
from experiments.config.run import compose_pretrain
from ssl_med.evaluation.transfer import Transfer
from ssl_med.networks.channels import first_convolution
from ssl_med.spec import SslMedError

TINY = {
    "trainer": {"name": "cpu", "progress": False, "batch_size": 2, "max_steps": 2},
    "backbone": {"name": "unet", "channels": [8, 8, 16]},
    "data.patch_size": (32, 32),
    "data.image_size": 40,
    "tracking": {"wandb": "off"},
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return chest14.generate(tmp_path_factory.mktemp("images") / "chest14", subjects=10, seed=0)


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "pre"
    return ssl_med.pretrain({"name": "simclr", "hidden_dim": 16}, "chest14", root=images, out=out, seed=3, **TINY)


@pytest.mark.parametrize(
    ("settings", "overrides"),
    [
        ({"method": "moco", "data.root": Path("/x/a b")}, ["method=moco", "data.root=/x/a b"]),
        ({"trainer": {"name": "cpu", "max_steps": 5}}, ["trainer=cpu", "trainer.max_steps=5"]),
        ({"trainer.max_steps": 5, "seed": None}, ["trainer.max_steps=5"]),
        ({"backbone": {"name": "unet", "channels": (8, 16)}}, ["backbone.name=unet", "backbone.channels=[8,16]"]),
        ({"method": {"view": {"flip": 0.25}}, "resume": False}, ["method.view.flip=0.25", "resume=false"]),
        ({"data": {"exclude": ["*a,b*", "c"]}}, ["data.exclude=['*a,b*','c']"]),
        ({"data": {"root": "'quoted"}, "labels.shots": 5}, ["data.root='''quoted'", "labels.shots=5"]),
    ],
)
def test_keywords_become_the_overrides_that_one_would_type(settings, overrides):
    assert overrides_of(settings) == overrides


def test_values_survive_the_way_through_the_overrides():
    settings = {"method": {"name": "moco", "temperature": 1e-05}, "data": "volumes", "optim": {"lr": 3e-05}}
    config = compose_pretrain(
        overrides_of({**settings, "data.exclude": ["*a, b*", "it's"], "trainer": {"max_steps": 7}})
    )
    assert (config.method.temperature, config.optim.lr, config.trainer.max_steps) == (1e-05, 3e-05, 7)
    assert tuple(config.data.exclude) == ("*a, b*", "it's")


@pytest.mark.slow
def test_a_run_says_what_it_did_and_hands_its_network_on(pretrained, images):
    assert pretrained.summary["status"] == "done"
    assert pretrained.summary["config"]["method"]["hidden_dim"] == 16
    assert pretrained.summary["seed"] == 3
    network, contract = ssl_med.load_backbone(pretrained)
    assert (contract.patch_size, contract.in_channels, contract.intensity.kind) == ((32, 32), 1, "window")
    assert not network.training
    x = torch.rand(5, 1, 32, 32)
    with torch.inference_mode():
        expected = network(x)[-1].mean((2, 3)).numpy()
    assert np.allclose(ssl_med.embed(network, x.numpy(), batch_size=2), expected, atol=1e-6)
    assert np.allclose(ssl_med.embed(pretrained, [{"image": x[:3]}, {"image": x[3:]}]), expected, atol=1e-6)
    assert ssl_med.embed(pretrained.network(), x, levels=(0, -1)).shape == (
        5,
        network.channels[0] + network.channels[-1],
    )
    three, _ = ssl_med.load_backbone(pretrained, in_channels=3)
    assert three.get_submodule(first_convolution(three)).weight.shape[1] == 3
    again = ssl_med.pretrain(
        {"name": "simclr", "hidden_dim": 16}, "chest14", root=images, out=pretrained, seed=3, **TINY
    )
    assert again == pretrained, "a finished run is not done again"


@pytest.mark.slow
def test_finetune_probe_and_report_follow(pretrained, images, tmp_path):
    common = {**TINY, "root": images, "init": pretrained}
    tuned = ssl_med.finetune("chest14", **common, out=tmp_path / "fine", labels={"fraction": 0.5})
    assert 0 <= tuned.metrics["test/auroc"] <= 1
    assert tuned.summary["labels"]["fraction"] == 0.5
    module = tuned.network()
    assert isinstance(module, Transfer)
    assert not module.training
    probed = {key: value for key, value in common.items() if key != "trainer"}
    probed = ssl_med.probe("chest14", protocol="knn", **probed, out=tmp_path / "probe")
    assert 0 <= probed.metrics["test/auroc"] <= 1
    with pytest.raises(SslMedError, match="trains no network"):
        probed.network()
    page = ssl_med.report(tuned, out=tmp_path / "report")
    assert (page.folder / "report.html").is_file()
    with pytest.raises(SslMedError, match=r"holds no summary\.json"):
        _ = page.summary


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ssl_med.pretrain("simclar"), ["pretrain", "method=simclar"]),
        (
            lambda: ssl_med.pretrain("simclr", "chest14", root="/x", trainer={"max_step": 5}),
            ["pretrain", "method=simclr", "data=chest14", "data.root=/x", "trainer.max_step=5"],
        ),
        (lambda: ssl_med.probe("chest14", protocol="k-nn"), ["probe", "task=chest14", "protocol=k-nn"]),
        (lambda: ssl_med.finetune("chest14", root="/absent"), ["finetune", "task=chest14", "data.root=/absent"]),
        (lambda: ssl_med.compare("absent"), ["compare", "table=absent"]),
        (lambda: ssl_med.report("/absent"), ["report", "/absent"]),
    ],
)
def test_errors_are_those_of_the_command_line(call, words, capsys):
    with pytest.raises(SslMedError) as refused:
        call()
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err == f"ssl-med: {refused.value}\n"


def test_folders_that_hold_nothing_are_refused(images, tmp_path):
    with pytest.raises(SslMedError, match="no such run folder or file"):
        ssl_med.load_backbone(tmp_path / "absent")
    with pytest.raises(SslMedError, match="no such folder"):
        ssl_med.external(Result(tmp_path / "absent"), task="chest14", root=images)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((2, 1, 1, 32), "images of 1x32 are too small; the network takes 2x2 and more"),
        ((2, 2, 32, 32), r"takes \(N, 1, X, Y\)"),
        ((0, 1, 32, 32), "no image"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(pretrained, shape, says):
    with pytest.raises(SslMedError, match=says):
        ssl_med.embed(pretrained, torch.zeros(shape))


def test_every_call_is_documented_and_listed():
    assert set(ssl_med.__all__) <= set(dir(ssl_med))
    stub = Path(ssl_med.__file__).with_suffix(".pyi").read_text()
    assert sorted(re.findall(r" as (\w+)$", stub, re.MULTILINE)) == sorted(ssl_med.__all__)
    for name in ssl_med.__all__:
        assert inspect.getdoc(getattr(ssl_med, name)), name
    assert {"moco", "pcrl/contraloss"} <= set(ssl_med.list_methods())
    with pytest.raises(AttributeError, match="has no attribute 'pretain'"):
        _ = ssl_med.pretain
