"""The online probe: what it measures, that the training does not notice it, and what it selects, stops, records and refuses."""

import json
import os
import signal
import socket

import commands
import numpy as np
import pytest
import torch

from datamodules.phantoms import luna, medmnist
from experiments.cli import main
from experiments.config.run import compose_pretrain
from experiments.run.callbacks import Preemption
from experiments.run.online_probe import OnlineProbe
from experiments.run.session import Session
from ssl_med.checkpoint import load_backbone, read_card
from ssl_med.ledger import salted
from ssl_med.reports.run_folder import read_metrics

pytestmark = pytest.mark.slow  # runs with probes and curves take tens of seconds; CI runs them

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=4", "backbone.name=unet"]
IMAGE = ["data=chest14", "data.patch_size=[32,32]", "data.image_size=36", "backbone.channels=[8,8,16]"]
SIMCLR = ["method=simclr", "method.hidden_dim=16"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory, shared_phantom):
    root = tmp_path_factory.mktemp("data")
    medmnist.generate(root / "nodules", subjects=120, seed=0)
    (root / "images").symlink_to(shared_phantom("chest14", subjects=24, seed=0))
    luna.generate(root / "luna", subjects=6, seed=0, size=(32, 32, 32))
    return root


@pytest.fixture(scope="module")
def base(roots):
    return ["pretrain", *SIMCLR, *IMAGE, f"data.root={roots / 'images'}", *TINY]


@pytest.fixture(scope="module")
def nodules(roots):
    return ["online.task=nodule2d", f"online.data.root={roots / 'nodules'}", "online.data.patch_size=[32,32]"]


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def losses(folder):
    return {line["step"]: line["train/loss"] for line in read_metrics(folder) if "train/loss" in line}


