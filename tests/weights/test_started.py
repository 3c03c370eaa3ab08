"""A pretraining that starts from weights: what of them it has at its first step, who was seen, and what is refused."""

import json

import pytest
import torch
from foreign_case import cases_of
from safetensors.torch import load_file

from experiments.cli import main
from experiments.commands.pretrain import build_method
from experiments.config.run import compose_finetune, compose_pretrain
from experiments.run.pretrained import build_network, check_leak, notes_of
from experiments.run.session import ledger_of
from experiments.run.started import Started
from ssl_med.checkpoint import read_card
from ssl_med.ledger import Ledger, Members, compare, salted
from ssl_med.methods.core.start import Start
from ssl_med.methods.dino import DINO, DINOConfig
from ssl_med.networks.backbone import backbone_config
from ssl_med.reports.run_folder import read_metrics
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.weights.core.facts import licence_line, method_lines

DATA = ["data=chest14", "data.patch_size=[32,32]", "data.image_size=40"]
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=2", "trainer.precision=32"]
MOCO = ["method=moco", *DATA, *TINY, "method.queue=8", "trainer.max_steps=4"]


@pytest.fixture(scope="module")
def images(shared_phantom):
    return shared_phantom("chest14", subjects=10, seed=0)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A ResNet-18 with torchvision's names, and its file."""
    case = next(one for one in cases_of("torchvision") if one.name == "resnet18")
    made = case.made()
    return made, case.write(tmp_path_factory.mktemp("elsewhere"), made)


@pytest.fixture(scope="module")
def first(images, resnet, tmp_path_factory):
    """A pretraining that started from it."""
    folder = tmp_path_factory.mktemp("first") / "run"
    words = [f"init={resnet[1]}", "family=torchvision", f"data.root={images}", f"out={folder}"]
    assert main(["pretrain", *MOCO, *words, "transfer.adapt_channels=true"]) == 0
    return folder


def begun(*words):
    """Config, weights and method at its first step."""
    config = compose_pretrain([*MOCO, *words])
    started = Started.of(config)
    return config, started, build_method(config, started.start if started else None)


def test_student_and_teacher_begin_with_a_file_from_elsewhere(resnet, images):
    made, path = resnet
    words = [f"init={path}", "family=torchvision", f"data.root={images}", "transfer.adapt_channels=true"]
    config, _, method = begun(*words)
    assert config.backbone.name == "resnet18"
    assert config.backbone.input_mean == (0.485, 0.456, 0.406)  # a grey image is repeated, each channel with its own
    for network in (method.backbone, method.teacher.module.backbone):
        assert torch.equal(network.state_dict()["conv1.weight"], made["conv1.weight"])
    loaded = build_network(
        compose_finetune(["task=chest14", *DATA[1:], "trainer.max_steps=1", *words]), with_decoder=False
    )
    x = torch.rand(2, 1, 32, 32)
    theirs = loaded.backbone.eval()(x)
    for network in (method.backbone.eval(), method.teacher.module.backbone.eval()):
        assert all(torch.equal(a, b) for a, b in zip(network(x), theirs, strict=True))
    assert not method.queue.full


def test_a_run_of_the_same_method_goes_on_with_teacher_heads_and_queue(first, images):
    _, started, method = begun(f"init={first}", f"data.root={images}")
    held = torch.load(first / "last.ckpt", weights_only=True)["state_dict"]
    state = method.state_dict()
    assert held.keys() == state.keys()
    assert all(torch.equal(state[key], held[key]) for key in held)
    assert not torch.equal(held["backbone.conv1.weight"], held["teacher.module.backbone.conv1.weight"])
    assert held["queue.keys"].abs().sum() > 0
    assert "goes on from" in started.notes[0]
    _, _, alone = begun(f"init={first / 'backbone.safetensors'}", f"data.root={images}")
    trained = load_file(first / "backbone.safetensors")["encoder.conv1.weight"]
    assert torch.equal(alone.backbone.conv1.weight, trained)
    assert torch.equal(alone.teacher.module.backbone.conv1.weight, trained)
    assert not torch.equal(alone.state_dict()["projector.layers.1.weight"], state["projector.layers.1.weight"])


