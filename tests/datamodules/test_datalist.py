"""data=monai: what a datalist names, its splits, and preprocessing that is MONAI's own."""

import json

import monai.transforms as mt
import nibabel as nib
import numpy as np
import pytest

from datamodules.core.readers import read_volume
from datamodules.monai import MonaiConfig, MonaiData
from experiments.cli import main
from ssl_med.spec import SslMedError

LABELS = {"0": "background", "1": "a", "2": "b"}
SPACING = {
    "_target_": "Spacingd",
    "keys": ["image", "label"],
    "pixdim": [1.5, 1.5, 1.5],
    "mode": ["bilinear", "nearest"],
}
SCALE = {"_target_": "ScaleIntensityRanged", "keys": ["image"], "a_min": 0, "a_max": 500, "b_min": 0, "b_max": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven cases whose voxel axes are swapped and mirrored in the world."""
    root = tmp_path_factory.mktemp("list")
    affine = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    for k in range(7):
        rng = np.random.default_rng(k)
        labels = np.zeros((12, 14, 10), np.uint8)
        labels[2:6, 3:9, 2:7], labels[6:9, 3:9, 2:7] = 1, 2
        image = (rng.integers(0, 300, labels.shape) + 100 * labels).astype(np.int16)
        for kind, array in (("image", image), ("label", labels)):
            nib.save(nib.Nifti1Image(array, affine), root / f"{kind}{k}.nii.gz")
    return root


def row(k, **more):
    return {"image": f"image{k}.nii.gz", "label": f"label{k}.nii.gz", **more}


def data(folder, tree, *, labelled=True, **settings):
    path = folder / "list.json"
    path.write_text(json.dumps(tree))
    settings = {"patch_size": (8, 8, 8), "datalist": str(path), **settings}
    made = MonaiData(MonaiConfig(name="monai", root=str(folder), **settings), labelled=labelled, batch_size=1)
    made.setup()
    return made


def parts(made):
    return {part: sorted(case.images[0][-8] for case in cases) for part, cases in made.parts.items()}


ALL = {
    "labels": LABELS,
    "training": [row(k) for k in range(4)],
    "validation": [row(4)],
    "test": [row(5), "./image6.nii.gz"],
}


def test_lists_are_the_parts(folder):
    made = data(folder, ALL)
    assert parts(made) == {"train": list("0123"), "val": ["4"], "test": ["5"]}
    assert (made.spec.class_names, made.spec.channel_names, made.spec.intensity.kind) == (
        ("a", "b"),
        ("image",),
        "percentile",
    )
    assert parts(data(folder, ALL, labelled=False))["train"] == list("01236")  # what has no label is for pretraining
    auto3dseg = {"labels": LABELS, "training": [row(k, fold=k % 2) for k in range(4)], "testing": [row(5)]}
    assert parts(data(folder, auto3dseg, fold=1)) == {"train": ["0", "2"], "val": ["1", "3"], "test": ["5"]}
    found = parts(data(folder, {**ALL, "validation": []}))
    assert (found["test"], len(found["train"]), len(found["val"])) == (["5"], 3, 1)
    assert parts(data(folder, ALL, split="random")) != parts(made)


def test_masks_channels_classes_and_subjects(folder):
    rows = [{"image": [f"image{k}.nii.gz"] * 2, "mask": f"label{k}.nii.gz", "subject": f"p{k // 2}"} for k in range(7)]
    tree = {"modality": {"0": "CT", "1": "CT"}, "training": rows}
    made = data(folder, tree, labels={"all": [1, 2], "b": 2})
    assert made.spec.channel_names == ("CT", "CT (2)")
    assert (made.spec.class_names, made.spec.intensity.kind) == (("all", "b"), "window")
    assert {case.subject for cases in made.parts.values() for case in cases} == {"p0", "p1", "p2", "p3"}
    item = made.load(made.parts["train"][0])
    assert item.codes.shape[0] == 2
    assert (item.mask[0] >= item.mask[1]).all()
    assert item.mask[0].sum() > item.mask[1].sum() > 0


def graded(values, **more):
    """Rows whose label is a number or a list."""
    return [{"image": f"image{k}.nii.gz", "label": value, **more} for k, value in enumerate(values)]


def test_numbers_are_classes_and_lists_are_findings(folder):
    rows = graded([0, 1, 1, 0, 2, 1, 0])
    tree = {
        "labels": {"0": "none", "1": "mild", "2": "severe"},
        "training": rows[:5],
        "validation": rows[5:6],
        "test": rows[6:],
    }
    made = data(folder, tree)
    assert parts(made) == {"train": list("01234"), "val": ["5"], "test": ["6"]}
    assert (made.spec.target, made.spec.class_names) == ("class", ("none", "mild", "severe"))
    assert made.positives(made.parts["train"]) == {"none": 2, "mild": 2, "severe": 1}
    assert made.drawn(made.parts["train"])[0] == [2, 2, 1]
    assert (data(folder, tree, labelled=False).spec.target, made.eval_batch()) == ("none", 1)
    assert parts(data(folder, tree, labelled=False))["train"] == list("01234")
    findings = graded([[0, 1], [1, None], [0, 0], [1, 1], [1, 0], [0, 1], [1, 0]], fold=0)
    findings[1]["fold"] = 1
    made = data(folder, {"training": findings[:6], "test": findings[6:]}, fold=1)
    assert (made.spec.target, made.spec.class_names) == ("multilabel", ("0", "1"))
    assert parts(made) == {"train": list("02345"), "val": ["1"], "test": ["6"]}
    (sample,) = (made.dataset(made.parts["val"], part="val")[0, 0],)
    assert sample["label"][0] == 1
    assert sample["label"][1].isnan()
    assert made.drawn(made.parts["val"]) == ([1, 0], [1, 0])
    halves = {"training": graded([0, 1, 0, 1, 0, 1, 0])}
    cut = parts(data(folder, halves, labels={"a": 0, "b": 1}))
    assert sorted(name for names in cut.values() for name in names) == list("0123456")
    assert all(cut.values())


def test_a_scan_with_a_class_is_a_random_crop_in_training_and_its_middle_in_evaluation(folder):
    tree = {"training": graded([0, 1, 0, 1, 0]), "validation": [], "test": []}
    made = data(folder, tree, split_ratios=(0.6, 0.2, 0.2), preprocess=(SCALE,))
    case = made.parts["train"][0]
    whole = made.load(case).codes[...] / np.float32(65535)
    train = made.dataset([case], part="train")
    first, again, later = (train[epoch, 0]["image"].numpy() for epoch in (0, 0, 1))
    assert (first == again).all()
    assert (first != later).any()
    middle = made.dataset([case], part="test")[3, 0]
    start = [(n - 8) // 2 for n in whole.shape[1:]]
    inside = tuple(slice(a, a + 8) for a in start)
    np.testing.assert_allclose(middle["image"].numpy(), whole[(slice(None), *inside)], atol=1e-6)
    assert middle["label"] == case.label[0]
    batch = next(iter(made.train_dataloader()))
    assert batch["image"].shape == (1, 1, 8, 8, 8)
    assert batch["label"].dtype.is_floating_point is False


def test_preprocessing_is_that_of_monai(folder):
    made = data(folder, ALL, preprocess=(SPACING, SCALE), intensity="window", intensity_low=0.0, intensity_high=1.0)
    case = made.parts["train"][0]
    ((_, image),) = made._channels(case)
    labels = made._labels(case, image.grid)
    keys = ["image", "label"]
    steps = [
        mt.LoadImaged(keys),
        mt.EnsureChannelFirstd(keys),
        mt.Spacingd(keys, (1.5,) * 3, mode=("bilinear", "nearest")),
    ]
    wanted = mt.Compose([*steps, mt.ScaleIntensityRanged(["image"], 0, 500, 0, 1)])(
        {"image": case.images[0], "label": case.mask}
    )
    np.testing.assert_allclose(image.array, wanted["image"][0].numpy(), atol=1e-5)
    assert (labels.array == wanted["label"][0].numpy()).all()
    np.testing.assert_allclose(image.to_world, np.diag([-1, -1, 1, 1]) @ wanted["image"].affine.numpy(), atol=1e-6)
    item = made.load(case)
    assert item.mask.shape[1:] == item.codes.shape[1:]
    plain = data(folder, ALL, preprocess=(SCALE,), intensity="window", intensity_low=0.0, intensity_high=1.0)
    ((_, same),) = plain._channels(case)
    raw = read_volume(case.images[0])
    np.testing.assert_allclose(same.to_world, raw.to_world, atol=1e-6)
    np.testing.assert_allclose(same.array, raw.array / 500, atol=1e-6)


@pytest.mark.parametrize(
    ("tree", "settings", "said"),
    [
        ([], {}, "is no datalist; it needs lists"),
        ({"training": [{"label": "x"}]}, {}, "row 1 of training has no image"),
        ({"training": [row(0, label=3)]}, {}, "no '0' case is left to train on"),
        ({"training": [row(0)]}, {}, r"has no 'labels'; name them, data.labels="),
        ({"training": [row(0)], "labels": {"a": "x"}}, {}, "'labels' must name classes and their numbers"),
        ({**ALL, "training": [{"image": "../image0.nii.gz"}]}, {}, "lies outside of data.root"),
        ({**ALL, "training": [row(0, image="image9.nii.gz")]}, {}, r"image9.nii.gz, which is absent"),
        ({**ALL, "training": [row(0), row(0)]}, {}, r"image0.nii.gz twice; keep one row"),
        ({**ALL, "training": [row(0), row(1, image=["image1.nii.gz"] * 2)]}, {}, "names 2 images, but there are 1"),
        (ALL, {"fold": 3}, "data.fold=3: no training row has it; there are: none"),
        ({**ALL, "modality": {"x": "CT"}}, {}, "'modality' must number the channels"),
        ({**ALL, "validation": [row(4, subject="p")], "training": [row(0, subject="p")]}, {}, "p"),
        (ALL, {"preprocess": ({**SPACING, "keys": ["image", "seg"]},)}, r"entry 1 \(Spacingd\): keys: 'seg' is not there"),
        (ALL, {"fold": 1, "split": "random"}, "data.fold has no effect with data.split=random"),
        (ALL, {"preprocess": ({"_target_": "RandFlipd", "keys": ["image"]},)}, r"\(RandFlipd\): is random, .*transforms"),
        (ALL, {"preprocess": ({"_target_": "LoadImaged", "keys": ["image"]},)}, "touches files"),
        (ALL, {"preprocess": "mine"}, "names are for commands"),
        ({"training": [*graded([0, 1]), row(2)]}, {}, "labels of image0.nii.gz and image2.nii.gz are of different kinds"),
        ({"training": graded([[0, 1], [1]])}, {}, "of different kinds; .* lists of one length"),
        ({"training": graded([0, 0, 0])}, {}, "all rows have the class 0; a task needs two"),
        ({"training": graded([0, 1, 2]), "labels": ["a", "b"]}, {}, "has 3 classes, but 2 names: a, b; name each"),
        ({"training": graded([0, 1, 2])}, {"labels": {"a": 0, "b": 2}}, "must name the classes 0, 1, 2"),
        ({"training": graded([0, 1, -2])}, {}, "row 3 of training has label -2; a label is the file"),
        ({"training": graded([0, 1, 0.5])}, {}, "row 3 of training has label 0.5"),
        ({"training": graded([[0, 2]])}, {}, r"row 1 of training has label \[0, 2\]"),
        ({"training": graded([0, 1]), "validation": []}, {"classes": ("a",)}, "data.classes chooses masks, .* leave it out"),
        ({"training": [{"image": "a.png", "label": 0}, row(1, label=1)]}, {}, "a.png, a picture, .* take data=images"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(folder, tree, settings, said):
    with pytest.raises(SslMedError, match=said) as error:
        data(folder, tree, **settings)
    assert "\n" not in str(error.value)


def test_preprocessing_that_goes_wrong_is_one_line(folder):
    for entry, said in (
        (
            {"_target_": "RepeatChanneld", "keys": ["image"], "repeats": 2},
            "made image 2x12x14x10; it must keep the channels",
        ),
        ({**SPACING, "keys": ["image"], "mode": "bilinear"}, "image and label must stay on one grid"),
        ({**SPACING, "mode": "bilinear"}, "leaves labels that are no whole numbers; say mode: nearest for label"),
        (
            {"_target_": "CropForegroundd", "keys": ["image"], "source_key": "x"},
            r"image\d.nii.gz: .*\(CropForegroundd\) cannot",
        ),
    ):
        made = data(folder, ALL, preprocess=(entry,))
        with pytest.raises(SslMedError, match=said):
            made.load(made.parts["train"][0])


@pytest.mark.slow
def test_a_store_holds_what_is_left_after_preprocessing(folder, tmp_path, capsys):
    (tmp_path / "pre.yaml").write_text(json.dumps([SPACING]))
    tree = {**ALL, "test": [row(5)]}
    words = [
        "data=monai",
        f"data.root={folder}",
        f"data.preprocess={tmp_path}/pre.yaml",
        f"data.datalist={tmp_path}/list.json",
    ]
    (tmp_path / "list.json").write_text(json.dumps(tree))
    assert main(["prepare", *words, f"store={tmp_path}/store", "workers=1", "data.patch_size=[8,8,8]"]) == 0
    stored = data(folder, tree, preprocess=(SPACING,), store=str(tmp_path / "store"))
    plain = data(folder, tree, preprocess=(SPACING,))
    for one, other in zip(stored.parts["train"], plain.parts["train"], strict=True):
        found, wanted = stored.load(one), plain.load(other)
        assert (found.codes[...] == wanted.codes).all()
        assert (found.mask[...] == wanted.mask).all()
    with pytest.raises(SslMedError, match="preprocess"):
        data(folder, tree, store=str(tmp_path / "store"))
    capsys.readouterr()
    assert main(["check", *words, f"out={tmp_path}/check", "workers=1"]) == 0
    assert "usable: 6 of 6 cases" in capsys.readouterr().out
