"""Probes and fine-tuning protocols from the command line on phantoms: what they write, refuse and share."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from datamodules.phantoms import brats, lits, medmnist
from experiments.cli import main
from experiments.commands.finetune import matched_schedule
from experiments.config.run import compose_finetune

pytestmark = pytest.mark.slow  # the whole file takes tens of seconds; CI runs it

CPU = ["trainer=cpu", "trainer.progress=false"]
NET = ["backbone.name=unet", "backbone.channels=[8,8,16]"]
IMAGE = ["data.patch_size=[32,32]", "data.image_size=36"]
VOLUME = ["data.patch_size=[16,16,16]", "data.crops_per_volume=2"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory, shared_phantom):
    root = tmp_path_factory.mktemp("data")
    medmnist.generate(root / "nodules", subjects=150, seed=0)
    (root / "images").symlink_to(shared_phantom("chest14", subjects=24, seed=0))
    lits.generate(root / "lits", subjects=8, seed=0, size=(40, 40, 24))
    brats.generate(root / "brats", subjects=5, seed=0, size=(32, 32, 32))
    return root


@pytest.fixture(scope="module")
def pretrained(roots, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")

    def pretrain(name, *words):
        assert (
            main(["pretrain", *words, *CPU, *NET, "trainer.max_steps=2", "trainer.batch_size=4", f"out={out / name}"])
            == 0
        )

    pretrain("image", "method=simclr", "method.hidden_dim=16", "data=medmnist", f"data.root={roots / 'nodules'}")
    pretrain("volume", "method=models_genesis", "data=lits", f"data.root={roots / 'lits'}", *VOLUME)
    pretrain("contrast", "method=simclr", "method.hidden_dim=16", "data=lits", f"data.root={roots / 'lits'}", *VOLUME)
    batch = ["backbone.norm=batch", "data=lits", f"data.root={roots / 'lits'}", *VOLUME]
    pretrain("batch", "method=models_genesis", *batch)
    return out


def probe(out, *words, code=0):
    assert main(["probe", *CPU, *map(str, words), f"out={out}"]) == code
    return json.loads((out / "summary.json").read_text()) if code == 0 else None


def rows_of(folder):
    with (folder / "test_cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("protocol", ["linear", "knn", "fewshot"])
def test_probes_of_classes_write_what_a_finetuning_writes(protocol, roots, pretrained, tmp_path, capsys):
    words = ["task=nodule2d", f"protocol={protocol}", f"data.root={roots / 'nodules'}", f"init={pretrained / 'image'}"]
    words += ["probe.cache=" + str(tmp_path / "cache")]
    if protocol == "fewshot":
        words += ["probe.episodes=20", "probe.shots=3", "probe.queries=2"]
    summary = probe(tmp_path / "run", *words)
    assert (summary["kind"], summary["status"], summary["protocol"], summary["method"]) == (
        "probe", "done", protocol, "simclr",
    )  # fmt: skip
    assert summary["leakage"]["status"] == "none"
    assert "matched" in summary["init"]["report"]
    assert {"config.yaml", "summary.json", "subjects.json", "test_cases.csv"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    rows = rows_of(tmp_path / "run")
    assert len(rows) == summary["n_test"]
    value = summary["metrics"][f"test/{summary['metric']}"]
    assert 0 <= value <= 1
    if protocol != "fewshot":
        from sklearn.metrics import roc_auc_score

        truth, score = [int(row["label"]) for row in rows], [float(row["score/nodule"]) for row in rows]
        assert value == pytest.approx(roc_auc_score(truth, score), abs=1e-6)
    assert summary["features"]["parts_from_cache"] == 0
    again = probe(tmp_path / "again", *words)
    assert again["features"]["parts_from_cache"] == (2 if protocol == "fewshot" else 3)
    assert again["metrics"] == summary["metrics"]
    capsys.readouterr()
    probe(tmp_path / "run", *words)
    assert "finished already" in capsys.readouterr().out


def test_a_feature_file_is_not_taken_for_another_network_or_other_data(roots, pretrained, tmp_path):
    cache = f"probe.cache={tmp_path / 'cache'}"
    words = ["task=nodule2d", "protocol=knn", f"data.root={roots / 'nodules'}", cache]
    assert probe(tmp_path / "a", *words, f"init={pretrained / 'image'}")["features"]["parts_from_cache"] == 0
    assert probe(tmp_path / "b", *words, "init=scratch", *NET)["features"]["parts_from_cache"] == 0
    other = ["init=" + str(pretrained / "image"), "data.intensity_high=200"]
    assert probe(tmp_path / "c", *words, *other)["features"]["parts_from_cache"] == 0
    assert (
        probe(tmp_path / "d", *words, f"init={pretrained / 'image'}", "probe.levels=[0]")["features"][
            "parts_from_cache"
        ]
        == 0
    )
    # a smaller label budget shares validation and test
    less = probe(tmp_path / "e", *words, f"init={pretrained / 'image'}", "labels.fraction=0.3")
    assert less["features"]["parts_from_cache"] == 2
    assert less["labels"]["subjects"] < less["labels"]["of"]


def test_a_probe_leaves_the_label_budget_alone(roots, pretrained, tmp_path):
    """Below all labels the final fit must not grow by the validation part; with all labels it is the paper's."""
    words = ["task=nodule2d", "protocol=linear", f"data.root={roots / 'nodules'}", f"init={pretrained / 'image'}"]
    whole = probe(tmp_path / "whole", *words)
    part = probe(tmp_path / "part", *words, "labels.shots=6")
    assert any("final fit on train and val, 120 samples" in note for note in whole["notes"])
    assert any("final fit on train, 12 samples" in note for note in part["notes"])
    assert part["labels"] == {"fraction": round(12 / 90, 4), "shots": 6, "subjects": 12, "of": 90}


