"""Runs of version 0.1 as tests/golden keeps them: their hashes survive, and their folders resume, report and load.

`run_hashes.json` holds what 315 command lines were named, `losses.json` the first three losses of every method and preset,
`runs.zip` small run folders on phantoms, all written by version 0.1 before its modules were moved.
"""

import json
import zipfile
from pathlib import Path

import pytest

from datamodules.phantoms import chest14
from experiments.cli import main
from experiments.config.finetuned import FinetunedRun
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from ssl_med.checkpoint import load_backbone, read_card
from ssl_med.reports.run_folder import read_metrics, read_run

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
COMPOSE = {"pretrain": compose_pretrain, "finetune": compose_finetune, "probe": compose_probe}
NETWORK = [
    "trainer=cpu",
    "data.patch_size=[32,32]",
    "data.image_size=40",
    "tracking.wandb=off",
    "trainer.progress=false",
]
TINY = [*NETWORK, "trainer.log_every=1", "trainer.batch_size=2", "backbone.name=unet", "backbone.channels=[8,8,8]"]
PRETRAIN = ["method=simclr", "data=chest14", *TINY, "trainer.max_steps=4", "method.hidden_dim=8", "method.out_dim=8"]


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    return chest14.generate(tmp_path_factory.mktemp("radiographs") / "chest14", subjects=10, seed=0)


@pytest.fixture
def earlier(tmp_path):
    with zipfile.ZipFile(GOLDEN / "runs.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def moved(folder, config):
    """The folder as if it had been written on this machine: a hash names the place of the data, which differs here."""
    path = folder / "config.yaml"
    (stored,) = [line for line in path.read_text().splitlines() if line.startswith("hash:")]
    path.write_text(path.read_text().replace(stored, f"hash: '{config.hash()}'"))
    return folder


@pytest.mark.parametrize("kind", COMPOSE)
def test_a_command_line_keeps_the_hash_of_its_run(kind):
    lines = json.loads((GOLDEN / "run_hashes.json").read_text())
    mine = {line: value for line, value in lines.items() if line.startswith(f"{kind} ")}
    assert len(mine) > 50
    assert {line: COMPOSE[kind](line.split()[1:]).hash() for line in mine} == mine


@pytest.mark.parametrize(
    ("kind", "line", "name"),
    [
        (
            "pretrain",
            "method=cpc data=chest14 backbone.name=unet backbone.channels=[8,16,32] backbone.fast_up=false",
            "6436e16a",
        ),
        # trainer=cpu speaks of the U-Net's channels, which were hashed although another network was taken
        (
            "pretrain",
            "method=simclr data=chest14 trainer=cpu backbone.name=resnet18 backbone.decoder_channels=[32,16,16,8,8]",
            "14dd3ad4",
        ),
        ("finetune", "task=lits trainer=cpu backbone.name=resnet50 data.patch_size=[32,32,32]", "6362c0f1"),
    ],
)
def test_settings_of_a_backbone_keep_the_hash(kind, line, name):
    assert COMPOSE[kind]([*line.split(), "data.root=/scans/raw"]).hash() == name


def test_a_stopped_pretraining_goes_on_with_the_same_losses(earlier, radiographs):
    overrides = [*PRETRAIN, f"data.root={radiographs}"]
    folder = moved(earlier / "pretrain_stopped", compose_pretrain(overrides))
    assert main(["pretrain", *overrides, f"out={folder}"]) == 0
    assert json.loads((folder / "summary.json").read_text())["steps"] == 4
    losses = {line["step"]: line["train/loss"] for line in read_metrics(folder) if "train/loss" in line}
    before = {line["step"]: line["train/loss"] for line in read_metrics(earlier / "pretrain") if "train/loss" in line}
    assert losses == pytest.approx(before, rel=1e-2)  # the golden run had another number of threads


def test_finished_runs_are_found_finished(earlier, radiographs, capsys):
    root = f"data.root={radiographs}"
    pretrained = moved(earlier / "pretrain", compose_pretrain([*PRETRAIN, root]))
    assert main(["pretrain", *PRETRAIN, root, f"out={pretrained}"]) == 0
    finetune = ["task=chest14", *TINY, "trainer.max_steps=2", root, f"init={pretrained}"]
    finetuned = moved(earlier / "finetune", compose_finetune(finetune))
    assert main(["finetune", *finetune, f"out={finetuned}"]) == 0
    probe = ["task=chest14", "protocol=linear", *NETWORK, root, f"init={pretrained}"]
    probed = moved(earlier / "probe", compose_probe(probe))
    assert main(["probe", *probe, f"out={probed}"]) == 0
    assert capsys.readouterr().out.count("finished already") == 3


def test_run_folders_are_reported(earlier):
    runs = [read_run(earlier / name) for name in ("pretrain", "finetune", "scratch", "probe")]
    assert not any(run.problem for run in runs)
    assert main(["report", str(earlier), f"out={earlier / 'report'}"]) == 0
    table = (earlier / "report" / "results.csv").read_text()
    assert "simclr" in table
    assert "scratch" in table


def test_weights_load_and_a_fine_tuning_is_tested(earlier, radiographs):
    card = read_card(earlier / "pretrain" / "backbone.safetensors")
    assert card.method == "simclr"
    backbone, _, _, report = load_backbone(
        earlier / "pretrain" / "backbone.safetensors", in_channels=1, with_decoder=False
    )
    assert backbone.channels == (8, 8)
    assert "16/16" in str(report)
    trained = FinetunedRun.read(earlier / "finetune")
    assert trained.module(compose_finetune(["task=chest14", "data.root=x"]).task).backbone.channels == (8, 8)
    external = ["external", str(earlier / "finetune"), "task=chest14", f"data.root={radiographs}", "map=same"]
    assert main([*external, "part=test", "trainer=cpu", f"out={earlier / 'external'}"]) == 0
    again, before = (json.loads((earlier / n / "summary.json").read_text()) for n in ("external", "finetune"))
    assert again["metrics"]["test/auroc"] == pytest.approx(before["metrics"]["test/auroc"], abs=1e-6)