def weights(folder, name="last.ckpt"):
    return torch.load(folder / name, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_the_training_does_not_notice_the_probe_and_the_best_weights_are_kept(base, nodules, tmp_path, capsys):
    """With batch statistics and random views, so that a changed mode, statistic or random state would show."""
    base = [*base, "backbone.norm=batch", "trainer.max_steps=5", "trainer.val_every_steps=3"]
    probed = [*base, *nodules, "online.every_steps=2", "trainer.monitor=online/knn_auc", f"out={tmp_path / 'probed'}"]
    run(*base, f"out={tmp_path / 'plain'}")
    capsys.readouterr()
    run(*probed)
    said = capsys.readouterr().out
    assert losses(tmp_path / "probed") == losses(tmp_path / "plain")
    plain, mine = weights(tmp_path / "plain"), weights(tmp_path / "probed")
    assert all(torch.equal(plain[key], mine[key]) for key in plain | mine)
    summary = summary_of(tmp_path / "probed")
    online = summary["online"]
    assert online["steps"] == [0, 2, 4, 5], "before the first step, every two, and after the last"
    lines = [line for line in read_metrics(tmp_path / "probed") if "online/knn_auc" in line]
    assert [line["step"] for line in lines] == [0, 1, 3, 4], "steps of the log count from 0"
    assert [line["online/knn_auc"] for line in lines] == online["values"]
    assert online["samples"] == {"train": 72, "val": 24}
    best = 1 + int(np.argmax(online["values"][1:]))  # the untrained network is no choice
    assert torch.load(tmp_path / "probed" / "best.ckpt", weights_only=True)["global_step"] == online["steps"][best]
    assert summary["weights"] == f"best online/knn_auc, step {online['steps'][best]}"
    assert (
        f"online/knn_auc of nodule2d: {online['values'][0]:.4f} untrained, best {max(online['values'][1:]):.4f}" in said
    )
    assert "online probe cost: 4 probes, " in said
    assert online["share"] == pytest.approx(online["seconds"] / summary["seconds"], abs=0.1)
    assert not [key for key in weights(tmp_path / "probed") if "probe" in key]
    run("report", tmp_path, f"out={tmp_path / 'report'}")
    assert "Online probe: nodule2d, knn auc" in (tmp_path / "report" / "report.md").read_text()


def test_the_number_is_that_of_the_encoder_that_leaves_the_run(base, nodules, roots, tmp_path):
    """Votes of the nearest by cosine and their AUC, written out in numpy and scikit-learn."""
    from sklearn.metrics import roc_auc_score

    run(
        *base, *nodules, "online.every_steps=9", "online.neighbours=7", "trainer.max_steps=2", f"out={tmp_path / 'run'}"
    )
    online = summary_of(tmp_path / "run")["online"]
    backbone, *_ = load_backbone(tmp_path / "run" / "backbone.safetensors", in_channels=1, with_decoder=False)
    config = compose_pretrain([*base[1:], *nodules])
    data = config.online.data_class(config.online.data, labelled=True, batch_size=64)
    data.setup()
    features = {}
    for part in ("train", "val"):
        batches = list(data.still_loader(data.parts[part], part=part))
        with torch.no_grad():
            x = torch.cat([backbone.eval()(batch["image"])[-1].mean((2, 3)) for batch in batches]).double().numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        features[part] = x, np.concatenate([batch["label"].numpy() for batch in batches])
    (known, truth), (asked, answer) = features["train"], features["val"]
    similarity = asked @ known.T
    nearest = np.argsort(-similarity, axis=1)[:, :7]
    vote = np.exp(np.take_along_axis(similarity, nearest, 1) / 0.07)
    score = (vote * truth[nearest]).sum(1) / vote.sum(1)
    assert online["values"][-1] == pytest.approx(roc_auc_score(answer, score), abs=1e-6)


def test_a_linear_probe_of_findings_draws_whole_patients(roots, base, tmp_path):
    task = [
        "online.task=chest14",
        f"online.data.root={roots / 'images'}",
        "online.protocol=linear",
        "online.samples=12",
    ]
    task += ["online.data.patch_size=[32,32]", "online.data.image_size=36"]
    config = compose_pretrain([*base[1:], *task])
    assert config.online.key == "online/linear_auroc"
    probe = OnlineProbe(config.online, precision="32", num_workers=0)
    whole = config.online.data_class(config.online.data, labelled=True, batch_size=4)
    whole.setup()
    for part in ("train", "val"):
        chosen = {case.subject for case in probe.data.parts[part]}
        images = [case.name for case in whole.parts[part] if case.subject in chosen]
        assert [case.name for case in probe.data.parts[part]] == images
    assert len(probe.data.parts["train"]) < len(whole.parts["train"])
    assert not probe.data.parts["test"]
    again = OnlineProbe(compose_pretrain([*base[1:], *task, "seed=5"]).online, precision="32", num_workers=0)
    assert again.data.parts == probe.data.parts, "all seeds are probed on the same samples"
    run(*base, *task, "trainer.max_steps=1", f"out={tmp_path / 'run'}")
    values = summary_of(tmp_path / "run")["online"]["values"]
    assert len(values) == 2
    assert all(0 <= value <= 1 for value in values)


def test_candidates_of_scans_are_probed_in_3d(roots, tmp_path):
    words = ["pretrain", *SIMCLR, "data=luna", f"data.root={roots / 'luna'}", *TINY, "backbone.channels=[8,8,16]"]
    words += ["data.patch_size=[16,16,16]", "data.crops_per_volume=2", "data.tissue_max=1", "trainer.max_steps=3"]
    words += ["online.task=luna", f"online.data.root={roots / 'luna'}", "online.data.patch_size=[16,16,16]"]
    words += ["data.split_ratios=[0.4,0.4,0.2]", "online.data.split_ratios=[0.4,0.4,0.2]"]
    run(*words, "online.every_epochs=2", "online.data.negatives_per_positive=1", f"out={tmp_path / 'run'}")
    online = summary_of(tmp_path / "run")["online"]
    assert online["key"] == "online/knn_auc"
    assert online["steps"] == [0, 2, 3], "an epoch of 2 scans, 2 crops each, has one batch of 4"
    assert online["samples"] == {"train": 10, "val": 8}, "every positive and as many negatives"


def test_patience_counts_probes_and_ends_the_run(base, nodules, tmp_path, monkeypatch):
    values = iter([0.9, 0.5, 0.6, 0.4, 0.3, 0.8])
    monkeypatch.setattr(OnlineProbe, "value", lambda self, backbone: next(values))
    run(*base, *nodules, "online.every_steps=2", "trainer.monitor=online/knn_auc", "trainer.patience=2",
        "trainer.max_steps=40", "data.split_ratios=[0.8,0.0,0.2]", f"out={tmp_path / 'run'}")  # fmt: skip
    summary = summary_of(tmp_path / "run")
    assert summary["online"]["values"] == [0.9, 0.5, 0.6, 0.4, 0.3]
    assert summary["steps"] == 8
    assert summary["weights"] == "best online/knn_auc, step 4"


def test_a_resumed_run_probes_as_an_unbroken_one(base, nodules, tmp_path, monkeypatch):
    words = [*base, *nodules, "online.every_steps=2", "trainer.monitor=online/knn_auc", "trainer.max_steps=6"]
    run(*words, f"out={tmp_path / 'whole'}")
    original = Preemption.on_train_batch_end

    def stop(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, module, outputs, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "on_train_batch_end", stop)
        run(*words, f"out={tmp_path / 'broken'}", code=143)
    assert (summary_of(tmp_path / "broken")["status"], summary_of(tmp_path / "broken")["steps"]) == ("interrupted", 3)
    run(*words, f"out={tmp_path / 'broken'}")
    whole, broken = summary_of(tmp_path / "whole"), summary_of(tmp_path / "broken")
    for key in ("steps", "values"):
        assert broken["online"][key] == whole["online"][key]
    assert broken["weights"] == whole["weights"]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_whom_the_probe_looked_at_is_no_test_subject_later(roots, base, tmp_path, capsys):
    words = [
        "pretrain",
        *SIMCLR,
        "data=medmnist",
        f"data.root={roots / 'nodules'}",
        *TINY,
        "backbone.channels=[8,8,16]",
    ]
    words += ["data.patch_size=[32,32]", "data.image_size=36"]
    words += ["online.task=chest14", f"online.data.root={roots / 'images'}", "trainer.max_steps=1"]
    words += ["online.data.patch_size=[32,32]", "online.data.image_size=36"]
    run(*words, f"out={tmp_path / 'run'}")
    data = compose_pretrain(words[1:]).online
    probed = OnlineProbe(data, precision="32", num_workers=0).data.identities()
    keys = {salted(name) for part in ("train", "val") for name in probed[part]}
    assert set(json.loads((tmp_path / "run" / "subjects.json").read_text())["parts"]["online"]["subjects"]) == keys
    parts = read_card(tmp_path / "run" / "backbone.safetensors").ledger().parts
    assert keys <= parts["val"].subjects
    assert not keys & parts["train"].subjects
    fine = ["finetune", "task=chest14", f"data.root={roots / 'images'}", *TINY, "data.patch_size=[32,32]"]
    fine += ["data.image_size=36", "trainer.max_steps=1", f"init={tmp_path / 'run'}"]
    run(*fine, f"out={tmp_path / 'same'}")
    capsys.readouterr()
    run(*fine, "data.split_seed=3", f"out={tmp_path / 'other'}", code=2)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ssl-med: leak: the pretraining saw ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/loss", "min"), ("val/mse", "min"), ("val/restore", "min"), ("collapse/alignment", "min"),
     ("collapse/uniformity", "min"), ("collapse/effective_rank", "max"), ("val/retrieval", "max"), ("online/knn_auc", "max")],
)  # fmt: skip
def test_the_better_direction_follows_from_the_name(base, nodules, tmp_path, monitor, mode):
    extra = (
        [*nodules, f"trainer.monitor={monitor}"] if monitor.startswith("online/") else [f"trainer.monitor={monitor}"]
    )
    config = compose_pretrain([*base[1:], *extra, "trainer.patience=3"])
    probe = OnlineProbe(config.online, precision="32", num_workers=0) if config.online else None
    trainer = Session(config, tmp_path, config.name).trainer(config.trainer, (), validate=True, online=probe)
    watching = [callback for callback in trainer.callbacks if getattr(callback, "monitor", None) == monitor]
    assert [callback.mode for callback in watching] == [mode, mode], "one that stops, one that keeps"


