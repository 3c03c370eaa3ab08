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
from experiments.config.sources import CONF, names
from ssl_med.networks.backbone import build_backbone
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import SslMedError

TASKS = names("task")
FEW = ("hippocampus", "montgomery_lungs", "lidc", "chest14")  # of crops that a list of transforms is quick with
STRONG = yaml.safe_load((CONF / "recipe" / "strong.yaml").read_text())["when_mask"]


def test_paper_is_what_tasks_do_by_themselves():
    plain, paper = (compose_finetune(["task=lits", *words]) for words in ((), ("recipe=paper",)))
    assert plain.hash() == paper.hash()
    assert plain.general.recipe == paper.general.recipe == "paper"
    assert compose_finetune(["task=lits", "recipe=strong"]).hash() != plain.hash()


@pytest.mark.parametrize("trainer", ["default", "cpu"])
def test_the_strong_recipe_is_for_every_task_with_masks_and_refused_for_the_others(trainer):
    """Its networks are deep enough for deep supervision, whatever the family of the data."""
    masks = 0
    for task in TASKS if trainer == "cpu" else FEW:
        words = [f"task={task}", f"trainer={trainer}"]
        plain = compose_finetune([*words, *(["data.class_names=[a,b]"] if task == "images" else [])])
        if plain.spec.target != "mask":
            with pytest.raises(SslMedError, match=rf"recipe=strong is not for (classes|findings), which '{task}' has"):
                compose_finetune([*words, "recipe=strong", *(["data.class_names=[a,b]"] if task == "images" else [])])
            continue
        masks += 1
        config = compose_finetune([*words, "recipe=strong"])
        for section in ("optim", "task", "transfer"):
            for key, value in STRONG[section].items():
                assert getattr(getattr(config, section), key) == value, (task, section, key)
        assert config.task.augment
        assert getattr(config.data, "foreground_batch", 0.33) == 0.33
        dims = config.spec.spatial_dims
        with torch.device("meta"):  # widths without the seconds of their weights
            network = build_backbone(config.backbone, spatial_dims=dims, in_channels=1)
            assert len(network.build_decoder().channels) >= 3, task
    assert masks >= 3


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
    assert sources["trainer.max_steps"][1] == "conf/recipe/strong.yaml"
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
