"""Families of 2D images: phantom to index to split to batch to run, and every fault of a file or table in one line."""

import csv
import hashlib
import importlib
import json
import os
import shutil
import zipfile
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from datamodules.core.base import MedicalData
from datamodules.core.volumes import Cache, Loaded
from experiments.cli import main
from ssl_med.catalogue import get_class
from ssl_med.spec import Need, SslMedError

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=4", "trainer.max_steps=2"]
NET = ["backbone.name=unet", "backbone.channels=[8,8,16]"]


@dataclass(frozen=True)
class Family:
    """A data module and what its phantom must turn into."""

    data: str
    task: str
    target: str
    classes: int
    channels: int = 1
    dims: int = 2
    labelled: tuple = ()  # further settings of labelled use
    phantom: tuple = ()

    @property
    def settings(self):
        return dict(self.labelled)

    @property
    def overrides(self):
        return [f"data.{key}={str(value).replace(' ', '')}" for key, value in self.labelled]


TABLE = ("labels", "labels.csv")
FAMILIES = {
    "bach": Family("bach", "bach", "class", 4, 3),
    "busi": Family("busi", "busi", "class", 3),
    "busi_lesions": Family("busi", "busi_lesions", "mask", 1, labelled=(("target", "lesion"),)),
    "chexpert": Family("chexpert", "chexpert", "multilabel", 5),
    "eyepacs": Family("eyepacs", "eyepacs", "class", 5, 3),
    "fetal_planes": Family("fetal_planes", "fetal_planes", "class", 6),
    "ichallenge_amd": Family("ichallenge_amd", "ichallenge_amd", "class", 2, 3),
    "ichallenge_pm": Family("ichallenge_pm", "ichallenge_pm", "class", 2, 3),
    "images": Family(
        "images", "images", "class", 2,
        labelled=(TABLE, ("label_columns", ["verdict"]), ("class_names", ["normal", "sick"]), ("subject_column", "person")),
    ),
    "images_findings": Family(
        "images", "images", "multilabel", 2, labelled=(TABLE, ("label_columns", ["cardiomegaly", "effusion"]))
    ),
    "medmnist": Family("medmnist", "medmnist", "class", 2),
    "medmnist_findings": Family("medmnist", "medmnist", "multilabel", 3, phantom=(("layout", "findings"),)),
    "medmnist_cells": Family("medmnist", "medmnist", "class", 4, 3, phantom=(("layout", "cells"),)),
    "medmnist_3d": Family("medmnist", "medmnist", "class", 2, dims=3, phantom=(("layout", "nodule3d"),)),
    "montgomery": Family("montgomery", "montgomery", "class", 2),
    "montgomery_lungs": Family("montgomery", "montgomery_lungs", "mask", 2, labelled=(("target", "lungs"),)),
    "shenzhen": Family("shenzhen", "shenzhen", "class", 2),
}  # fmt: skip
KINDS = sorted({family.data for family in FAMILIES.values()})
SUBJECTS = {"busi": 30, "fetal_planes": 30, "medmnist": 60, "eyepacs": 25, "bach": 28, "images": 14}


def phantom(kind):
    return importlib.import_module(f"datamodules.phantoms.{kind}")


@pytest.fixture(scope="module")
def roots(tmp_path_factory, shared_phantom):
    """Folder of each family's phantom; not to be changed."""
    base = tmp_path_factory.mktemp("families")
    for name, family in FAMILIES.items():
        size = (40, 48) if family.data != "medmnist" else None
        options = dict(family.phantom)
        root = shared_phantom(family.data, subjects=SUBJECTS.get(family.data, 12), size=size, **options)
        (base / name).symlink_to(root)
    return base


@pytest.fixture
def copy_of(roots, tmp_path):
    def copy(name):
        shutil.copytree(roots / name, tmp_path / name)
        return tmp_path / name

    return copy


def build(name, root, *, labelled, need=None, batch_size=4, fraction=1.0, seed=0, **settings):
    family = FAMILIES[name]
    cls = get_class("datamodules", family.data, kind="data", base=MedicalData)
    options = {"name": family.data, "root": str(root), "patch_size": (32,) * family.dims}
    if family.data != "medmnist":
        options["image_size"] = 40
    # lists stand for the tuples that the composer makes of them
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in (family.settings | settings).items()}
    data = cls(
        cls.Config(**options | given),
        labelled=labelled,
        need=need,
        batch_size=batch_size,
        label_fraction=fraction,
        seed=seed,
    )
    data.setup()
    return data


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ssl-med: ")
    return lines[0]


