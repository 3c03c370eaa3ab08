"""Sweep files: every method has one, and W&B's agent can start a run with whatever it draws."""

import shlex

import pytest
import yaml

from experiments.cli import main
from experiments.commands.sweep import SweepConfig, parameters, specification
from experiments.config.run import compose_pretrain
from experiments.config.sources import names, presets

EVERY = [*names("method"), *presets()]


def draw(tree, pick):
    """The words that an agent puts in the place of its placeholder."""
    values = {}
    for key, about in tree["parameters"].items():
        if "values" in about:
            assert set(about) == {"values"}
            values[key] = pick(about["values"])
        else:
            assert set(about) == {"distribution", "min", "max"}
            assert about["distribution"] in ("uniform", "log_uniform_values")
            assert 0 < about["min"] < about["max"]
            values[key] = pick((about["min"], about["max"]))
    *command, placeholder = tree["command"]
    assert placeholder == "${args_no_hyphens}"
    assert command[:2] == ["ssl-med", "pretrain"]
    return [*command[2:], *(f"{key}={value}" for key, value in values.items())], values


@pytest.mark.parametrize("method", EVERY)
def test_whatever_is_drawn_composes_to_a_run(method):
    words = [f"method={method}", "data=brats"]
    plain = compose_pretrain(words)
    tree = specification(plain, words, SweepConfig())
    assert {"optim.lr", "optim.weight_decay", "trainer.batch_size"} <= tree["parameters"].keys()
    metric = plain.method_class.metric
    assert tree["metric"] == {
        "name": f"val/{metric.name}",
        "goal": "maximize" if metric.higher_is_better else "minimize",
    }
    for pick in (min, max):
        drawn, values = draw(tree, pick)
        config = compose_pretrain(drawn)
        assert config.tracking.wandb == "online"
        for key, value in values.items():
            section, name = key.split(".")
            assert getattr(getattr(config, section), name) == pytest.approx(value), key
            default = getattr(getattr(plain, section), name)
            if key != "optim.weight_decay":
                assert value <= default if pick is min else value >= default, key


def test_the_file_is_yaml_that_a_shell_can_run(tmp_path, capsys):
    out = tmp_path / "a" / "sweep.yaml"
    words = ["method=moco", "data=luna", "data.root=/x y", "method.queue=64", "tracking.project=mine"]
    assert main(["sweep", *words, "search=bayes", f"out={out}"]) == 0
    assert "parameters ->" in capsys.readouterr().out
    tree = yaml.safe_load(out.read_text())
    assert (tree["method"], tree["project"], tree["program"]) == ("bayes", "mine", "ssl-med")
    assert "method.queue" not in tree["parameters"], "a word on the command line is no longer searched"
    assert tree["command"][2:7] == words
    assert "method.temperature" in tree["parameters"]
    assert shlex.join(tree["command"][2:5]) == "method=moco data=luna 'data.root=/x y'"
    assert main(["sweep", *words]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["method"] == "random"


def test_another_metric(capsys):
    words = ["sweep", "method=rotation", "data=luna", "metric=val/loss"]
    for name, goal in (
        ("val/restore", "minimize"),
        ("collapse/uniformity", "minimize"),
        ("online/knn_auc", "maximize"),
    ):
        assert main([*words[:-1], f"metric={name}"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["metric"] == {"name": name, "goal": goal}
    assert main([*words[:-1], "metric=online/auc", "goal=maximize"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["metric"] == {"name": "online/auc", "goal": "maximize"}


def test_what_is_off_stays_off_and_ranges_respect_the_method():
    found = parameters(compose_pretrain(["method=mae", "data=luna"]), set())
    assert found["method.ratio"] == {"distribution": "uniform", "min": 0.375, "max": 0.875}  # 1 would hide all
    assert "method.flip" not in found  # 0 in the recipe
    momentum = parameters(compose_pretrain(["method=moco", "data=luna"]), set())["method.momentum"]["values"]
    assert momentum == [0.996, 0.998, 0.999, 0.9995, 0.99975]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=luna"], "method=NAME is missing"),
        (["method=moko", "data=luna"], "method 'moko' is unknown"),
        (["method=moco", "data=luna", "search=grid"], "search"),
        (["method=moco", "data=luna", "goal=up"], "goal"),
        (["method=moco", "data=luna", "optim.lrr=1"], "optim.lrr"),
        (["method=moco", "data=luna", "metric=val/near"], "better; give goal=maximize or goal=minimize"),
    ],
)
def test_a_wrong_word_is_one_line(words, said, capsys):
    assert main(["sweep", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert said in line
