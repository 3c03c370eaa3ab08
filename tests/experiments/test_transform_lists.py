"""Lists of transforms on the command line: names, files, what they take the place of, what is refused before work starts."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.cli import main
from experiments.config.external import _prepared
from experiments.config.offers import KINDS
from experiments.config.run import compose_finetune, compose_pretrain, compose_probe
from experiments.config.sources import names
from experiments.config.transform_lists import read_list
from ssl_med.config import to_plain
from ssl_med.evaluation.tasks import mirror_axes
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.transforms.samples.lists import TransformList, variables_of
from ssl_med.transforms.samples.pipeline import Pipeline

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
    tasks = {"strong_2d": "montgomery_lungs", "strong_image": "shenzhen", "strong_radiograph": "chest14"}
    task = {**tasks, "strong_candidate": "luna"}.get(name, "lits")
    assert compose_finetune([f"task={task}", "trainer=cpu", f"task.augment={name}"]).task.augment
    assert KINDS["augment"]()[name]


def test_a_test_mirrors_only_as_training_does():
    words = ["task=chest14", "trainer=cpu", "task.mirrored_test=true"]
    with pytest.raises(SslMedError, match=r"strong_radiograph.yaml never mirrors; set task.mirrored_test=false"):
        compose_finetune([*words, "task.augment=strong_radiograph"])
    assert compose_finetune([*words, "task.augment=strong_image"]).task.mirrored_test


def test_axes_whose_sides_may_be_exchanged():
    def axes(*words):
        run = compose_finetune(words)
        return mirror_axes(run.task, run.spec)

    assert axes(*LITS) == (0, 1, 2)
    assert axes(*LITS, "task.flip_axes=[z,x]") == (0, 2)
    assert axes(*FILMS) == (1,)
    assert axes("task=hippocampus", "trainer=cpu") == ()


MASKS = DataSpec(name="x", spatial_dims=3, in_channels=1, patch_size=(8, 8, 8), target="mask", class_names=("a",))


def test_law_of_strong_3d():
    """Share of samples that each entry changes, and the range of what it does, as nnU-Net's trainer has them."""
    rng = np.random.default_rng(0)
    image, mask = torch.from_numpy(0.2 + 0.6 * rng.random((1, 8, 8, 8), np.float32)), torch.ones(1, 8, 8, 8)
    shares, found = [], []
    draws = 500
    for entry in read_list("strong_3d", "task.augment"):
        pipeline = Pipeline(TransformList((entry,), variables=variables_of(MASKS, (0, 1, 2))))
        pipeline.seed(1)
        results = [pipeline(image, mask)[0] for _ in range(draws)]
        found.append(torch.stack([x for x in results if not torch.equal(x, image)]).flatten(1))
        shares.append(len(found[-1]) / draws)
    np.testing.assert_allclose(shares, [0.36, 0.1, 0.1, 0.15, 0.15, 0.125, 0.1, 0.3, 0.875], atol=0.065)
    _, noise, _, bright, contrast, low, inverted, gamma, _ = found
    x = image.flatten()
    assert ((noise - x).std(1) / x.std()).max() < 0.115
    ratio = (bright / x).mean(1)
    assert (bright / x - ratio[:, None]).abs().max() < 1e-5
    assert 0.75 <= ratio.min() < 0.8
    assert 1.2 < ratio.max() <= 1.25
    slope = ((contrast - contrast.mean(1, keepdim=True)) * (x - x.mean())).sum(1) / ((x - x.mean()) ** 2).sum()
    assert 0.7499 <= slope.min() < 0.8
    assert slope.max() < 1.25
    assert contrast.max() <= x.max()
    assert contrast.min() >= x.min()
    for curve in (gamma, inverted):
        torch.testing.assert_close(curve.mean(1), x.mean().expand(len(curve)), atol=1e-4, rtol=0)
        torch.testing.assert_close(curve.std(1), x.std().expand(len(curve)), atol=1e-3, rtol=0)
        assert (curve[:, x.argsort()].diff() >= -1e-6).all()  # order is kept
    assert (low.std(1) < x.std()).all()


def test_a_test_on_another_data_set_changes_samples_as_the_training_did():
    half = [{"_target_": "ScaleIntensityd", "keys": ["image"], "maxv": 0.5}]
    for trained, asked, wanted in ((half, [], half), ([], half, None), ([], [], None), (half, half, half)):
        run = SimpleNamespace(spec=MASKS, folder="RUN", settings={"data": {"transforms": trained}})
        own = {"patch_size": [8, 8, 8], "transforms": asked, "allow": []}
        if asked and not trained:
            with pytest.raises(SslMedError, match=r"data.transforms=.*but RUN was trained with \[\].*leave it out"):
                _prepared(run, own, asked=["transforms"])
        else:
            assert _prepared(run, own, asked=[]).tree["data"].get("transforms") == wanted