def test_findings_and_a_split_without_validation(roots, tmp_path):
    words = [
        "task=chest14",
        f"data.root={roots / 'images'}",
        "init=scratch",
        *NET,
        *IMAGE,
        "data.split_ratios=[0.7,0.0,0.3]",
    ]
    summary = probe(tmp_path / "linear", *words, "protocol=linear", "probe.strengths=5")
    assert summary["metric"] == "auroc"
    assert any("training subjects choose" in note for note in summary["notes"])
    assert not any("random weights" in note for note in summary["notes"]), "group normalisation has no statistics"
    assert {key for key in summary["chosen"] if key.startswith("l2/")} >= {"l2/Mass", "l2/Hernia"}
    assert probe(tmp_path / "knn", *words, "protocol=knn")["metrics"]["test/classes_scored"] >= 1


def test_one_training_patient_lends_some_of_its_samples(roots, tmp_path):
    words = ["task=lits", "protocol=linear", f"data.root={roots / 'lits'}", *VOLUME, "init=scratch", *NET]
    words += ["probe.voxels=60", "probe.strengths=2", "data.split_ratios=[0.125,0.0,0.875]"]
    summary = probe(tmp_path / "run", *words)
    assert summary["subjects"]["train"] == 1
    assert any("one training subject: 20% of its samples choose" in note for note in summary["notes"])
    assert any("96 training voxels" in note for note in summary["notes"]), "of 2 crops of 60"
    assert not any("last weights" in note for note in summary["notes"])


@pytest.mark.parametrize("init", ["volume", "scratch"])
def test_voxels_are_probed_for_masks(init, roots, pretrained, tmp_path):
    start = ["init=scratch", *NET] if init == "scratch" else [f"init={pretrained / init}"]
    words = ["task=lits", "protocol=linear", f"data.root={roots / 'lits'}", *VOLUME, *start, "probe.voxels=60"]
    summary = probe(tmp_path / "run", *words, "probe.strengths=3")
    assert summary["metric"] == "dice"
    rows = rows_of(tmp_path / "run")
    assert summary["metrics"]["test/dice"] == pytest.approx(sum(float(r["dice"]) for r in rows) / len(rows))
    assert set(summary["chosen"]) == {"l2/liver", "threshold/liver"}
    assert list((tmp_path / "run" / "figures").glob("*.png"))
    files = sorted((tmp_path / "run" / "features").glob("train-*.safetensors"))
    assert load_file(files[0])["x"].shape[1] == 8 + 16


