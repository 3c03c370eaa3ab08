"""Learning curves on the test part, and trials that never see it."""

import pytest
import torch

from datamodules.lits import LitsData
from experiments.commands.finetune import finetune
from experiments.config.run import compose_finetune
from ssl_med.reports.run_folder import read_metrics, read_run
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.slow  # runs with probes and curves take tens of seconds; CI runs them

SHORT = ["task=lits", "trainer=cpu", "trainer.progress=false", "trainer.batch_size=2", "trainer.max_steps=5"]
SMALL = ["data.patch_size=[16,16,16]", "backbone.channels=[8,8,16]", "task.overlap=0", "task.pictures=[0,0,0,0]"]
UNSELECTED = ["trainer.select=last", "trainer.patience=0", "trainer.max_epochs=-1"]


@pytest.fixture(scope="module")
def scans(shared_phantom):
    return shared_phantom("lits", subjects=8, seed=0, size=(32, 32, 24))


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def test_a_curve_changes_nothing_and_ends_where_the_test_does(scans, tmp_path):
    words = [*SHORT, *SMALL, *UNSELECTED, f"data.root={scans}"]
    plain = finetune([*words, f"out={tmp_path / 'plain'}"])
    curved = finetune([*words, "trainer.test_every_steps=2", f"out={tmp_path / 'curved'}"])
    whole = finetune([*words, "trainer.test_every_steps=5", f"out={tmp_path / 'whole'}"])
    for key, value in weights(plain).items():
        assert torch.equal(value, weights(curved)[key]), key
    points = {line["curve/steps"]: line["curve/dice"] for line in read_metrics(curved) if "curve/dice" in line}
    assert list(points) == [2, 4]
    assert read_run(curved).value == read_run(plain).value
    assert not any("curve/dice" in line for line in read_metrics(whole))  # the test itself is the end of the curve


def test_a_point_of_the_curve_is_the_test_of_a_run_that_ends_there(scans, tmp_path):
    words = [*SHORT[:-1], *SMALL, *UNSELECTED, f"data.root={scans}", "optim.schedule=constant"]
    curved = finetune([*words, "trainer.max_steps=4", "trainer.test_every_steps=2", f"out={tmp_path / 'curved'}"])
    ended = finetune([*words, "trainer.max_steps=2", f"out={tmp_path / 'ended'}"])
    point = next(line["curve/dice"] for line in read_metrics(curved) if "curve/dice" in line)
    assert point == pytest.approx(read_run(ended).value, abs=1e-6)


def test_a_curve_is_refused_where_weights_are_chosen(scans):
    with pytest.raises(SslMedError, match=r"trainer\.select=last"):
        compose_finetune([*SHORT, *SMALL, f"data.root={scans}", "trainer.test_every_steps=2"])


def parts(scans, **settings):
    config = LitsData.Config(name="lits", root=str(scans), patch_size=(16, 16, 16), **settings)
    data = LitsData(config, labelled=True, batch_size=2)
    data.setup()
    return {part: set(members) for part, members in data.subjects().items()}


def test_trials_are_tested_on_the_validation_part(scans):
    usual, trial = parts(scans), parts(scans, tuning_share=0.3)
    assert trial == {"train": usual["train"], "test": usual["val"]}


def test_without_a_validation_part_some_training_subjects_are_held_out(scans):
    ratios = (0.75, 0.0, 0.25)
    usual, trial = parts(scans, split_ratios=ratios), parts(scans, split_ratios=ratios, tuning_share=0.3)
    assert trial["train"] | trial["test"] == usual["train"]
    assert not trial["train"] & trial["test"]
    assert len(trial["test"]) == int(0.3 * len(usual["train"]))
    assert not usual["test"] & (trial["train"] | trial["test"])


def test_a_share_outside_of_0_and_1_is_refused(scans):
    with pytest.raises(SslMedError, match=r"data\.tuning_share is 1"):
        parts(scans, tuning_share=1.0)
