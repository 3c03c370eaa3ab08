"""The W&B side: tags, the workspace, and what a server gets from `dashboard --save` and from `wandb sync`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from datamodules.phantoms import chest14, lits, medmnist
from experiments.cli import main
from experiments.commands import dashboard as module
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.run import callbacks
from experiments.run.tracking import facets, group_of, run_id, tags_of
from ssl_med.catalogue import get_class, list_names
from ssl_med.evaluation import tasks
from ssl_med.methods.core.base import Method
from ssl_med.reports.run_folder import read_metrics
from ssl_med.spec import SslMedError

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "dashboard.json"
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.max_steps=3"]
NET = ["backbone.name=unet", "backbone.channels=[8,8,16]"]
IMAGE = ["data.patch_size=[32,32]", "data.image_size=36"]
# logged by online probes alone, which no run of this file has
NOT_YET = {"^online/"}


# ------------------------------------------------------------------------------------------- tags and groups


def test_facets_of_each_kind_of_run():
    pretraining = compose_pretrain(["method=pcrl/contraloss", "data=luna", "seed=3", "tracking.table=hippocampus"])
    found = facets(pretraining, method=pretraining.name)
    assert found == {"method": "pcrl/contraloss", "data": "luna", "seed": 3, "table": "hippocampus"}
    assert tags_of(found) == ["method:pcrl/contraloss", "data:luna", "seed:3", "table:hippocampus"]
    tuned = facets(compose_finetune(["task=lits", "labels.fraction=0.1"]), method="moco")
    assert tags_of(tuned) == [
        "method:moco", "data:lits", "task:lits", "protocol:finetune", "fraction:0.1", "seed:0",
    ]  # fmt: skip
    probed = facets(compose_probe(["task=luna", "protocol=knn", "labels.shots=5"]), method="scratch")
    assert (probed["protocol"], probed["shots"]) == ("knn", 5)
    assert "fraction" not in probed


def test_a_group_holds_runs_that_differ_by_seed_alone():
    def group(*words):
        return group_of(facets(compose_finetune(["task=lits", *words]), method="moco"))

    assert group("seed=1") == group("seed=2", "tracking.table=x")
    assert len({group(), group("labels.fraction=0.5"), group("labels.shots=2"), group("transfer.protocol=frozen")}) == 4


def test_tags_do_not_name_the_run_and_fit_into_wandb(capsys):
    base = ["method=moco", "data=luna"]
    plain = compose_pretrain(base).hash()
    assert compose_pretrain([*base, "tracking.table=x", "tracking.pictures=true"]).hash() == plain
    probe = ["task=luna", "protocol=knn"]
    assert compose_probe([*probe, "tracking.table=x"]).hash() == compose_probe(probe).hash()
    assert main(["pretrain", *base, f"tracking.table={'x' * 59}"]) == 2
    assert "tracking.table has 59 letters" in capsys.readouterr().err
    assert all(len(tag) <= 64 for tag in tags_of({"method": "x" * 100}))


# ------------------------------------------------------------------------------------------- the specification


def test_the_specification_is_the_golden_one(tmp_path, capsys):
    """After a change that is meant: SSL_MED_GOLDEN=write writes the file anew."""
    pytest.importorskip("wandb_workspaces")
    out = tmp_path / "d.json"
    words = ["dashboard", "project=study", "entity=team", "table=hippocampus", f"out={out}"]
    assert main(words) == 0
    assert capsys.readouterr().out == f"dashboard of study -> {out}\n"
    if os.environ.get("SSL_MED_GOLDEN") == "write":
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(out.read_text())
    assert json.loads(out.read_text()) == json.loads(GOLDEN.read_text())


def test_the_specification_shows_every_section_and_filters_by_table(tmp_path):
    pytest.importorskip("wandb_workspaces")
    plain = module.specification(module.workspace(module.DashboardConfig()))["spec"]["section"]
    of_table = module.specification(module.workspace(module.DashboardConfig(table="x")))["spec"]["section"]
    shown = {part["name"]: part["panels"] for part in plain["panelBankConfig"]["sections"]}
    assert {name: len(panels) for name, panels in shown.items()} == {k: len(v) for k, v in module.SECTIONS.items()}
    ids = [panel["__id__"] for panels in shown.values() for panel in panels]
    assert len(set(ids)) == len(ids)
    assert plain["runSets"][0]["filters"]["filters"] == []
    (only,) = of_table["runSets"][0]["filters"]["filters"]
    assert (only["key"], only["value"]) == ({"section": "run", "name": "tags"}, ["table:x"])
    curve = shown["Label efficiency"][0]["config"]
    assert (curve["xAxis"], curve["metrics"]) == ("labels/fraction", ["test/dice"])
    assert (curve["groupBy"], curve["groupAgg"], curve["groupArea"]) == ("facets.value.method", "mean", "stderr")


def test_panels_name_every_pretext_metric_and_every_task_metric():
    pretext = {
        get_class("ssl_med.methods", name, kind="method", base=Method).metric.name
        for name in list_names("ssl_med.methods")
    }
    assert {panel.keys[0] for panel in module.SECTIONS["Pretext"]} == {f"train/{name}" for name in pretext}
    scored = {kind.metric for kind in (tasks.Segmentation, tasks.Classification, tasks.Multilabel)}
    assert {panel.keys[0] for panel in module.SECTIONS["Label efficiency"]} == {f"test/{name}" for name in scored}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--save", "entity=team"], "nothing is sent without tracking.wandb=online"),
        (["--save", "tracking.wandb=online"], "--save needs entity=NAME"),
        (["projekt=x"], "key 'projekt' is unknown; did you mean 'project'"),
        (["tracking.wandb=on"], "tracking.wandb"),
    ],
)
def test_a_wrong_word_is_one_line_and_writes_nothing(words, said, tmp_path, capsys):
    out = tmp_path / "d.json"
    assert main(["dashboard", f"out={out}", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not out.exists()


def test_without_the_package_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["dashboard", f"out={tmp_path / 'd.json'}"]) == 2
    assert "wandb-workspaces is not installed; pip install 'ssl-med[dashboard]'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- a server


@pytest.mark.slow
def test_saved_to_a_server(wandb_server, tmp_path):
    pytest.importorskip("wandb_workspaces")
    out = tmp_path / "d.json"
    words = ["project=study", "entity=team", "table=hippocampus", f"out={out}", "tracking.wandb=online", "--save"]
    command = [sys.executable, "-m", "experiments.cli", "dashboard", *words]
    done = subprocess.run(command, cwd=ROOT, env=wandb_server.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (sent,) = wandb_server.variables("UpsertView2")
    written = json.loads(out.read_text())
    assert json.loads(sent["spec"]) == written["spec"]
    assert (sent["entityName"], sent["projectName"], sent["type"]) == ("team", "study", "project-view")
    assert sent["displayName"] == "ssl_med: hippocampus"
    assert f"saved: {wandb_server.url}/team/study?nw=" in done.stdout
    assert {name for name, _ in wandb_server.operations} == {"Viewer", "UpsertView2"}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """An offline run with pictures, and runs that log everything else that a panel names."""
    root = tmp_path_factory.mktemp("tracked")
    nodules = medmnist.generate(root / "nodules", subjects=100, seed=0)
    images = chest14.generate(root / "images", subjects=10, seed=0)
    scans = lits.generate(root / "lits", subjects=6, seed=0, size=(32, 32, 24))
    flat = ["data=medmnist", f"data.root={nodules}", "trainer.batch_size=8"]
    volume = ["data.patch_size=[16,16,16]", "data.crops_per_volume=2", "trainer.batch_size=2", f"data.root={scans}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        for name, words in {
            "offline": [
                "finetune", "task=nodule2d", *NET, *flat[1:], "init=scratch", "labels.fraction=0.5", "seed=2",
                "tracking.wandb=offline", "tracking.pictures=true", "tracking.table=tiny", "task.pictures=[1,1,0,1]",
            ],
            "contrast": ["pretrain", "method=simclr", *NET, *flat, "method.hidden_dim=16"],
            "restoration": ["pretrain", "method=denoising", *NET, *flat],
            "prediction": ["pretrain", "method=rotation", *NET, *flat],
            "masks": ["finetune", "task=lits", *NET, *volume, "init=scratch"],
            "findings": ["finetune", "task=chest14", *NET, *IMAGE, f"data.root={images}", "init=scratch"],
        }.items():  # fmt: skip
            curve = ["trainer.test_every_steps=2", "trainer.select=last"] if words[0] == "finetune" else []
            assert main([*map(str, words), *TINY, *curve, f"out={root / name}"]) == 0, name
    return root


@pytest.mark.slow
@pytest.mark.figures
def test_an_offline_run_is_synced_and_every_panel_shows_something(tracked, wandb_server):
    """Panels name the keys that runs log: found from runs, so that a renamed metric is noticed."""
    run = tracked / "offline"
    (folder,) = (run / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    done = subprocess.run(command, env=wandb_server.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    sent = wandb_server.variables("UpsertBucket")[0]
    assert sent["tags"] == [
        "finetune", "method:scratch", "data:medmnist", "task:nodule2d", "protocol:finetune", "fraction:0.5", "seed:2",
        "table:tiny",
    ]  # fmt: skip
    assert sent["groupName"] == "method:scratch data:medmnist task:nodule2d protocol:finetune fraction:0.5"
    assert sent["jobType"] == "finetune"
    config = {key: about["value"] for key, about in json.loads(sent["config"]).items() if key != "_wandb"}
    assert config["facets"] == {
        "method": "scratch", "data": "medmnist", "task": "nodule2d", "protocol": "finetune", "fraction": 0.5, "seed": 2,
        "table": "tiny",
    }  # fmt: skip
    columns = {f"config:facets.value.{facet}" for facet in config["facets"]}
    assert columns == {f"config:facets.value.{facet}" for facet in module.COLUMNS}

    history = [json.loads(line) for line in wandb_server.lines["wandb-history.jsonl"]]
    (tested,) = [line for line in history if "test/auc" in line]
    assert tested["labels/fraction"] == 0.5
    expected = next(line for line in read_metrics(run) if "test/auc" in line)
    assert tested["test/auc"] == pytest.approx(expected["test/auc"])
    figures = {path.read_bytes() for path in (run / "figures").glob("*.png") if not path.name.startswith("analysis-")}
    media = {name: content for name, content in wandb_server.files.items() if name.startswith("media/images/")}
    assert media
    assert set(media.values()) == figures

    logged = {key for line in history for key in line}
    for name in ("contrast", "restoration", "prediction", "masks", "findings"):
        logged |= {key for line in read_metrics(tracked / name) for key in line}
    named = {(key, panel.kind) for panels in module.SECTIONS.values() for panel in panels for key in panel.keys}
    missing = {
        key
        for key, kind in named | {(module.STEP, "steps"), (module.LABEL_FRACTION, "steps")}
        if not (any(re.search(key, other) for other in logged) if kind == "pattern" else key in logged)
    }
    assert missing == NOT_YET


@pytest.mark.slow
def test_pictures_of_scans_are_left_out_unless_asked_for(tracked, tmp_path):
    words = ["finetune", "task=nodule2d", *NET, f"data.root={tracked / 'nodules'}", "trainer.batch_size=8", *TINY]
    words += ["init=scratch", "tracking.wandb=offline", f"out={tmp_path / 'run'}"]
    assert main(words) == 0
    assert list((tmp_path / "run" / "figures").glob("*.png"))
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert not list((tmp_path / "run" / "wandb").rglob("*.png"))


def test_throughput_leaves_out_what_is_no_training(monkeypatch):
    """Steps of 1 s with 4 samples each; a validation of 100 s and a test of 50 s lie between them."""
    clock, step, aside, logged = [0.0], [0], [0.0], []
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: clock[0])
    trainer = SimpleNamespace(global_step=0)
    network = SimpleNamespace(log=lambda key, value, **_: logged.append((step[0], key, value)))
    watch = callbacks.Throughput(2, samples=4, paused=lambda: aside[0])
    watch.on_train_start(trainer, network)
    for number in range(1, 8):
        clock[0] += 1 if number > 1 else 30  # the first step warms up
        trainer.global_step = step[0] = number
        watch.on_train_batch_end(trainer, network, None, None, 0)
        if number == 3:
            watch.on_validation_start(trainer, network)
            clock[0] += 100
            watch.on_validation_end(trainer, network)
        if number == 4:
            clock[0] += 50
            aside[0] += 50
    assert logged == [(3, "speed/samples_per_second", 4.0), (5, "speed/samples_per_second", 4.0),
                      (7, "speed/samples_per_second", 4.0)]  # fmt: skip


def test_names_with_any_character_fit_into_wandb():
    """W&B takes 64 letters of a tag, 128 of a name, and few signs in an id; what is cut or replaced stays apart."""
    assert run_id("lits-scratch-1a2b3c4d") == "lits-scratch-1a2b3c4d"
    names = ["a #1", "a /1", "a:1", " ", "é" * 300, "x" * 300, "x" * 299 + "y", "it's?", "\udcff", ""]
    ids = [run_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", one) for one in ids)
    long = [tags_of({"method": "x" * 100 + end, "data": "a\nb\udcff"}) for end in "ab"]
    assert long[0][0] != long[1][0]
    assert all(len(tag) <= 64 and tag.isprintable() for tags in long for tag in tags)
    for word, said in (("project=a/b", "tracking.project is 'a/b'"), ("entity=a:b", "tracking.entity is 'a:b'")):
        with pytest.raises(SslMedError, match=said):
            compose_finetune(["task=lits", "data.root=/x", "init=scratch", f"tracking.{word}"])