def test_pretexts_are_probed_without_labels_on_held_out_patients(roots, pretrained, tmp_path):
    for protocol, classes in (("pretext_rotation", 4), ("pretext_position", 8)):
        words = [
            "data=lits",
            f"protocol={protocol}",
            f"data.root={roots / 'lits'}",
            "init=" + str(pretrained / "volume"),
        ]
        summary = probe(tmp_path / protocol, *words, "data.patch_size=[24,24,16]", "data.crops_per_volume=3")
        assert summary["metrics"]["test/chance"] == 1 / classes
        assert 0 <= summary["metrics"]["test/accuracy"] <= 1
        rows = rows_of(tmp_path / protocol)
        assert len(rows) == summary["subjects"]["test"] * 3 * classes
        truth = [int(row["label"]) for row in rows]
        scores = [[float(v) for k, v in row.items() if k.startswith("score/")] for row in rows]
        right = [score.index(max(score)) == label for score, label in zip(scores, truth, strict=True)]
        assert summary["metrics"]["test/accuracy"] == pytest.approx(sum(right) / len(right))
        assert summary["labels"] is None


def test_a_probe_refuses_the_leak_that_a_finetuning_refuses(roots, pretrained, tmp_path, capsys):
    words = ["task=lits", "protocol=linear", f"data.root={roots / 'lits'}", *VOLUME, f"init={pretrained / 'volume'}"]
    probe(tmp_path / "leak", *words, "data.split_seed=3", code=2)
    line = capsys.readouterr().err.strip()
    assert line.startswith("ssl-med: leak: the pretraining saw")
    assert not (tmp_path / "leak").exists()


# ---------------------------------------------------------------------------------- fine-tuning protocols


def tune(out, *words, code=0):
    found = main(["finetune", *CPU, *map(str, words), "trainer.batch_size=2", "trainer.max_steps=2", f"out={out}"])
    assert found == code
    return json.loads((out / "summary.json").read_text()) if code == 0 else None


def test_a_frozen_encoder_is_that_of_the_file_after_training(roots, pretrained, tmp_path):
    words = ["task=lits", f"data.root={roots / 'lits'}", *VOLUME, f"init={pretrained / 'batch'}"]
    summary = tune(tmp_path / "run", *words, "transfer.protocol=frozen", "trainer.select=last")
    assert summary["transfer"]["statistics"] == "encoder: kept as loaded"
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    stored = load_file(pretrained / "batch" / "backbone.safetensors")
    for key, value in stored.items():
        part, _, name = key.partition(".")
        same = torch.equal(state[f"{'backbone' if part == 'encoder' else 'decoder'}.{name}"], value)
        assert same or part == "decoder", key


@pytest.mark.slow
def test_the_decoder_is_loaded_left_or_demanded(roots, pretrained, tmp_path, capsys):
    words = ["task=lits", f"data.root={roots / 'lits'}", *VOLUME]
    full = tune(tmp_path / "auto", *words, f"init={pretrained / 'volume'}")
    demanded = tune(tmp_path / "true", *words, f"init={pretrained / 'volume'}", "transfer.decoder=true")
    left = tune(tmp_path / "false", *words, f"init={pretrained / 'volume'}", "transfer.decoder=false")
    assert full["init"]["report"] == demanded["init"]["report"]
    assert "transfer.decoder=false: the decoder starts from its initialisation" in left["init"]["report"]
    assert int(left["init"]["report"].split("/")[0].split()[-1]) < int(full["init"]["report"].split("/")[0].split()[-1])
    capsys.readouterr()
    tune(tmp_path / "none", *words, f"init={pretrained / 'contrast'}", "transfer.decoder=true", code=2)
    line = capsys.readouterr().err.strip()
    assert "holds no decoder, simclr trains the encoder alone; transfer.decoder=auto starts a new one" in line
    assert "\n" not in line
    tune(tmp_path / "scratch", *words, "init=scratch", "transfer.decoder=true", code=2)
    assert "init=scratch has no decoder to load" in capsys.readouterr().err


def test_batch_norm_becomes_group_norm_with_its_scale(roots, pretrained, tmp_path):
    words = ["task=lits", f"data.root={roots / 'lits'}", *VOLUME, f"init={pretrained / 'batch'}", "transfer.norm=group"]
    summary = tune(tmp_path / "run", *words)
    assert summary["backbone"]["norm"] == "group"
    assert summary["transfer"]["statistics"] == "none"
    assert "batch normalisation became group: scale and shift kept" in summary["init"]["report"]
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [key for key in state if "running" in key]
    from experiments.run.pretrained import build_network

    config = compose_finetune([*CPU, *words])
    loaded = build_network(config, with_decoder=True)
    stored = load_file(pretrained / "batch" / "backbone.safetensors")
    ours = loaded.backbone.state_dict()
    assert {f"encoder.{key}" for key in ours} == {k for k in stored if k.startswith("encoder.") and "running" not in k
                                                 and "num_batches" not in k}  # fmt: skip
    assert all(torch.equal(value, stored[f"encoder.{key}"]) for key, value in ours.items())
    scratch = build_network(
        compose_finetune([*CPU, *words[:-2], *NET, "init=scratch", "backbone.norm=batch", words[-1]]), with_decoder=True
    )
    assert any(isinstance(m, torch.nn.GroupNorm) for m in scratch.backbone.modules())