def test_another_method_takes_the_network_alone_and_says_so(first, images):
    words = ["method=models_genesis", *DATA, *TINY, "trainer.max_steps=1", f"init={first}", f"data.root={images}"]
    config = compose_pretrain(words)
    started = Started.of(config)
    method = build_method(config, started.start)
    trained = load_file(first / "backbone.safetensors")["encoder.conv1.weight"]
    assert torch.equal(method.backbone.conv1.weight, trained)
    assert started.start.state is None
    assert "starts from the network of moco" in started.notes[0]
    assert method.begun == "encoder; the weights have no decoder, so it starts at random"


def test_the_card_keeps_the_origin_and_who_was_seen_before(first, images, tmp_path):
    card = read_card(first / "backbone.safetensors")
    (start,) = card.starts
    assert (start["method"], start["family"], start["subjects"]) == (
        "torchvision",
        "torchvision",
        "not named by the weights",
    )
    assert method_lines(card)[0].startswith("Pretrained by moco, from weights of He et al.")
    assert "None is given" not in licence_line(card)
    tuned = compose_finetune(["task=chest14", *DATA[1:], "trainer.max_steps=1", f"init={first}", f"data.root={images}"])
    loaded = build_network(tuned, with_decoder=False)
    data = tuned.data_class(tuned.data, labelled=True, batch_size=2, seed=0)
    data.setup("fit")
    told = notes_of(tuned, loaded, data, *check_leak(loaded, data, allow=False))
    assert any("the pretraining began with weights from elsewhere, family: torchvision" in note for note in told)
    assert any("started from weights of torchvision, and who those saw is not named" in note for note in told)
    again = tmp_path / "again"
    more = [f"init={first}", f"data.root={images}", f"out={again}", "data.split_seed=3", "seed=1"]
    assert main(["pretrain", *MOCO, *more]) == 0
    later = read_card(again / "backbone.safetensors")
    assert [one["method"] for one in later.starts] == ["moco", "torchvision"]
    # patient 10 was trained on by the first run and is in the test part of the second one's split
    assert set(card.subjects) <= set(later.subjects)
    notes = json.loads((again / "summary.json").read_text())["notes"]
    assert any("of the validation part were trained on before" in note for note in notes)
    with pytest.raises(SslMedError, match="leak: the pretraining saw"):
        compare(later.ledger(), Ledger({"test": Members(frozenset([salted("chest14:10")]))}), allow=False)


def test_a_start_under_another_salt_is_not_joined_and_told(first, images, monkeypatch):
    monkeypatch.setenv("SSL_MED_SALT", "another")
    config, started, _ = begun(f"init={first}", f"data.root={images}")
    data = config.data_class(config.data, need=config.need, labelled=False, batch_size=2, seed=0)
    data.setup("fit")
    own = ledger_of(data)
    assert started.joined(own) == (own, [])
    assert any("recorded under another SSL_MED_SALT" in note for note in started.notes)
    assert started.fields()["starts"][0]["subjects"] == "recorded under another SSL_MED_SALT"


