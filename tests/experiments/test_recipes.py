"""Lists of transforms on the command line: names, files, what they take the place of, what is refused before work starts."""

import pytest

from experiments.cli import main
from experiments.config.offers import KINDS
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.sources import names
from ssl_med.config import to_plain
from ssl_med.evaluation.tasks import mirror_axes
from ssl_med.spec import SslMedError

LITS, FILMS = ["task=lits", "trainer=cpu"], ["task=shenzhen", "trainer=cpu"]


def refused(match, *words, compose=compose_finetune):
    with pytest.raises(SslMedError, match=match) as error:
        compose(words)
    assert "\n" not in str(error.value)


def test_names_files_and_lists_say_the_same(tmp_path):
    named = compose_finetune([*LITS, "task.augment=strong_3d"])
    assert len(named.task.augment) > 5
    assert named.tree()["task"]["augment"] == to_plain(named.task.augment)
    path = tmp_path / "mine.yaml"
    path.write_text("- _target_: RandFlipd\n  keys: [image, mask]\n  prob: 0.5\n")
    of_file = compose_finetune([*LITS, f"task.augment={path}"])
    typed = compose_finetune([*LITS, "task.augment=[{_target_: RandFlipd, keys: [image, mask], prob: 0.5}]"])
    assert of_file.task.augment == typed.task.augment
    assert of_file.hash() == typed.hash()
    assert len({run.hash() for run in (named, typed, compose_finetune(LITS))}) == 3
    pretrained = compose_pretrain(
        ["method=mae", "data=luna", "data.transforms=[{_target_: ScaleIntensityd, keys: [image]}]"]
    )
    assert pretrained.data.transforms[0]["_target_"] == "ScaleIntensityd"


def test_refusals(tmp_path):
    refused("task.augment: list 'strong3d' is unknown; did you mean 'strong_3d'", *LITS, "task.augment=strong3d")
    refused("task.augment=no.yaml: no such file", *LITS, "task.augment=no.yaml")
    (tmp_path / "map.yaml").write_text("a: 1\n")
    refused("map.yaml: must hold a list of transforms", *LITS, f"task.augment={tmp_path}/map.yaml")
    refused(
        r"task.augment: entry 1 \(RandFlipd\): argument 'probs' is unknown",
        *LITS,
        "task.augment=[{_target_: RandFlipd, probs: 1}]",
    )
    refused(
        "task.crop_scale has no effect, task.augment takes the place",
        *FILMS,
        "task.augment=strong_image",
        "task.crop_scale=0.5",
    )
    flip = "task.augment=[{_target_: RandRotate90d, keys: [image, mask]}]"
    refused("task.flips has no effect.*axes: ..mirror_axes", *LITS, flip, "task.flips=false")
    compose_finetune([*LITS, "task.augment=strong_3d", "task.flips=false"])
    compose_finetune(["task=hippocampus", "trainer=cpu", flip])  # what a yaml says of flips is weaker
    refused(
        "data.allow names mine, of which no list has a transform", *LITS, "task.augment=strong_3d", "data.allow=[mine]"
    )
    probe = ["task=lits", "protocol=knn"]
    refused(
        "task.augment changes the samples of a fine-tuning alone",
        "task=shenzhen",
        "protocol=linear",
        "task.augment=strong_image",
        compose=compose_probe,
    )
    refused(
        "flip_axes: 'row' is no axis of 'lits', which has x, y, z",
        *LITS,
        "task.augment=strong_3d",
        "task.flip_axes=[row]",
    )
    refused(
        "flip_axes has no effect with task.flips=false",
        *LITS,
        "task.augment=strong_3d",
        "task.flip_axes=[x]",
        "task.flips=false",
    )
    del probe


def test_a_mistake_is_one_line_and_exit_2(capsys, tmp_path):
    words = ["finetune", *LITS, f"data.root={tmp_path}", "task.augment=[{_target_: os.system, command: ls}]"]
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert (
        "task.augment: entry 1: _target_ 'os.system' lies outside of monai.transforms and ssl_med.transforms"
        in lines[0]
    )


@pytest.mark.parametrize("name", names("augment"))
def test_every_list_fits_its_data(name):
    task = {"strong_2d": "montgomery_lungs", "strong_image": "shenzhen", "strong_radiograph": "chest14"}.get(
        name, "lits"
    )
    assert compose_finetune([f"task={task}", "trainer=cpu", f"task.augment={name}"]).task.augment
    assert KINDS["augment"]()[name]


def test_axes_whose_sides_may_be_exchanged():
    def axes(*words):
        run = compose_finetune(words)
        return mirror_axes(run.task, run.spec)

    assert axes(*LITS) == (0, 1, 2)
    assert axes(*LITS, "task.flip_axes=[z,x]") == (0, 2)
    assert axes(*FILMS) == (1,)
    assert axes("task=hippocampus", "trainer=cpu") == ()
