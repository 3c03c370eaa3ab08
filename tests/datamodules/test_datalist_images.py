"""data=images data.labels=FILE.json: a datalist of MONAI that names pictures with a class or findings."""

import json

import numpy as np
import pytest
from PIL import Image

from datamodules.images import ImagesConfig, ImagesData
from experiments.cli import main
from ssl_med.spec import SslMedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for k in range(8):
        array = np.random.default_rng(k).integers(0, 256, (24, 28), dtype=np.uint8)
        Image.fromarray(array).save(root / f"{k}.png")
    return root


def row(k, label, **more):
    return {"image": f"{k}.png", "label": label, **more}


def data(folder, tree, *, labelled=True, **settings):
    (folder / "list.json").write_text(json.dumps(tree))
    settings = {"patch_size": (16, 16), "image_size": 20, "labels": "list.json", "split": "datalist", **settings}
    made = ImagesData(ImagesConfig(name="images", root=str(folder), **settings), labelled=labelled, batch_size=2)
    made.setup()
    return made


def parts(made):
    return {part: sorted(case.path[-5] for case in cases) for part, cases in made.parts.items()}


CLASSES = {
    "labels": {"0": "well", "1": "ill"},
    "training": [row(k, k % 2) for k in range(4)],
    "validation": [row(4, 0)],
    "test": [row(5, 1), row(6, None)],
}


def test_lists_are_the_parts_and_numbers_the_classes(folder):
    made = data(folder, CLASSES)
    assert parts(made) == {"train": list("0123"), "val": ["4"], "test": ["5"]}
    assert (made.spec.target, made.spec.class_names) == ("class", ("well", "ill"))
    batch = next(iter(made.train_dataloader()))
    assert batch["image"].shape == (2, 1, 16, 16)
    label = dict(zip([case.name for case in made.parts["train"]], "0101", strict=True))
    assert [str(int(value)) for value in batch["label"]] == [label[name] for name in batch["id"]]
    # what has no label, or is in no list, is for pretraining
    assert parts(data(folder, CLASSES, labelled=False)) == {"train": list("012367"), "val": ["4"], "test": []}
    rows = [row(k, [k % 2, None], fold=k % 3, subject=f"p{k // 2}") for k in range(8)]
    with pytest.raises(SslMedError, match=r"subject 'p\d' is in both 'train' and 'val'"):
        data(folder, {"training": rows}, fold=1)
    made = data(folder, {"training": rows, "labels": ["a", "b"]})
    assert (made.spec.target, made.spec.class_names) == ("multilabel", ("a", "b"))
    assert {case.subject for cases in made.parts.values() for case in cases} == {"p0", "p1", "p2", "p3"}
    assert any("no labelled list validation and no list test" in note for note in made.notes)
    assert any("data.split=datalist takes them" in note for note in data(folder, CLASSES, split="random").notes)


@pytest.mark.parametrize(
    ("tree", "settings", "said"),
    [
        ({"training": [{"image": "0.png", "label": "x.png"}]}, {}, "has no label that is the number of a class"),
        ({"training": [row(0, 0), row(0, 1)]}, {}, "row 2 names 0.png a second time"),
        ({"training": [row(0, 0), row("z", 1)]}, {}, "z.png; complete the download"),
        ({"training": [row(0, 0), {"image": ["1.png", "2.png"], "label": 1}]}, {}, "row 2 names 2 images"),
        (CLASSES, {"fold": 2}, "data.fold=2: no training row has it; there are: none"),
        (CLASSES, {"labels": "no.json"}, "no.json: no such file; it should be a datalist"),
        ({"x": 1}, {}, "is no datalist; it needs lists"),
        (CLASSES, {"subject_column": "who"}, "data.subject_column is of a CSV file"),
        (CLASSES, {"label_columns": ("x",)}, "data.label_columns is of a CSV file"),
        (CLASSES, {"labels": "", "class_names": ("a", "b")}, "data.split=datalist needs data.labels=FILE.json"),
    ],
)
def test_what_is_wrong_is_one_line(folder, tree, settings, said):
    with pytest.raises(SslMedError, match=said) as error:
        data(folder, tree, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_both_kinds_are_fine_tuned_from_the_command_line(folder, tmp_path, shared_phantom):
    small = [
        "trainer=cpu",
        "trainer.max_steps=2",
        "trainer.val_every_steps=2",
        "trainer.progress=false",
        "backbone.channels=[8,8,16]",
    ]
    small += ["task.pictures=[0,0,0,0]", "recipe=strong", "trainer.monitor=val/loss"]
    rows = [row(k, k % 2) for k in range(8)]
    (folder / "all.json").write_text(json.dumps({"training": rows[:4], "validation": rows[4:6], "test": rows[6:]}))
    words = ["finetune", "task=images", f"data.root={folder}", "data.labels=all.json", "data.split=datalist"]
    assert main([*words, *small, "data.patch_size=[16,16]", "data.image_size=20", f"out={tmp_path / '2d'}"]) == 0
    root = shared_phantom("monai", subjects=10)
    tree = json.loads((root / "datalist.json").read_text())
    for part in ("training", "validation", "test"):
        tree[part] = [{"image": one["image"], "label": k % 2} for k, one in enumerate(tree[part])]
    tree["labels"] = ["a", "b"]
    (tmp_path / "own.json").write_text(json.dumps(tree))
    words = ["finetune", "task=monai", f"data.root={root}", f"data.datalist={tmp_path / 'own.json'}"]
    assert main([*words, *small, "data.patch_size=[16,16,16]", f"out={tmp_path / '3d'}"]) == 0
    for kind in ("2d", "3d"):
        assert "auc" in json.loads((tmp_path / kind / "summary.json").read_text())["metric"]
