"""recipe=NAME: what it sets, what is stronger, where it is refused, and where it is written down."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import main
from experiments.comparison.plan import Plan
from experiments.comparison.table import load_table
from experiments.config.finetuned import FinetunedRun
from experiments.config.run import compose_finetune
from experiments.config.sources import CONF, KINDS_OF_LABELS, names, read_conf
from experiments.config.transform_lists import augment_of
from ssl_med.networks.backbone import build_backbone
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import SslMedError
from ssl_med.yaml_text import parse

TASKS = names("task")
FEW = (
    "hippocampus",
    "montgomery_lungs",
    "lidc",
    "chest14",
    "shenzhen",
)  # of crops that a list of transforms is quick with
STRONG = parse((CONF / "recipe" / "strong.yaml").read_text())
OWN = {"images": ["data.class_names=[a,b]"]}  # what a task needs to be composed


def test_paper_is_what_tasks_do_by_themselves():
    plain, paper = (compose_finetune(["task=lits", *words]) for words in ((), ("recipe=paper",)))
    assert plain.hash() == paper.hash()
    assert plain.general.recipe == paper.general.recipe == "paper"
    assert compose_finetune(["task=lits", "recipe=strong"]).hash() != plain.hash()


@pytest.mark.parametrize("trainer", ["default", "cpu"])
def test_the_strong_recipe_is_for_every_task(trainer):
    """Its networks are deep enough for deep supervision, whatever the family of the data."""
    kinds = set()
    for task in TASKS if trainer == "cpu" else FEW:
        config = compose_finetune([f"task={task}", f"trainer={trainer}", "recipe=strong", *OWN.get(task, [])])
        kinds.add(config.spec.target)
        own = read_conf("task", task).section("when_strong").section("task").tree
        for section in ("optim", "task", "transfer"):
            for key, value in STRONG[f"when_{config.spec.target}"].get(section, {}).items():
                if key != "augment" and not (section == "task" and key in own):
                    assert getattr(getattr(config, section), key) == value, (task, section, key)
        assert config.task.augment
        if config.spec.target != "mask":
            assert config.trainer.max_epochs == {"cpu": -1, "default": 100}[trainer]
            continue
        assert getattr(config.data, "foreground_batch", 0.33) == 0.33
        dims = config.spec.spatial_dims
        with torch.device("meta"):  # widths without the seconds of their weights
            network = build_backbone(config.backbone, spatial_dims=dims, in_channels=1)
            assert len(network.build_decoder().channels) >= 3, task
    assert kinds == {"mask", "class", "multilabel"}


@pytest.mark.parametrize(
    ("task", "axes"),
    [
        ("shenzhen", None),
        ("montgomery_lungs", None),
        ("chest14", None),
        ("images", []),
        ("bach", [0, 1]),
        ("luna", [0, 1, 2]),
    ],
)
def test_images_are_mirrored_only_where_sides_may_be_exchanged(task, axes):
    """Radiographs never are, and of images that nobody described none is; None: their list has no mirroring."""
    config = compose_finetune([f"task={task}", "recipe=strong", *OWN.get(task, [])])
    listed = augment_of(config.task, config.spec, ())
    mirrors = [one for one in listed.entries if one["_target_"] == "RandFlipAxesd"]
    assert (listed.variables["mirror_axes"] if mirrors else None) == axes
    assert mirrors or not config.task.mirrored_test


def test_layers_of_a_pretrained_encoder_learn_more_slowly_unless_it_is_frozen_or_starts_from_scratch():
    def rates(*words):
        config = compose_finetune(["task=shenzhen", "recipe=strong", *words])
        return config.optim.lr, config.transfer.layer_decay

    assert rates() == rates("init=scratch") == (1e-3, 1.0)
    assert rates("init=x.safetensors") == (3e-4, 0.75)
    assert rates("init='x.safetensors'", "transfer.layer_decay=0.9") == (3e-4, 0.9)
    assert rates("init=x.safetensors", "transfer.protocol=frozen") == (1e-3, 1.0)


def test_a_recipe_that_says_nothing_for_these_labels_is_refused(tmp_path, monkeypatch):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("when_class:\n  task: {mixup: 0.1}\n")
    for group in ("task", "trainer", "data"):
        (tmp_path / group).symlink_to(CONF / group)
    monkeypatch.setattr("experiments.config.sources.CONF", tmp_path)
    with pytest.raises(SslMedError, match="recipe=mine is not for masks, which 'lits' has; leave it out"):
        compose_finetune(["task=lits", "recipe=mine"])
    with pytest.raises(SslMedError, match="recipe=mine is not for findings, which 'chest14' has"):
        compose_finetune(["task=chest14", "recipe=mine"])
    assert compose_finetune(["task=luna", "recipe=mine"]).task.mixup == 0.1


def test_sections_for_one_kind_of_run_are_spelled_as_they_are_read():
    known = {
        f"when_{name}" for name in (*names("recipe"), *names("trainer"), "2d", "3d", "pretrained", "coloured")
    } | set(KINDS_OF_LABELS)

    def sections(tree):
        for key, value in tree.items() if isinstance(tree, dict) else ():
            yield from [key] if key.startswith("when_") else []
            yield from sections(value)

    for path in CONF.rglob("*.yaml"):
        found = set(sections(parse(path.read_text())))
        assert found <= known, path


def test_the_user_is_stronger_then_the_task_for_the_recipe_then_the_recipe(capsys):
    words = [
        "finetune",
        "task=hippocampus",
        "recipe=strong",
        "trainer=cpu",
        "data.root=x",
        "optim.lr=1e-3",
        "--show=sources",
    ]
    words += ["data=brats", "transfer.ema=0"]
    assert main(words) == 0
    lines = [line.partition("  # ") for line in capsys.readouterr().out.splitlines()]
    sources = {(*line.split(), "")[0]: (" ".join(line.split()[1:]), source) for line, _, source in lines}
    assert sources["optim.lr"] == ("0.001", "command line")
    assert sources["transfer.ema"] == ("0.0", "command line")
    assert sources["recipe"] == ("strong", "command line")
    assert sources["task.flip_axes"] == ("['x']", "conf/task/hippocampus.yaml")
    assert sources["task.loss"] == ("dice_ce", "conf/recipe/strong.yaml")
    assert sources["trainer.max_steps"][1] == "conf/task/hippocampus.yaml"
    assert sources["trainer.clip"][1] == "conf/recipe/strong.yaml"
    assert main(["finetune", "task=lits", "recipe=strnog", "data.root=x"]) == 2
    assert "recipe 'strnog' is unknown; did you mean 'strong'?" in capsys.readouterr().err


def test_it_is_listed(capsys):
    assert main(["list", "recipes", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["paper", "strong"]


def test_a_table_declares_it_for_its_fine_tunings(tmp_path):
    tree = {
        "recipe": "strong", "trainer": "cpu", "seeds": [0], "baseline": "scratch", "rows": {"scratch": {}},
        "columns": {"dice": {"task": "lits", "root": "lits"}, "voxels": {"task": "lits", "protocol": "linear"}},
    }  # fmt: skip
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(tree))
    plan = Plan(
        "own", load_table(str(file), [], scale="full"), out=tmp_path / "out", roots={"lits": str(tmp_path)}, stores={}
    )
    config = {node.column: node.config() for node in plan.finals({})}
    assert config["dice"].general.recipe == "strong"
    assert config["dice"].transfer.ema == 0.99
    assert config["voxels"].kind == "probe"  # trains nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "small"),
    [
        (
            "nodule2d",
            ["data.patch_size=[16,16]", "data.image_size=20", "backbone.features=[8,16]", "backbone.blocks=[1,1]"],
        ),
        ("montgomery", ["data.patch_size=[16,16]", "data.image_size=20", "backbone.channels=[8,8,16]"]),
        ("luna", ["data.patch_size=[16,16,16]", "backbone.channels=[8,8,16]"]),
        ("chest14", ["data.patch_size=[16,16]", "data.image_size=20", "backbone.channels=[8,8,16]"]),
    ],
)
def test_classes_and_findings_are_trained_by_the_strong_recipe(task, small, shared_phantom, tmp_path):
    root = shared_phantom({"nodule2d": "medmnist"}.get(task, task), subjects=5 if task == "luna" else 12)
    words = ["finetune", f"task={task}", "recipe=strong", "trainer=cpu", f"data.root={root}", *small]
    words += ["trainer.max_steps=3", "trainer.val_every_steps=3", "trainer.batch_size=4", "trainer.progress=false"]
    words += ["trainer.monitor=val/loss", "task.pictures=[0,0,0,0]"]
    assert main([*words, f"out={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["recipe"], summary["transfer"]["ema"], summary["steps"]) == ("strong", 0.999, 3)
    assert set(summary["transfer"]["level_rates"]) == {1.0}


@pytest.mark.slow
def test_a_strong_run_says_so_where_it_is_read(shared_phantom, tmp_path):
    small = ["data.patch_size=[16,16,16]", "trainer.max_steps=2", "trainer.val_every_steps=2", "trainer.progress=false"]
    small += ["backbone.features=[4,4,8,8]", "task.overlap=0", "task.mirrored_test=false", "data.crops_per_volume=2"]
    root = shared_phantom("lits", subjects=5)
    words = [
        "finetune",
        "task=lits",
        "recipe=strong",
        "trainer=cpu",
        f"data.root={root}",
        *small,
        f"out={tmp_path / 'run'}",
    ]
    assert main(words) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["recipe"] == summary["config"]["recipe"] == "strong"
    assert summary["transfer"]["ema"] == 0.99
    verdict = summary["pieces"]["liver"]
    assert verdict["largest_only"] == (verdict["dice_largest"] > verdict["dice"])
    module = FinetunedRun.read(tmp_path / "run").module(compose_finetune(words[1:]).task)
    assert module.task.largest == (verdict["largest_only"],)
    assert read_run(Path(tmp_path / "run")).recipe == "strong"
    assert main(["report", str(tmp_path), f"out={tmp_path / 'page'}"]) == 0
    text = "".join(path.read_text() for path in (tmp_path / "page").rglob("*.html"))
    assert "strong recipe" in text
    assert "Recipe of the fine-tunings (conf/recipe): strong." in text