def digest(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


# ------------------------------------------------------------------------------------------- phantoms


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_phantoms_repeat_and_subjects_do_not_depend_on_their_number(kind, tmp_path):
    make = phantom(kind).generate
    make(tmp_path / "a", subjects=3, seed=3, size=(32, 32))
    make(tmp_path / "b", subjects=4, seed=3, size=(32, 32))
    few, more = digest(tmp_path / "a"), digest(tmp_path / "b")
    if kind == "medmnist":
        with np.load(tmp_path / "a/nodulemnist.npz") as a, np.load(tmp_path / "b/nodulemnist.npz") as b:
            assert all(np.array_equal(a[key], b[key][: len(a[key])]) for key in a)
    else:
        images = {name for name in few if not name.endswith((".csv", ".txt"))}
        assert len(images) >= 3
        assert all(more[name] == few[name] for name in images)
    # a smaller phantom in the place of a larger one leaves nothing behind
    make(tmp_path / "b", subjects=3, seed=3, size=(32, 32))
    assert digest(tmp_path / "b") == few
    make(tmp_path / "c", subjects=2, seed=4, size=(32, 32))
    other = digest(tmp_path / "c")
    assert not {code for name, code in few.items() if "mask" not in name.lower() and not name.endswith(".csv")} & set(
        other.values()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_phantoms_refuse_foreign_folders_and_bad_requests(kind, tmp_path):
    make = phantom(kind).generate
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SslMedError, match=rf"is not empty and no {kind} phantom"):
        make(tmp_path, subjects=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(SslMedError, match="subjects is 0"):
        make(tmp_path / "new", subjects=0)
    with pytest.raises(SslMedError, match=r"size \[8\] must be"):
        make(tmp_path / "new", subjects=1, size=(8,))
    assert not (tmp_path / "new").exists()


def nearest_mean_accuracy(features, labels):
    """Leave-one-out accuracy of the class whose mean is nearest, features scaled to unit deviation."""
    x, y = np.array(features, float), np.array(labels)
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-9)
    right = 0
    for i in range(len(x)):
        rest = np.arange(len(x)) != i
        centers = [x[rest & (y == k)].mean(0) for k in np.unique(y)]
        right += np.unique(y)[np.argmin([np.linalg.norm(x[i] - c) for c in centers])] == y[i]
    return right / len(x)


@pytest.mark.slow
def test_phantom_classes_show_in_what_they_are_about_but_not_in_brightness(tmp_path):
    """Tissue: share and clustering of dark nuclei. Fundus: pale spots near the macula."""
    root = phantom("bach").generate(tmp_path / "bach", subjects=32, size=(96, 96))
    features, trivial, labels = [], [], []
    for number, folder in enumerate(("Normal", "Benign", "InSitu", "Invasive")):
        for path in sorted(root.glob(f"Photos/{folder}/*")):
            image = np.asarray(Image.open(path), float)
            dark = image[..., 0] < 150
            blocks = dark.reshape(12, 8, 12, 8).mean((1, 3))
            white = (image.min(-1) > 200).mean()
            features.append([dark.mean(), blocks.std(), white, (blocks < 0.02).mean()])
            trivial.append([image.mean()])
            labels.append(number)
    assert nearest_mean_accuracy(features, labels) > 0.8
    assert nearest_mean_accuracy(trivial, labels) < 0.75
    root = phantom("ichallenge_amd").generate(tmp_path / "amd", subjects=48, size=(96, 96))
    features, labels = [], []
    for path in sorted(root.rglob("*.jpg")):
        image = np.asarray(Image.open(path), float)
        middle = image[32:64, 32:64]
        spots = middle[..., 1] > 1.25 * np.median(middle[..., 1])
        features.append([spots.mean()])
        labels.append(int(path.name[0] == "A"))
    assert Counter(labels) == {1: 16, 0: 32}
    assert nearest_mean_accuracy(features, labels) > 0.8


# --------------------------------------------------------------------------- index, split and batches


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_index_split_and_batches(name, roots):
    family = FAMILIES[name]
    learn, plain = build(name, roots / name, labelled=True), build(name, roots / name, labelled=False)
    spec = learn.spec
    assert (spec.target, len(spec.class_names), spec.in_channels) == (family.target, family.classes, family.channels)
    assert (spec.spatial_dims, len(spec.channel_names), spec.orientation) == (family.dims, family.channels, "")
    assert plain.spec == replace(spec, target="none", class_names=())
    subjects = learn.subjects()
    assert set(subjects) == {"train", "val", "test"}
    assert sum(map(len, subjects.values())) == len(set().union(*map(set, subjects.values())))
    # both uses of a folder test the same people, and unlabelled use never sees them
    if name != "images_findings":
        assert plain.subjects() == {part: subjects[part] for part in ("train", "val")}
    names = [case.name for part in learn.parts.values() for case in part]
    assert len(set(names)) == len(names)
    for data in (learn, plain):
        batch = next(iter(data.train_dataloader()))
        assert batch["image"].shape == (4, family.channels, *(32,) * family.dims)
        assert batch["image"].dtype == torch.float32
        assert batch["image"].min() >= 0
        assert batch["image"].max() <= 1
        assert batch["image"].std() > 0.02
        assert len(set(batch["id"])) == 4
        assert ("label" in batch or "mask" in batch) == data.labelled
    batch = next(iter(learn.train_dataloader()))
    if family.target == "class":
        assert batch["label"].dtype == torch.int64
        assert set(batch["label"].tolist()) <= set(range(family.classes))
    elif family.target == "multilabel":
        assert batch["label"].dtype == torch.float32
        assert batch["label"].shape == (4, family.classes)
    else:
        assert batch["mask"].shape == (4, family.classes, 32, 32)
        assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    counts = learn.describe()["positives"]
    if family.target == "class":
        assert {part: sum(found.values()) for part, found in counts.items()} == learn.describe()["cases"]
        count = len(learn.parts["train"])
        assert learn.drawn(learn.parts["train"]) == (list(counts["train"].values()), [count] * family.classes)


@pytest.mark.parametrize("name", FAMILIES)
def test_label_budgets_are_nested_and_hold_every_class(name, roots):
    full = build(name, roots / name, labelled=True)
    half = build(name, roots / name, labelled=True, fraction=0.5)
    assert set(half.subjects()["train"]) < set(full.subjects()["train"])
    assert half.subjects()["test"] == full.subjects()["test"]
    assert half.describe()["labels"]["subjects"] == round(0.5 * full.describe()["labels"]["subjects"])
    if FAMILIES[name].target == "class":
        assert min(half.describe()["positives"]["train"].values()) > 0


@pytest.mark.parametrize("name", ["bach", "shenzhen", "medmnist_cells", "medmnist_3d"])
def test_crop_pairs(name, roots):
    need = Need(pair=True, min_iou=0.2, pair_scales=((1.0,) * FAMILIES[name].dims,))
    settings = {"patch_size": (16,) * FAMILIES[name].dims}
    data = build(name, roots / name, labelled=False, need=need, **settings)
    batch = next(iter(data.train_dataloader()))
    for key in ("image", "image2"):
        assert batch[key].shape == (4, FAMILIES[name].channels, *settings["patch_size"])
        assert 0 <= batch[key].min() <= batch[key].max() <= 1
    assert not torch.equal(batch["image"], batch["image2"])


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("bach", "Photos/Normal/n001.tif"), ("eyepacs", "train/10_left.jpeg"), ("shenzhen", "CXR_png/CHNCXR_0001_0.png")],
)
def test_an_image_is_the_file_s_in_the_middle(name, pattern, roots):
    """40 x 48 pixels, image_size 40: nothing is resized, so the centre crop holds the file's own levels."""
    data = build(name, roots / name, labelled=False, split_ratios=(0.01, 0.99, 0.0))
    stored = np.asarray(Image.open(roots / name / pattern), np.float32) / 255
    stored = stored.transpose(2, 0, 1) if stored.ndim == 3 else stored[None]
    path = str(roots / name / pattern)
    cases = [case for part in data.parts.values() for case in part if case.path == path]
    sample = data.dataset(cases, part="val")[(0, 0)]
    np.testing.assert_allclose(sample["image"].numpy(), stored[:, 4:36, 8:40], atol=1e-5)