def test_channels_are_spread_with_equal_mean_and_said(roots, pretrained, tmp_path):
    words = ["task=brats", f"data.root={roots / 'brats'}", *VOLUME, f"init={pretrained / 'volume'}"]
    summary = tune(tmp_path / "run", *words)
    assert "first convolution spread from 1 to 4 channels, mean preserved" in summary["init"]["report"]
    probed = probe(tmp_path / "probe", *words, "protocol=linear", "probe.voxels=60", "probe.strengths=2")
    assert "mean preserved" in probed["init"]["report"]


def test_steps_are_matched_to_those_of_all_labels(roots):
    def plan(*words):
        config = compose_finetune(
            ["task=nodule2d", f"data.root={roots / 'nodules'}", "trainer.batch_size=10", "trainer.max_epochs=4", *words]
        )
        data = config.data_class(
            config.data,
            labelled=True,
            batch_size=10,
            label_fraction=config.labels.fraction,
            label_shots=config.labels.shots,
        )
        data.setup()
        return matched_schedule(config, data)

    epochs, none = plan("labels.fraction=0.2")
    assert (epochs.max_epochs, epochs.max_steps, none) == (4, -1, 0)
    for budget in ("labels.fraction=1", "labels.fraction=0.2", "labels.shots=3"):
        length, batches = plan(budget, "labels.match=steps")
        assert batches == 9  # 90 training samples
        assert (length.max_epochs, length.max_steps, length.val_every_steps) == (-1, 36, 9)
    length, _ = plan("labels.fraction=0.2", "labels.match=steps", "trainer.accumulate=2")
    assert length.max_steps == 4 * 5
    assert plan("labels.fraction=0.2", "labels.match=steps", "trainer.max_steps=7")[0].max_steps == 7


def test_matched_steps_in_a_run_and_what_contradicts_them(roots, tmp_path, capsys):
    words = ["finetune", "task=nodule2d", f"data.root={roots / 'nodules'}", *CPU, *NET, "trainer.batch_size=30"]
    run = [*words, "labels.match=steps", "labels.fraction=0.2", "trainer.max_epochs=2", "trainer.max_steps=-1"]
    assert main([*run, f"out={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 6
    assert summary["labels"]["matched"] == "steps"
    capsys.readouterr()
    assert main([*words, "labels.match=steps", f"out={tmp_path / 'no'}"]) == 2
    assert "labels.match=steps counts trainer.max_epochs, which is not set" in capsys.readouterr().err


def test_a_class_without_training_samples_and_too_many_shots_are_one_line(roots, tmp_path, capsys):
    words = ["finetune", "task=nodule2d", f"data.root={roots / 'nodules'}", *CPU, *NET, f"out={tmp_path / 'run'}"]
    assert main([*words, "labels.shots=80"]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("ssl-med: labels.shots=80: there are ")
    assert "training subjects of class '" in line
    assert main([*words, "labels.fraction=0.01"]) == 2
    line = capsys.readouterr().err.strip()
    assert "case is left to train on (data.split=official, labels.fraction=0.01); take more subjects" in line


def test_semi_supervised_splits_of_one_data_set(roots, tmp_path):
    base = [f"data.root={roots / 'lits'}", *VOLUME, "data.pretrain_share=0.6"]
    pre = tmp_path / "pre"
    words = [
        "pretrain",
        "method=models_genesis",
        "data=lits",
        *base,
        *CPU,
        *NET,
        "trainer.max_steps=1",
        "trainer.batch_size=2",
    ]
    assert main([*words, f"out={pre}"]) == 0
    summary = tune(tmp_path / "fine", "task=lits", *base, f"init={pre}")
    assert "pretraining has 0.6 of the training subjects, labels the rest" in summary["notes"]
    assert any(note.startswith("0 of the 2 labelled training subjects took part") for note in summary["notes"])