def test_what_is_wrong_is_one_line_before_work_starts(base, nodules, roots, tmp_path, capsys):
    def refused(*words):
        capsys.readouterr()
        run(*base, "trainer.max_steps=1", f"out={tmp_path / 'x'}", *words, code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert not (tmp_path / "x").exists()
        return line

    task, root, _ = nodules
    images = f"online.data.root={roots / 'images'}"
    assert "key 'online.every' is unknown" in refused(task, root, "online.every=3")
    assert "key 'online.data.patchsize' is unknown" in refused(task, root, "online.data.patchsize=3")
    assert "online.task=NAME is missing" in refused("online.samples=9")
    assert "task 'nodul2d' is unknown; did you mean 'nodule2d'?" in refused("online.task=nodul2d", root)
    assert "online.data.root=/nowhere: no such folder" in refused(task, "online.data.root=/nowhere")
    assert "is this medmnist?" in refused(task, images)
    assert "'online.every_steps' is 0; it must be at least 1" in refused(task, root, "online.every_steps=0")
    assert "has masks; an online probe needs classes or findings" in refused("online.task=montgomery_lungs", images)
    assert "is 3D, the pretraining on chest14 is 2D" in refused("online.task=luna", images)
    assert "images have 3 channels" in refused("online.task=bach", images)
    assert "online.data.patch_size [31, 31]" in refused(task, root, "online.data.patch_size=[31,31]")
    assert "online.levels [7]" in refused(*nodules, "online.levels=[7]")
    assert "trainer.monitor=online/knn_auc: there is no online probe" in refused("trainer.monitor=online/knn_auc")
    line = refused(*nodules, "trainer.monitor=online/auc")
    assert line == "ssl-med: trainer.monitor=online/auc: is never logged; the online probe logs online/knn_auc"
    line = refused("trainer.monitor=val/los")
    assert line.startswith(
        "ssl-med: trainer.monitor=val/los: is no metric, so whether higher or lower is better is unknown"
    )
    line = refused(*nodules, "online.samples=2")
    assert "is no 'nodule'; raise online.samples" in line or "is no 'non-nodule'; raise online.samples" in line
    no_val = ["online.task=chest14", images, "online.data.split_ratios=[0.8,0.0,0.2]"]
    assert "has no validation part to score; choose another online.data.split" in refused(*no_val)


def test_a_run_without_a_probe_keeps_its_name_and_paths_stay_here(base, nodules, roots):
    plain, probed = compose_pretrain(base[1:]), compose_pretrain([*base[1:], *nodules])
    assert plain.tree()["online"]["task"] == ""
    assert plain.hash() != probed.hash()
    assert str(roots) not in json.dumps(probed.public_tree())
    off = compose_pretrain([*base[1:], "trainer.num_workers=2"])
    assert off.hash() == plain.hash()


@pytest.mark.slow
def test_two_processes_agree_on_the_probe_and_stop_together(base, nodules, tmp_path):
    words = [*base, *nodules, "online.every_steps=1", "trainer.monitor=online/knn_auc", "trainer.patience=1"]
    words += ["trainer.max_steps=12", "trainer.devices=2", "trainer.strategy=ddp", f"out={tmp_path / 'two'}"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1])}
    ranks = [commands.Forked(*words, env={**os.environ, **place, "LOCAL_RANK": r, "RANK": r}) for r in "01"]
    told = [rank.communicate() for rank in ranks]
    assert [rank.poll() for rank in ranks] == [0, 0], told
    printed = told[0][0] + told[1][0]
    summary = summary_of(tmp_path / "two")
    online = summary["online"]
    assert summary["steps"] == online["steps"][-1]
    assert online["steps"] == list(range(summary["steps"] + 1))
    assert summary["steps"] < 12 or len(set(np.sign(np.diff(online["values"][1:])))) == 1
    assert printed.count("online probe cost: ") == 1
