"""Every setting acts: a run with one changed value differs from the run without it, or the value is refused in a line.

`WAITING` are settings whose effect such a short run on such small data cannot show, with the reason. Settings whose value is a
name, a file or a list of names are not tried.
"""

import dataclasses
import shutil
import types
import typing

import pytest
from chaos import cases, facts, merged, same

from experiments.cli import main
from experiments.config.effects import sections_of
from experiments.config.run import compose_finetune, compose_pretrain
from experiments.config.sources import names
from ssl_med.config import to_plain
from ssl_med.setting import marks
from ssl_med.values import spell

SHORT = ["trainer.max_steps=4", "trainer.val_every_steps=2", "trainer.log_every=1", "tracking.wandb=off"]
ENOUGH = 3  # values that change nothing
WAITING = {
    "data.split_ratios": "three shares of sum 1 are not guessed",
    "data.allow_missing": "no file is missing",
    "data.mixed_volumes": "all scans fit into the cache",
    "data.target_regions": "a pretraining reads masks from a store alone",
    "data.mask_header": "the headers are right",
    "method.warmup": "a share of the steps below one step",
    "method.queue_from": "a share of the steps below one step",
    "method.schedule_steps": "the schedule of 4 steps ends before",
    "method.every": "one epoch",
    "method.negatives": "the published 32000 are more than the images",
    "method.renew": "a rhythm of more than 4 steps",
    "method.memory_momentum": "no image comes twice",
    "method.iterations": "k-means of few images is done before",
    "task.loss": "what auto chooses is a choice too",
    "task.window_batch": "how many windows at a time is a matter of memory",
    "task.largest_component": "validation decides, and there is nothing to leave out",
    "task.tolerance_mm": "an untrained network finds no surface",
    "task.pictures": "pictures are no numbers",
    "transfer.norm": "the network has group normalisation already",
    "optim.name": "adamw without weight decay is adam",
    "optim.schedule": "a step decay of epochs that 4 steps do not reach is constant",
    "optim.step_epochs": "4 steps do not reach it",
    "optim.step_every_epochs": "4 steps do not reach it",
    "optim.gamma": "4 steps do not reach it",
}


def values(hint, value):
    """Other values of a setting, by its type."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [choice for choice in inner if choice != value]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [new for one in inner if one is not type(None) for new in values(one, 0 if value is None else value)]
        return found if value is None else [*found, None]
    if hint is bool:
        return [not value]
    if hint is int and isinstance(value, int):
        return [value + 1, value // 2, 2 * value, 2, 4, 8]
    if hint is float and isinstance(value, int | float):
        return [value * 0.5, value * 2, value + 0.3, value + 0.05, 0.5, 0.9, 2.0]
    numbers = isinstance(value, tuple) and value and all(type(one) in (int, float) for one in value)
    if not numbers:
        return []
    if all(type(one) is int for one in value):
        return [tuple(one + 1 for one in value), tuple(2 * one for one in value)]
    return [tuple(share * one for one in value) for share in (0.5, 0.9)] + [(value[0], *(0.8 * x for x in value[1:]))]


def leaves(place, config):
    """Name, type and value of every setting below a section that changes results."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), f"{place}.{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(where, value)
        elif marks(type(config))[field.name].affects != "nothing":
            yield where, hints[field.name], value


def sweep(words, sections, folder, capsys):
    """Settings without an effect, with the values that were tried."""

    def outcome(*more):
        shutil.rmtree(folder / "run", ignore_errors=True)
        code = main([str(word) for word in (*merged(*words, *more), f"out={folder / 'run'}")])
        told = capsys.readouterr().err
        assert code in (0, 2), f"{more}: {told}"
        return None if code else {key: value for key, value in facts(folder / "run").items() if key != "notes"}

    def idle(where, hint, value):
        """Values that change nothing; none as soon as one changes something."""
        alike = []
        for new in (one for one in values(hint, value) if one != value):
            found = outcome(f"{where}={spell(to_plain(new))}")
            if found is not None and not same(found, straight):
                return []
            alike += [new] if found is not None else []
            if len(alike) == ENOUGH:
                break
        return alike

    straight = outcome()
    assert straight is not None
    compose = {"pretrain": compose_pretrain, "finetune": compose_finetune}[words[0]]
    found = sections_of(compose([str(word) for word in words[1:]]))
    tried = [leaf for name, config in found.items() if name in sections for leaf in leaves(name, config)]
    assert tried
    return {where: alike for where, *leaf in tried if where not in WAITING and (alike := idle(where, *leaf))}


@pytest.fixture(scope="module")
def runs(shared_phantom):
    """Words of short runs by name: every method, and fine-tunings."""
    small = {"seed": 0, "size": (32, 32, 24)}
    data = (
        shared_phantom("chest14", subjects=24, seed=0),
        shared_phantom("lits", subjects=8, **small),
        shared_phantom("brats", subjects=8, **small),
    )
    return {case.name: merged(*case.words, *SHORT) for case in cases(*data)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "simclr" else pytest.mark.long) for name in names("method")]
)
def test_every_setting_of_a_method_acts(runs, tmp_path, capsys, name):
    assert sweep(runs[name], ("method",), tmp_path, capsys) == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["moco", "models_genesis", "finetune-dropout", "finetune-volumes"])
def test_every_other_setting_acts(runs, tmp_path, capsys, name):
    assert sweep(runs[name], ("task", "transfer", "data", "optim", "labels"), tmp_path, capsys) == {}