def test_a_started_run_goes_on_exactly(first, images, tmp_path):
    words = ["pretrain", *MOCO, f"init={first}", f"data.root={images}", "trainer.checkpoint_every_steps=2"]
    assert main([*words, f"out={tmp_path / 'whole'}"]) == 0
    assert main([*words, f"out={tmp_path / 'parts'}"]) == 0
    folder = tmp_path / "parts"
    (folder / "previous.ckpt").replace(folder / "last.ckpt")  # as if it had been killed after step 2
    (folder / "summary.json").unlink()
    assert main([*words, f"out={folder}"]) == 0
    assert [line["step"] for line in read_metrics(folder)] == [
        line["step"] for line in read_metrics(tmp_path / "whole")
    ]
    mine, whole = (load_file(tmp_path / name / "backbone.safetensors") for name in ("parts", "whole"))
    assert all(torch.equal(mine[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["init=FILE", "family=unknown"], r"family 'unknown' is unknown"),
        (["init=none.pth", "family=torchvision"], r"none.pth: no such .*get it from https://download.pytorch.org"),
        (
            ["init=FILE", "family=torchvision"],
            r"pretrained on 3 channel\(s\), this data has 1; set transfer.adapt_channels",
        ),
        (
            ["init=RUN", "backbone.name=unet"],
            r"backbone.name=unet: the network of init=.* has name=resnet18; leave it out",
        ),
        (["init=RUN", "method.out_dim=64"], r"other settings of MoCo .*is \(128.* there and \(64.* here"),
        (["init=RUN", "method.head=linear"], r"other settings of MoCo .* is \(512,\) there and \(128,\) here"),
        (["transfer.adapt_channels=true"], r"transfer.adapt_channels=true has no effect, since init is scratch"),
        (["family=moco"], r"family=moco has no effect, since init is scratch"),
    ],
)
def test_what_does_not_fit_is_one_line(words, said, first, resnet, images):
    words = [word.replace("FILE", str(resnet[1])).replace("RUN", str(first)) for word in words]
    with pytest.raises(SslMedError, match=said) as error:
        begun(*words, f"data.root={images}")
    assert "\n" not in str(error.value)


def test_volumes_do_not_start_from_a_network_of_images(first, shared_phantom):
    scans = shared_phantom("lits", subjects=6, seed=0, size=(32, 32, 24))
    with pytest.raises(SslMedError, match=r"is a 2D network, data 'lits' has 3D images"):
        compose_pretrain(
            ["method=moco", "data=lits", *TINY, "trainer.max_steps=1", f"init={first}", f"data.root={scans}"]
        )


def test_a_checkpoint_of_another_network_is_refused(first, images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("backbone.safetensors", "summary.json", "config.yaml"):
        (folder / name).write_bytes((first / name).read_bytes())
    _, started, _ = begun(f"init={folder}", f"data.root={images}")
    assert "last.ckpt is gone" in started.notes[0]
    held = torch.load(first / "last.ckpt", weights_only=True)
    held["state_dict"]["backbone.conv1.weight"] += 1
    torch.save(held, folder / "last.ckpt")
    with pytest.raises(
        SslMedError, match=r"last.ckpt: does not belong to the backbone file beside it; init=.*network alone"
    ):
        begun(f"init={folder}", f"data.root={images}")


def test_a_hash_names_the_weights_and_one_without_them_is_as_before(first, images):
    plain = compose_pretrain([*MOCO, f"data.root={images}"])
    assert plain.hash() == compose_pretrain([*MOCO, f"data.root={images}", "init=scratch"]).hash()
    here = compose_pretrain([*MOCO, f"data.root={images}", f"init={first}"])
    assert here.hash() != plain.hash()
    planned = compose_pretrain([*MOCO, f"data.root={images}", "init=/gone/weights.pth"], shared=True)
    assert planned.hash() not in (plain.hash(), here.hash())


def test_schedules_begin_anew_and_centres_go_on():
    spec = DataSpec("grey", 2, 1, (32, 32))
    backbone = backbone_config("unet", channels=(4, 8, 8))
    config = DINOConfig(hidden_dim=8, bottleneck=4, out_dim=8, small_crops=0)
    method = DINO(config, spec=spec, backbone=backbone)
    method.schedule.advance()
    method.center.fill_(0.5)
    after = DINO(config, spec=spec, start=Start(method.backbone, None, method.state_dict()))
    assert after.backbone_config == backbone
    assert after.schedule.done == 0
    assert torch.equal(after.center, method.center)
    assert after.begun == "encoder; all else of the method, but anew: schedule"
