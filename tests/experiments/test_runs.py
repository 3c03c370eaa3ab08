"""Runs from the command line on phantoms: what they write, that they resume exactly, and that they fail well."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import commands
import pytest
import torch
from safetensors.torch import load_file

from experiments.cli import main
from experiments.config.run import compose_pretrain
from experiments.run.callbacks import Collapse, RunError
from ssl_med.reports.run_folder import read_cases, read_metrics

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=2", "backbone.name=unet"]
VOLUME = ["data=lits", "data.patch_size=[16,16,16]", "backbone.channels=[8,8,16]", "data.crops_per_volume=2"]
IMAGE = ["data=chest14", "data.patch_size=[32,32]", "data.image_size=40", "backbone.channels=[8,8,16]"]


@pytest.fixture(scope="module")
def scans(shared_phantom):
    return shared_phantom("lits", subjects=6, seed=0, size=(32, 32, 24))


@pytest.fixture(scope="module")
def images(shared_phantom):
    return shared_phantom("chest14", subjects=10, seed=0)


def run(*words, code=0):
    assert main([str(w) for w in words]) == code


def losses(folder):
    return {line["step"]: line["train/loss"] for line in read_metrics(folder) if "train/loss" in line}


@pytest.mark.slow
@pytest.mark.figures
def test_pretrain_then_finetune_then_report(scans, tmp_path, capsys):
    pre, fine = tmp_path / "pre", tmp_path / "fine"
    run("pretrain", "method=models_genesis", *VOLUME, *TINY, f"data.root={scans}", "trainer.max_steps=3", f"out={pre}")
    summary = json.loads((pre / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["steps"] == 3
    assert {"config.yaml", "metrics.jsonl", "backbone.safetensors", "subjects.json", "last.ckpt"} <= {
        p.name for p in pre.iterdir()
    }
    common = ["task=lits", *TINY, "data.patch_size=[16,16,16]", f"data.root={scans}", "trainer.max_steps=2"]
    run("finetune", *common, f"init={pre}", f"out={fine}", "labels.fraction=0.5")
    summary = json.loads((fine / "summary.json").read_text())
    assert summary["method"] == "models_genesis"
    assert "matched" in summary["init"]["report"]
    assert 0 <= summary["metrics"]["test/dice"] <= 1
    cases = (fine / "test_cases.csv").read_text().splitlines()
    assert len(cases) == 1 + summary["n_test"]
    ranked = sorted(read_cases(fine), key=lambda row: (row["dice"], row["case"]))
    chosen = {item["case"]: item["why"] for item in summary["pictures"]}
    assert [case for case, why in chosen.items() if why == "worst"] == [row["case"] for row in ranked[:4]]
    assert all((fine / item["file"]).is_file() for item in summary["pictures"])
    assert (fine / "figures" / "analysis-cases.png").is_file()
    assert {"test/hd95_mm", "test/surface_dice", "test/iou", "test/iou_50_95"} <= summary["metrics"].keys()
    assert {"hd95_mm", "surface_dice", "iou", "iou_50_95"} <= summary["conventions"].keys()
    assert "subjects" in summary["interval"]["reason"] or "subject," in summary["interval"]["reason"]  # too few
    run("finetune", *common, "init=scratch", "backbone.channels=[8,8,16]", f"out={tmp_path / 'scratch'}")
    capsys.readouterr()
    run("report", tmp_path, f"out={tmp_path / 'report'}")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "models_genesis" in page
    assert "scratch" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "channels", "steps"),
    [
        ("rubik_cube", "[8,16,32,64]", 6),
        pytest.param("semantic_genesis", "[8,8,8,8]", 3, marks=pytest.mark.slow),  # where bfloat16 is emulated
    ],
)
def test_bfloat16_repeats_on_parts_that_are_narrower_than_a_kernel(scans, tmp_path, method, channels, steps):
    """Cubes end as 2x2x1 voxels, thumbnails as 2^3: oneDNN has no right gradients of these (networks/convolution.py)."""
    words = ["data=lits", "data.patch_size=[32,32,16]", "data.crops_per_volume=2", f"data.root={scans}", *TINY]
    words += [f"backbone.channels={channels}", "trainer.precision=bf16-mixed", f"trainer.max_steps={steps}"]
    for name in ("a", "b"):
        run("pretrain", f"method={method}", *words, f"out={tmp_path / name}")
    assert len(losses(tmp_path / "a")) == steps
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.figures
def test_a_classification_leaves_its_error_analysis(images, tmp_path):
    fine = tmp_path / "fine"
    words = ["task=chest14", *TINY, *IMAGE[1:], f"data.root={images}", "data.split_ratios=[0.3,0.1,0.6]", f"out={fine}"]
    run("finetune", *words, "trainer.max_steps=2", "init=scratch", "task.pictures=[1,2,0,1]")
    summary = json.loads((fine / "summary.json").read_text())
    rows = read_cases(fine)
    interval = summary["interval"]
    assert interval["subjects"] == len({row["subject"] for row in rows}) < len(rows)
    assert interval["estimate"] == pytest.approx(summary["metrics"]["test/auroc"])
    assert interval["reason"] or interval["low"] <= interval["estimate"] <= interval["high"]
    names = {path.name for path in (fine / "figures").glob("analysis-*.png")}
    assert {"analysis-confusion.png", "analysis-calibration.png", "analysis-roc.png"} <= names
    for name, curve in summary["errors"]["curves"].items():
        assert curve["auc"] == pytest.approx(summary["metrics"][f"test/auroc/{name}"])
        assert curve["positives"] == sum(row[f"label/{name}"] == 1 for row in rows)
    assert sorted(item["why"] for item in summary["pictures"])[-2:] == ["worst", "worst"]


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(scans, tmp_path, capsys):
    words = ["pretrain", "method=simclr", *VOLUME, *TINY, f"data.root={scans}", f"out={tmp_path / 'r'}"]
    words.append("method.hidden_dim=16")
    torch.set_num_threads(2)
    run(*words, "trainer.max_steps=1", "trainer.threads=1")
    assert torch.get_num_threads() == 1
    assert capsys.readouterr().out.splitlines()[1] == "precision: 32, because SSL_MED_BF16=0"
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["precision"] == "32, because SSL_MED_BF16=0"
    assert summary["config"]["trainer"]["precision"] == "32"
    before = (tmp_path / "r" / "metrics.jsonl").read_bytes()
    run(*words, "trainer.max_steps=1")
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "r" / "metrics.jsonl").read_bytes() == before
    run(*words, "trainer.max_steps=1", "seed=3", code=2)
    assert "seed" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pcrl", "moco"])
def test_resume_in_the_middle_of_an_epoch_is_exact(scans, images, tmp_path, monkeypatch, method):
    """Stop by signal after step 4 of 9 (an epoch is 4 batches); losses and weights equal those of an unbroken run."""
    data = [*VOLUME, f"data.root={scans}"] if method == "pcrl" else [*IMAGE, f"data.root={images}"]
    words = ["pretrain", f"method={method}", *data, *TINY, "method.queue=32", "trainer.max_steps=9"]
    run(*words, f"out={tmp_path / 'whole'}")
    from experiments.run.callbacks import Preemption

    original = Preemption.on_train_batch_end

    def stop_at_five(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, trainer, module, outputs, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Preemption, "on_train_batch_end", stop_at_five)
        run(*words, f"out={tmp_path / 'broken'}", code=143)
    assert json.loads((tmp_path / "broken" / "summary.json").read_text())["status"] == "interrupted"
    run(*words, f"out={tmp_path / 'broken'}")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "broken")]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    for key, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][key]), key


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    scans, tmp_path, monkeypatch, capsys
):
    from ssl_med.methods.models_genesis import ModelsGenesis

    original = ModelsGenesis.terms

    def spoiled(self, views):
        terms = original(self, views)
        return {**terms, "loss": terms["loss"] * (float("nan") if self.training and self.global_step == 5 else 1.0)}

    monkeypatch.setattr(ModelsGenesis, "terms", spoiled)
    words = ["pretrain", "method=models_genesis", *VOLUME, *TINY, f"data.root={scans}", "trainer.max_steps=20"]
    run(*words, "trainer.checkpoint_every_steps=2", f"out={tmp_path / 'nan'}", code=1)
    line = capsys.readouterr().err.strip()
    assert "the loss is not finite at step 6" in line
    assert "\n" not in line
    state = torch.load(tmp_path / "nan" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4
    assert all(torch.isfinite(v).all() for v in state["state_dict"].values() if v.is_floating_point())
    assert json.loads((tmp_path / "nan" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_run_whose_features_collapse_ends_with_one_line(scans, tmp_path, monkeypatch, capsys):
    """A loss that rewards small features kills every ReLU before the pooling: all images get the same features, 0."""
    from ssl_med.methods.simclr import SimCLR

    def collapsing(self, views):
        pooled = self.backbone.pool(self.backbone(views["view1"]))
        loss = pooled.mean() + 0 * self.projector(pooled).sum()
        zero = loss.detach() * 0
        return {"loss": loss, "features": pooled.detach(), "metric": zero, "baseline": zero}

    words = ["pretrain", "method=simclr", *VOLUME, *TINY, f"data.root={scans}", "trainer.max_steps=80", "optim.lr=0.1"]
    with monkeypatch.context() as patch:
        patch.setattr(SimCLR, "terms", collapsing)
        run(*words, "trainer.collapse_patience=5", f"out={tmp_path / 'dead'}", code=1)
        line = capsys.readouterr().err.strip()
        assert "\n" not in line
        assert re.match(
            r"ssl-med: the features have collapsed: collapse/feature_std 0 \(bound 1e-05\) at step \d+", line
        )
        assert "trainer.collapse_patience=0" in line
        summary = json.loads((tmp_path / "dead" / "summary.json").read_text())
        assert (summary["status"], summary["method"]) == ("failed", "simclr")
        assert 10 < summary["steps"] < 80
        run(*words, "trainer.collapse_patience=0", f"out={tmp_path / 'off'}")
    assert compose_pretrain([*words[1:], "trainer.collapse_patience=3"]).hash() == compose_pretrain(words[1:]).hash()


def test_the_collapse_rule_waits_and_spares_what_is_small_but_alive():
    def count(watch, signs):
        for monitors in range(1, 200):
            try:
                watch.look(signs)
            except RunError:
                return monitors
        return 0

    def signs(std, rank):
        return {"collapse/feature_std": std, "collapse/effective_rank": rank}

    assert count(Collapse(10, patience=20, batch_size=32), signs(1e-7, 20.0)) == Collapse.GRACE + 20
    assert count(Collapse(10, patience=3, batch_size=32), signs(0.1, 1.001)) == Collapse.GRACE + 3
    # as low as healthy runs were seen; two samples, whose centred features always lie on one line
    assert count(Collapse(10, patience=1, batch_size=8), signs(3e-4, 1.2)) == 0
    assert count(Collapse(10, patience=1, batch_size=2), signs(0.002, 1.0)) == 0
    watch = Collapse(10, patience=2, batch_size=8)
    for _ in range(50):  # one monitor that is alive begins the count anew
        watch.look(signs(0.0, 1.0))
        watch.look(signs(0.1, 5.0))


@pytest.mark.slow
def test_killed_without_warning_goes_on_from_the_last_checkpoint(scans, tmp_path, capsys):
    """SIGKILL after a checkpoint: the resumed run has the losses and weights of an unbroken one, teacher and queue included."""
    words = ["pretrain", "method=moco", *VOLUME, *TINY, f"data.root={scans}", "trainer.max_steps=40", "method.queue=32"]
    words += ["method.momentum=0.5", "trainer.checkpoint_every_steps=5"]
    run(*words, f"out={tmp_path / 'whole'}")
    process = commands.Forked(*words, f"out={tmp_path / 'run'}")
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "last.ckpt").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
    capsys.readouterr()
    run(*words, f"out={tmp_path / 'run'}")
    assert capsys.readouterr().out.count("resuming from") == 1
    logged, expected = losses(tmp_path / "run"), losses(tmp_path / "whole")
    assert logged.items() <= expected.items()
    assert len(expected) - len(logged) <= 1, "the line of the checkpoint's own step comes after the checkpoint"
    resumed = load_file(tmp_path / "run" / "backbone.safetensors")
    for name, values in load_file(tmp_path / "whole" / "backbone.safetensors").items():
        assert torch.equal(resumed[name], values), name


@pytest.mark.slow
def test_two_processes_train_through_the_command_line(scans, tmp_path):
    """DDP by Lightning's own launcher sees the samples of one process and ends with one set of weights."""
    words = ["pretrain", "method=moco", *VOLUME, *TINY, f"data.root={scans}", "trainer.max_steps=3", "method.queue=32"]
    words += ["trainer.devices=2", "trainer.strategy=ddp", f"out={tmp_path / 'two'}"]
    command = [sys.executable, "-m", "experiments.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["status"] == "done"
    assert summary["steps"] == 3
    assert done.stdout.count("done: 3 steps") == 1