def test_every_name_in_the_conf_folder_builds(capsys):
    for name in {family.task for family in FAMILIES.values()} | {"nodule2d"}:
        further = ["data.class_names=[a,b]"] if name == "images" else []
        assert main(["finetune", f"task={name}", "--show", *further]) == 0
    shown = capsys.readouterr().out
    assert "ordered: true" in shown


# ----------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("images_findings", "montgomery_lungs", "medmnist_3d") else pytest.mark.slow)
        for n in FAMILIES
    ],
)
def test_pretrain_then_finetune(name, roots, tmp_path, capsys):
    family = FAMILIES[name]
    crops = [f"data.patch_size={str([16] * family.dims).replace(' ', '')}", f"data.root={roots / name}"]
    crops += ["data.image_size=24"] if family.dims == 2 else []
    before = [word for word in family.overrides if "target" not in word]
    pre, fine = tmp_path / "pre", tmp_path / "fine"
    words = [f"data={family.data}", *TINY, *crops, *before, *NET, "method.queue=16", f"out={pre}"]
    assert main(["pretrain", "method=moco", *words]) == 0, capsys.readouterr().err
    summary = json.loads((pre / "summary.json").read_text())
    assert (summary["status"], summary["steps"]) == ("done", 2)
    words = [f"task={family.task}", *TINY, *crops, *family.overrides, *NET, f"init={pre}", f"out={fine}"]
    assert main(["finetune", *words]) == 0, capsys.readouterr().err
    summary = json.loads((fine / "summary.json").read_text())
    assert summary["method"] == "moco"
    metric = {"class": "auc", "multilabel": "auroc", "mask": "dice"}[family.target]
    assert summary["metric"] == metric
    assert metric in summary["conventions"]
    data = build(name, roots / name, labelled=True)
    cases = list(csv.DictReader((fine / "test_cases.csv").open()))
    assert {row["case"] for row in cases} == {case.name for case in data.parts["test"]}
    if name == "eyepacs":
        assert {"test/kappa", "test/balanced_accuracy"} <= summary["metrics"].keys()
        assert "kappa" in summary["conventions"]
    if family.target == "mask":
        assert list((fine / "figures").glob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "name"), [("pcrl", "bach"), ("models_genesis", "medmnist_3d"), ("pcrl", "medmnist_3d")]
)
def test_color_and_small_volumes_go_through_other_methods(method, name, roots, tmp_path, capsys):
    family = FAMILIES[name]
    words = [f"data={family.data}", f"data.root={roots / name}", *TINY, *NET, f"out={tmp_path / 'run'}"]
    words += [f"data.patch_size={str([16] * family.dims).replace(' ', '')}"]
    words += ["method.queue=16"] if method == "pcrl" else []
    assert main(["pretrain", f"method={method}", *words]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "done"


# ------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize("name", FAMILIES)
def test_wrong_and_missing_roots_are_one_line(name, roots, tmp_path, capsys):
    family = FAMILIES[name]
    words = ["finetune", f"task={family.task}", *TINY, *family.overrides, f"out={tmp_path / 'run'}"]
    assert "nowhere: no such folder" in refused(capsys, *words, "data.root=nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("x")
    line = refused(capsys, *words, f"data.root={tmp_path / 'foreign'}")
    assert str(tmp_path / "foreign") in line
    assert "should hold" in line
    other = roots / ("shenzhen" if family.data not in ("shenzhen", "images") else "medmnist")
    assert str(other) in refused(capsys, *words, f"data.root={other}")
    assert not (tmp_path / "run").exists(), "work started before the request was checked"


@pytest.mark.parametrize(
    "name", ["bach", "chexpert", "eyepacs", "ichallenge_amd", "ichallenge_pm", "images", "shenzhen"]
)
def test_an_image_that_cannot_be_read_is_named(name, copy_of, tmp_path, capsys):
    root, family = copy_of(name), FAMILIES[name]
    images = [p for p in root.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg", ".tif")]
    for path in images:
        path.write_bytes(path.read_bytes()[:60])
    words = [
        "finetune",
        f"task={family.task}",
        *TINY,
        *family.overrides,
        *NET,
        f"data.root={root}",
        f"out={tmp_path / 'run'}",
    ]
    line = refused(capsys, *words)
    assert "cannot be read as an image" in line
    assert any(str(path) in line for path in images)


TABLES = {
    "chexpert": ("train.csv", "Path"),
    "eyepacs": ("trainLabels.csv", "level"),
    "images": ("labels.csv", "verdict"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_without_a_column_cut_short_unreadable_or_naming_absent_images(name, copy_of, tmp_path, capsys):
    root, family = copy_of(name), FAMILIES[name]
    words = [
        "finetune",
        f"task={family.task}",
        *TINY,
        *NET,
        *family.overrides,
        f"data.root={root}",
        f"out={tmp_path / 'run'}",
    ]
    file, column = TABLES[name]
    table = root / file
    text = table.read_text()
    table.write_text(text.replace(column, "other", 1))
    assert f"{table}: column '{column}' is missing" in refused(capsys, *words)
    lines = text.splitlines()
    table.write_text("\n".join([*lines[:2], lines[2].split(",")[0], *lines[3:]]))
    assert f"{table}: line 3 is cut off" in refused(capsys, *words)
    table.write_bytes(b"\x80\xfe\x00" * 50)
    assert f"{table}: is no table that can be read: it is not UTF-8" in refused(capsys, *words)
    table.write_text(text)
    gone = sorted(p for p in root.rglob("*") if p.suffix in (".png", ".jpg", ".jpeg") and "test" not in p.parts)[0]
    gone.unlink()
    line = refused(capsys, *words)
    assert f"{table}: names 1 images that are not below" in line
    assert gone.name.split(".")[0] in line
    data = build(name, root, labelled=True, allow_missing=True)
    assert "1 images of the table are absent and left out" in data.notes


def test_a_second_copy_of_an_image_is_refused(copy_of):
    root = copy_of("ichallenge_pm")
    first = sorted(root.rglob("*.jpg"))[0]
    (root / "copy").mkdir()
    shutil.copy(first, root / "copy")
    with pytest.raises(SslMedError, match=rf"{first.name}: is a second copy of .*; keep one"):
        build("ichallenge_pm", root, labelled=True)


def test_a_class_without_training_images_is_refused(copy_of):
    root = copy_of("bach")
    shutil.rmtree(root / "Photos" / "InSitu")
    with pytest.raises(SslMedError, match="no 'in situ carcinoma' case is left to train on"):
        build("bach", root, labelled=True)


def test_grey_levels_of_16_bit_need_a_window(copy_of):
    root = copy_of("shenzhen")
    for path in root.rglob("*.png"):
        levels = np.asarray(Image.open(path)).astype(np.uint16) * 16
        Image.fromarray(levels).save(path)
    data = build("shenzhen", root, labelled=False)
    with pytest.raises(
        SslMedError, match=r"CHNCXR_.*has grey levels from \d+ to \d+, the window is 0 to 255; set data.intens"
    ):
        next(iter(data.train_dataloader()))
    batch = next(iter(build("shenzhen", root, labelled=False, intensity_high=4080.0).train_dataloader()))
    assert 0.3 < batch["image"].mean() < 0.8


# ------------------------------------------------------------------------------------------- chexpert


def raw_labels(root, table="train.csv"):
    """{image: {observation: text}} read by hand."""
    rows = csv.DictReader((root / table).open())
    return {row["Path"].split("/", 1)[1].removesuffix(".jpg"): row for row in rows}


@pytest.mark.parametrize(
    ("policy", "low", "high"),
    [
        ("zeros", 0, 0),
        ("ones", 1, 1),
        ("zeros_smoothed", 0, 0.3),
        ("ones_smoothed", 0.55, 0.85),
        ("ignore", None, None),
    ],
)
def test_chexpert_uncertain_policies(policy, low, high, roots):
    root = roots / "chexpert"
    data = build("chexpert", root, labelled=True, uncertain=policy, split_ratios=(0.6, 0.2, 0.2), observations="all")
    table = {**raw_labels(root), **raw_labels(root, "valid.csv")}
    uncertain = 0
    for part in ("train", "val"):
        dataset = data.dataset(data.parts[part], part=part)
        for index, image in enumerate(dataset.cases):
            label = dataset[(0, index)]["label"]
            for name, value in zip(data.spec.class_names, label.tolist(), strict=True):
                text = table[image.name][name]
                if text != "-1.0":
                    assert value == (1.0 if text == "1.0" else 0.0)
                    continue
                uncertain += 1
                # whatever the policy, nobody is scored on what the reader did not know
                if part == "val" or policy == "ignore":
                    assert np.isnan(value)
                else:
                    assert low - 1e-6 <= value <= high + 1e-6
    assert uncertain > 10
    cases = data.parts["train"]
    labels = np.array([data.dataset(cases, part="train")[(0, k)]["label"].numpy() for k in range(len(cases))])
    present, known = data.drawn(cases)
    np.testing.assert_allclose(present, np.nansum(labels, 0), rtol=1e-6)
    assert known == (~np.isnan(labels)).sum(0).tolist()
    again = build("chexpert", root, labelled=True, uncertain=policy, split_ratios=(0.6, 0.2, 0.2), observations="all")
    first, second = (d.dataset(d.parts["train"], part="train").cases for d in (data, again))
    np.testing.assert_equal([f.label for f in first], [f.label for f in second])


def test_one_observation_against_the_rest_leaves_uncertain_radiographs_out(roots):
    root = roots / "chexpert"
    name = "Pleural Effusion"
    data = build("chexpert", root, labelled=True, against_rest=name, split_ratios=(0.6, 0.2, 0.2))
    whole = build("chexpert", root, labelled=True, observations="all", uncertain="ignore", split_ratios=(0.6, 0.2, 0.2))
    place = whole.spec.class_names.index(name)
    assert (data.spec.target, data.spec.class_names) == ("class", ("rest", name))
    counts = {True: 0, False: 0}
    for part, cases in whole.parts.items():
        certain = {case.name: case.label[place] for case in cases if not np.isnan(case.label[place])}
        counts[True] += len(certain)
        counts[False] += len(cases) - len(certain)
        assert {case.name: case.label[0] for case in data.parts[part]} == certain
    assert min(counts.values()) > 0
    with pytest.raises(SslMedError, match="did you mean 'Pleural Effusion'"):
        build("chexpert", root, labelled=True, against_rest="Pleural Efusion")


def test_lesions_are_the_union_of_the_masks_of_an_image(roots):
    data = build("busi_lesions", roots / "busi_lesions", labelled=True, split_ratios=(0.2, 0.7, 0.1))
    cases = [case for case in data.parts["val"] if len(case.masks) == 2]
    assert cases
    sample = data.dataset(cases, part="val")[(0, 0)]
    stored = [np.asarray(Image.open(path)) > 0 for path in cases[0].masks]
    assert all(mask.any() for mask in stored)
    np.testing.assert_array_equal(sample["mask"][0].numpy() > 0, stored[0] | stored[1])
    normal = [case for part in data.parts.values() for case in part if case.name.startswith("normal")]
    assert not data.dataset(normal, part="val")[(0, 0)]["mask"].any()


def test_lesions_without_a_mask_are_named(copy_of):
    root = copy_of("busi_lesions")
    (root / "benign" / "benign (2)_mask.png").unlink()
    with pytest.raises(SslMedError, match=r"benign \(2\)\.png: has no mask 'benign \(2\)_mask\.png'"):
        build("busi_lesions", root, labelled=True)


def test_the_official_split_of_fetal_planes_is_by_the_mother(roots, copy_of):
    root = roots / "fetal_planes"
    data = build("fetal_planes", root, labelled=True, split="official")
    rows = [line.split(";") for line in (root / "FETAL_PLANES_DB_data.csv").read_text().splitlines()[1:]]
    assert {case.name for case in data.parts["test"]} == {row[0] for row in rows if row[-1] == "0"}
    assert {case.name: data.spec.class_names[int(case.label[0])] for part in data.parts.values() for case in part} == {
        row[0]: row[2] for row in rows
    }
    root = copy_of("fetal_planes")
    table = root / "FETAL_PLANES_DB_data.csv"
    table.write_text(table.read_text().replace("Fetal femur", "Fetal foot", 1))
    with pytest.raises(SslMedError, match="has the Plane 'Fetal foot'; it must be one of"):
        build("fetal_planes", root, labelled=True)


def test_chexpert_views_share_one_split_and_official_tests_on_valid(roots):
    root = roots / "chexpert"
    views = {v: build("chexpert", root, labelled=False, views=v) for v in ("frontal", "lateral", "both")}
    for part in ("train", "val"):
        names = {v: {image.name for image in data.parts[part]} for v, data in views.items()}
        assert names["frontal"] | names["lateral"] == names["both"]
        assert all(name.endswith("_frontal") for name in names["frontal"])
    assert views["lateral"].parts["train"]
    official = build("chexpert", root, labelled=True, split="official")
    assert {image.name.split("/")[0] for image in official.parts["test"]} == {"valid"}
    assert {image.name.split("/")[0] for part in ("train", "val") for image in official.parts[part]} == {"train"}
    assert official.parts["val"]


def test_chexpert_bad_path_and_bad_value(copy_of):
    root = copy_of("chexpert")
    text = (root / "train.csv").read_text()
    (root / "train.csv").write_text(text.replace("patient00001", "nobody", 1))
    with pytest.raises(SslMedError, match=r"train.csv: line 2 has the Path '.*nobody.*', which names no radiograph"):
        build("chexpert", root, labelled=True)
    (root / "train.csv").write_text(text.replace("-1.0", "perhaps"))
    with pytest.raises(SslMedError, match=r"train.csv: line \d+ holds 'perhaps'; observations are 1, 0, -1 or blank"):
        build("chexpert", root, labelled=True)


# -------------------------------------------------------------------------------- eyepacs, montgomery


def test_eyepacs_keeps_both_eyes_together(roots):
    data = build("eyepacs", roots / "eyepacs", labelled=True)
    for part in data.parts.values():
        assert all(count == 2 for count in Counter(image.subject for image in part).values())
    levels = {row["image"]: int(row["level"]) for row in csv.DictReader((roots / "eyepacs/trainLabels.csv").open())}
    for image in data.parts["train"]:
        assert image.label == (levels[image.name.removeprefix("train/")],)
    official = build("eyepacs", roots / "eyepacs", labelled=True, split="official")
    assert {image.name.split("/")[0] for image in official.parts["test"]} == {"test"}
    assert len(official.parts["test"]) == 2 * 6


def test_eyepacs_bad_level_and_bad_name(copy_of):
    root = copy_of("eyepacs")
    text = (root / "trainLabels.csv").read_text()
    (root / "trainLabels.csv").write_text(text.replace("10_left,0", "10_left,7"))
    with pytest.raises(SslMedError, match=r"trainLabels.csv: line 2 has the level '7'; it must be 0 to 4"):
        build("eyepacs", root, labelled=True)
    (root / "trainLabels.csv").write_text(text.replace("10_left", "10_middle"))
    (root / "train/10_left.jpeg").rename(root / "train/10_middle.jpeg")
    with pytest.raises(SslMedError, match="image '10_middle' is not of the form"):
        build("eyepacs", root, labelled=True)


def test_eyepacs_unlabelled_needs_no_table(copy_of):
    root = copy_of("eyepacs")
    before = build("eyepacs", root, labelled=False).subjects()
    (root / "trainLabels.csv").unlink()
    assert build("eyepacs", root, labelled=False).subjects() == before
    with pytest.raises(SslMedError, match=r"trainLabels.csv: no such file"):
        build("eyepacs", root, labelled=True)


def darker_than_its_rim(image, mask):
    """Air is dark, what is three pixels around it is not."""
    inside = mask.sum(0).numpy() > 0
    rim = ndimage.binary_dilation(inside, iterations=3) & ~inside
    return image.numpy()[inside].mean() < image.numpy()[rim].mean()


def test_montgomery_masks_lie_on_their_lungs(roots):
    root = roots / "montgomery_lungs"
    data = build("montgomery_lungs", root, labelled=True)
    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (1, 1, 40, 48)  # whole, as one at a time
    for side, region in zip(("leftMask", "rightMask"), batch["mask"][0].numpy(), strict=True):
        stored = np.asarray(Image.open(root / "ManualMask" / side / f"{batch['id'][0]}.png")) > 127
        np.testing.assert_array_equal(region > 0.5, stored)
    left, right = (region.nonzero()[:, 1].float().mean() for region in batch["mask"][0])
    assert left > 24 > right, "the patient's left lung lies on the right of the image"
    assert darker_than_its_rim(batch["image"][0, 0], batch["mask"][0])
    # training: image and mask are cut at the same place
    train = data.dataset(data.parts["train"], part="train")
    for index in range(4):
        sample = train[(3, index)]
        assert darker_than_its_rim(sample["image"][0], sample["mask"])


def test_montgomery_masks_missing_or_of_another_size(copy_of):
    root = copy_of("montgomery_lungs")
    path = sorted((root / "ManualMask/leftMask").iterdir())[0]
    Image.open(path).resize((30, 30)).save(path)
    data = build("montgomery_lungs", root, labelled=True, split_ratios=(0.8, 0.1, 0.1))
    every = data.dataset([image for part in data.parts.values() for image in part], part="train")
    with pytest.raises(SslMedError, match=rf"leftMask/{path.name}: mask has shape \(30, 30\), its image .* \(40, 48\)"):
        [every[(0, index)] for index in range(len(every))]
    path.unlink()
    with pytest.raises(SslMedError, match=rf"{path.name}: has no mask ManualMask/leftMask/{path.name}"):
        build("montgomery_lungs", root, labelled=True)
    assert build("montgomery", root, labelled=True).parts["train"], "classes need no masks"


# --------------------------------------------------------------------------------------------- images


def test_images_subjects_come_from_pattern_or_column(roots):
    root = roots / "images"
    alone = build("images", root, labelled=False, labels="", subject_column="", label_columns=[], class_names=[])
    assert len(alone.subjects()["train"]) == len(alone.parts["train"])
    assert any("each image counts as its own subject" in note for note in alone.notes)
    by_name = build("images", root, labelled=False, labels="", subject_column="", subject_pattern=r"person_(\d+)")
    people = [set(found) for found in by_name.subjects().values()]
    assert not people[0] & people[1]
    assert len(by_name.parts["train"]) > len(people[0])
    assert not any("own subject" in note for note in by_name.notes)
    useless = build("images", root, labelled=False, labels="", subject_column="", subject_pattern="(.*)")
    assert any("own subject (data.subject_pattern finds no two of one)" in note for note in useless.notes)
    by_column = build("images", root, labelled=True)
    assert all(subject.startswith("person_") for subject in by_column.subjects()["train"])
    for settings, message in (
        ({"subject_pattern": "nobody(.)"}, "finds no subject"),
        ({"subject_pattern": "("}, "is no regular expression"),
    ):
        with pytest.raises(SslMedError, match=message):
            build("images", root, labelled=False, labels="", subject_column="", **settings)


def test_images_split_by_folder(roots, tmp_path):
    data = build("images", roots / "images", labelled=True, split="folders")
    for part, cases in data.parts.items():
        assert cases
        assert {os.path.relpath(case.path, roots / "images").split(os.sep)[0] for case in cases} == {part}
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(next((roots / "images").rglob("*.png")), tmp_path / "elsewhere" / "a.png")
    with pytest.raises(SslMedError, match=r"elsewhere: data.split=folders needs all images below train, val or test"):
        build("images", tmp_path, labelled=False, labels="", subject_column="", split="folders")


def test_images_classes_from_folders(roots):
    root = roots / "bach"
    names = ["Normal", "Benign", "InSitu", "Invasive"]
    settings = {"labels": "", "label_columns": [], "subject_column": "", "class_names": names, "color": True}
    data = build("images", root, labelled=True, **settings)
    images = [image for part in data.parts.values() for image in part]
    assert len(images) == 28
    assert all(names[image.label[0]] == image.path.split(os.sep)[-2] for image in images)
    some = build("images", root, labelled=True, **{**settings, "class_names": ["Normal", "Invasive"]})
    assert "14 of 28 images have no label and are left out" in some.notes


def test_images_findings_may_be_unknown(roots):
    data = build("images_findings", roots / "images_findings", labelled=True)
    images = [image for part in data.parts.values() for image in part]
    assert any(np.isnan(image.label[1]) for image in images)
    assert not any(np.isnan(image.label[0]) for image in images)


def test_images_names_tell_nothing_unless_asked(roots):
    hidden = build("images", roots / "images", labelled=True)
    shown = build("images", roots / "images", labelled=True, show_names=True)
    assert not any("person" in case.name for case in hidden.parts["train"])
    assert all("person_" in case.name for case in shown.parts["train"])
    assert hidden.subjects() == shown.subjects()


def test_images_a_patients_name_in_paths_reaches_no_artefact(copy_of, tmp_path, capsys):
    root = copy_of("images")
    for path in sorted(root.rglob("person_*"), reverse=True):
        path.rename(path.with_name(path.name.replace("person", "Miller")))
    table = root / "labels.csv"
    table.write_text(table.read_text().replace("person_", "Miller_"))
    words = [
        "finetune",
        "task=images",
        *TINY,
        *NET,
        *FAMILIES["images"].overrides,
        f"data.root={root}",
        f"out={tmp_path / 'r'}",
    ]
    assert main([*map(str, words), "data.image_size=40", "data.patch_size=[32,32]"]) == 0
    printed = capsys.readouterr()
    assert "Miller" not in printed.out + printed.err
    for path in (tmp_path / "r").rglob("*"):
        if path.is_file():
            assert b"Miller" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": []}, "data.label_columns is missing"),
        ({"labels": ""}, "data.labels is missing"),
        ({"class_names": []}, "data.class_names is missing"),
        ({"class_names": ["healthy", "sick"]}, "has the class 'normal', which is not in data.class_names"),
        ({"label_columns": ["verdict", "effusion"], "class_names": []}, "holds 'normal'|holds 'sick'|has 'normal'"),
        ({"labels": "absent.csv"}, "absent.csv: no such file"),
        ({"file_column": "path"}, "column 'path' is missing"),
        ({"label_columns": ["effusion", "cardiomegaly"], "class_names": ["x"]}, "has 1 names for 2 data.label_columns"),
    ],
)
def test_images_label_settings(settings, message, roots):
    with pytest.raises(SslMedError, match=message):
        build("images", roots / "images", labelled=True, **settings)


def test_images_a_row_twice(copy_of):
    root = copy_of("images")
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(SslMedError, match=rf"labels.csv: line {len(lines) + 1} names .* a second time"):
        build("images", root, labelled=True)


def test_images_percentiles_stretch_a_dull_image(tmp_path):
    rng = np.random.default_rng(0)
    levels = rng.integers(100, 120, (5, 40, 40), dtype=np.uint8)
    for number, image in enumerate(levels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    settings = {
        "labels": "",
        "subject_column": "",
        "intensity": "percentile",
        "intensity_low": 0.0,
        "intensity_high": 100.0,
    }
    data = build("images", tmp_path, labelled=False, batch_size=2, **settings)
    image = next(iter(data.train_dataloader()))["image"]
    assert (image.min(), image.max()) == (0, 1)


def test_images_dicom_without_its_extra_is_named(tmp_path, monkeypatch):
    import sys

    for number in range(5):
        (tmp_path / f"{number}.dcm").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    data = build("images", tmp_path, labelled=False, labels="", subject_column="")
    with pytest.raises(SslMedError, match=r"\d.dcm: reading DICOM needs pydicom; pip install 'ssl-med\[dicom\]'"):
        next(iter(data.train_dataloader()))


# ------------------------------------------------------------------------------------------- medmnist


def test_medmnist_reads_the_file_s_rows(roots):
    data = build("medmnist_cells", roots / "medmnist_cells", labelled=True, patch_size=())
    assert data.spec.patch_size == (32, 32)  # 28, padded
    with np.load(roots / "medmnist_cells" / "cellsmnist.npz") as arrays:
        for part in ("train", "val", "test"):
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            assert len(data.parts[part]) == len(images)
            dataset = data.dataset(data.parts[part], part="test" if part == "test" else part)
            for index in range(0, len(images), 5):
                sample = dataset[(0, index)]
                want = images[index].transpose(2, 0, 1) / 255
                np.testing.assert_allclose(sample["image"][:, 2:30, 2:30].numpy(), want, atol=1e-5)
                assert sample["image"][:, :2].max() == 0
                assert sample["label"] == labels[index, 0]


def test_medmnist_resizes_like_images(roots):
    data = build("medmnist", roots / "medmnist", labelled=False, image_size=40)
    image = next(iter(data.val_dataloader()))["image"]
    assert image.shape[1:] == (1, 32, 32)
    with np.load(roots / "medmnist" / "nodulemnist.npz") as arrays:
        stored = arrays["val_images"][0] / 255
    # the middle 32 of 40 pixels show the middle 22.4 of 28
    assert float(image[0].mean()) == pytest.approx(stored[3:25, 3:25].mean(), abs=0.02)


def test_medmnist_has_no_other_split_and_checks_names(roots):
    with pytest.raises(SslMedError, match=r"data.split=random: the file names no patients.*leave data.split=official"):
        build("medmnist", roots / "medmnist", labelled=False, split="random")
    with pytest.raises(SslMedError, match=r"data.class_names has 3 names, .*nodulemnist.npz has 2 classes"):
        build("medmnist", roots / "medmnist", labelled=True, class_names=["a", "b", "c"])
    named = build("medmnist", roots / "medmnist", labelled=True, class_names=["vessel", "nodule"])
    assert named.describe()["positives"]["train"].keys() == {"vessel", "nodule"}


def rewrite(root, change):
    (path,) = root.glob("*.npz")
    with np.load(path) as arrays:
        content = dict(arrays)
    change(content)
    np.savez_compressed(path, **content)


def swap(key, value):
    return lambda content: content.update({key: value(content[key])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("val_labels"), "holds no val_labels; is it in the layout of MedMNIST"),
        (swap("train_images", lambda a: a.astype(np.float32)), "train_images is float32 of shape"),
        (swap("train_images", lambda a: a[:, 0]), r"train_images is uint8 of shape \(\d+, 28\)"),
        (swap("test_labels", lambda a: a[:-1]), "test_labels is uint8 of shape .* rows of whole numbers from 0"),
        (swap("test_labels", lambda a: a - 0.5), "test_labels is float64"),
        (swap("val_images", lambda a: a[:, :-1]), "images or labels of its parts differ in shape"),
        (swap("train_labels", np.zeros_like), "no '1' case is left to train on"),
    ],
)
def test_medmnist_files_of_another_form(change, message, copy_of):
    root = copy_of("medmnist")
    rewrite(root, change)
    with pytest.raises(SslMedError, match=message):
        build("medmnist", root, labelled=True)


def test_medmnist_damaged_or_several_files(copy_of, capsys, tmp_path):
    root = copy_of("medmnist")
    (path,) = root.glob("*.npz")
    words = ["pretrain", "method=moco", "data=medmnist", *TINY, *NET, f"data.root={root}", f"out={tmp_path / 'run'}"]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{path}: is truncated or no .npz file" in refused(capsys, *words)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", b"junk")
    assert f"{path}: is truncated or no .npz file" in refused(capsys, *words)
    path.write_bytes(content)
    (root / "other.npz").write_bytes(content)
    assert "choose one with data.file=NAME.npz" in refused(capsys, *words)
    assert "data.file=third.npz: no such file below" in refused(capsys, *words, "data.file=third.npz")
    assert build("medmnist", root, labelled=False, file="other.npz").parts["train"]


# ---------------------------------------------------------------------------------------------- cache


def test_cache_holds_what_fits_and_drops_the_oldest():
    @dataclass
    class Case:
        name: str

    read = []

    def load(case):
        read.append(case.name)
        return Loaded(np.zeros((1, 16, 32), np.uint16))  # 1 KiB

    cache = Cache(load, gigabytes=3 * 1024 / 2**30)
    for name in "abcadbe":
        cache(Case(name))
    # d pushes out b (a was used again), b pushes out c, e pushes out a
    assert read == list("abcdbe")
    item = cache(Case("e"))
    item.mask = np.zeros((1, 32, 64), np.uint8)  # what grows counts at the next use
    cache(Case("e"))
    assert [cache(Case(name)) is not None for name in "db"] == [True, True]
    assert read == list("abcdbedb")


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.realdata
def test_real_nodule2d(shared_data):
    data = build("medmnist", shared_data / "nodule2d", labelled=True, patch_size=(), batch_size=64)
    assert data.describe()["cases"] == {"train": 3443, "val": 1162, "test": 1583}
    positives = {part: found["1"] for part, found in data.describe()["positives"].items()}
    assert positives == {"train": 582, "val": 207, "test": 247}
    assert data.spec.patch_size == (64, 64)
    seen = sum(len(batch["id"]) for batch in data.test_dataloader())
    assert seen == 1583
    tenth = build("medmnist", shared_data / "nodule2d", labelled=True, fraction=0.1)
    assert len(tenth.parts["train"]) == 344
    assert tenth.describe()["positives"]["train"]["1"] == pytest.approx(58, abs=1)


@pytest.mark.realdata
def test_real_unlabelled_images(shared_data):
    settings = {"labels": "", "subject_column": "", "subject_pattern": r"cxr_([NP]\d+)"}
    data = build("images", shared_data / "cxr_unlabelled", labelled=False, split="folders", batch_size=8, **settings)
    assert {part: len(found) for part, found in data.subjects().items()} == {"train": 400, "val": 100}
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 1, 32, 32)
    assert 0.2 < batch["image"].mean() < 0.8
    shuffled = build("images", shared_data / "cxr_unlabelled", labelled=False, **settings)
    assert {part: len(found) for part, found in shuffled.subjects().items()} == {"train": 350, "val": 50}


# ------------------------------------------------------------------------------------- left out by the user


@pytest.mark.parametrize("name", ["chexpert", "images"])
def test_an_absent_image_in_quarantine_is_no_complaint(name, copy_of, tmp_path):
    root = copy_of(name)
    before = build(name, root, labelled=True).subjects()
    gone = sorted(p for p in root.rglob("*") if p.suffix in (".png", ".jpg") and "test" not in p.parts)[0]
    gone.unlink()
    listed = tmp_path / "quarantine.txt"
    listed.write_text(f"{gone.relative_to(root)}\tabsent: by the table\n")
    data = build(name, root, labelled=True, quarantine=str(listed), quarantine_budget=0.5)
    assert any("1 absent" in note for note in data.notes)
    assert str(gone) not in {image.path for part in data.parts.values() for image in part}
    assert all(set(members) <= set(before[part]) for part, members in data.subjects().items())


def test_a_second_copy_in_quarantine_is_left_out(copy_of, tmp_path):
    root = copy_of("ichallenge_pm")
    first = sorted(root.rglob("*.jpg"))[0]
    (root / "zz").mkdir()
    shutil.copy(first, root / "zz")
    listed = tmp_path / "quarantine.txt"
    listed.write_text(f"zz/{first.name}\tduplicate: kept once\n")
    data = build("ichallenge_pm", root, labelled=True, quarantine=str(listed), quarantine_budget=0.1)
    paths = [image.path for part in data.parts.values() for image in part]
    assert str(first) in paths
    assert not any("/zz/" in path for path in paths)
