"""Real scans in the true layouts: counts, units, geometry and labels are what their description states."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from datamodules.brats import BratsConfig, BratsData
from datamodules.chest14 import FINDINGS, Chest14Data
from datamodules.core.candidates import CandidateCubes
from datamodules.core.geometry import axis_codes, spacing_of
from datamodules.core.intensity import TOP
from datamodules.core.readers import read_volume
from datamodules.lits import LitsConfig, LitsData
from datamodules.luna import LunaConfig, LunaData
from ssl_med.spec import SslMedError

pytestmark = pytest.mark.realdata

# folder, end of the series uid, size, HU range: the table of the data's README
SCANS = [
    (0, "770295147", (222, 222, 170), (-2048, 3071)),
    (1, "427104083", (161, 161, 135), (-1024, 3002)),
    (2, "945195741", (197, 197, 138), (-1024, 3069)),
    (3, "229543", (278, 278, 135), (-1000, 2976)),
    (4, "540116972", (178, 178, 139), (-1024, 1455)),
    (5, "881016567", (162, 162, 109), (-1024, 3062)),
    (7, "431855143", (217, 217, 140), (-3024, 2982)),
]


def module(kind, config, root, *, labelled, **settings):
    data = kind(config(name=root.name, root=str(root), **settings), labelled=labelled, batch_size=2)
    data.setup()
    return data


def luna(root, *, labelled=True, **settings):
    return module(LunaData, LunaConfig, root / "luna16", labelled=labelled, **settings)


def lits(root, *, labelled=True, **settings):
    return module(LitsData, LitsConfig, root / "lits", labelled=labelled, **settings)


def brats(root, *, labelled=True, **settings):
    settings = {"modalities": ("flair", "t1ce"), **settings}
    return module(BratsData, BratsConfig, root / "brats", labelled=labelled, **settings)


def chest14(root, *, labelled=True, **settings):
    settings = {"patch_size": (64, 64), "image_size": 64, **settings}
    return module(Chest14Data, Chest14Data.Config, root / "chest14", labelled=labelled, **settings)


def every(data):
    return [case for part in data.parts.values() for case in part]


def by_file(root, key):
    """split=file with the parts of splits.json, whose val list is the test part."""
    return {"split": "file", "split_file": f"{root / 'splits.json'}:{key}", "test_is_val": True}


def parts_of(root, key):
    tree = json.loads((root / "splits.json").read_text())[key]
    return {"train": sorted(map(str, tree["train"])), "test": sorted(map(str, tree["val"]))}


@pytest.mark.parametrize(("make", "key"), [(luna, "luna16"), (lits, "lits"), (brats, "brats")])
def test_splits_of_the_file(make, key, shared_data):
    data = make(shared_data, labelled=False, **by_file(shared_data, key))
    assert data.subjects() == {"train": parts_of(shared_data, key)["train"]}, "nobody of the test part is pretrained on"
    assert "the split file has no test list: its val list is the test part" in data.describe()["notes"]
    labelled = make(shared_data, **by_file(shared_data, key))
    expected = parts_of(shared_data, key)
    if key == "luna16":  # two of the seven scans have been read
        expected = {
            part: [s for s in names if s.endswith(("770295147", "431855143"))] for part, names in expected.items()
        }
    assert labelled.subjects() == expected
    with pytest.raises(SslMedError, match=r"has no 'test' list; add one, or set data.test_is_val=true"):
        make(shared_data, **{**by_file(shared_data, key), "test_is_val": False})


# ----------------------------------------------------------------------------------------------- luna16


def test_luna_scans(shared_data):
    data = luna(shared_data, labelled=False, split_ratios=(1.0, 0.0, 0.0))
    cases = sorted(every(data), key=lambda c: c.subset)
    assert [c.subset for c in cases] == [row[0] for row in SCANS]
    for case, (_, end, size, hu) in zip(cases, SCANS, strict=True):
        assert case.name.endswith(end)
        volume = read_volume(case.images[0])
        assert volume.array.dtype == np.int16
        assert volume.array.shape == size
        assert case.voxels == np.prod(size)
        assert (volume.array.min(), volume.array.max()) == hu
        np.testing.assert_allclose(spacing_of(volume.to_world), (1.8, 1.8, 2.2))
        assert axis_codes(volume.to_world) == "LPS"
        # lung and air in the body
        assert 0.05 < ((volume.array > -950) & (volume.array < -700)).mean() < 0.5
        codes = data.load(case).codes
        clipped = np.clip(volume.array[::5, ::5, ::5], -1000, 1000)
        assert np.abs(codes[0, ::5, ::5, ::5].astype(float) / TOP * 2000 - 1000 - clipped).max() < 0.02


def test_luna_candidates(shared_data):
    data = luna(shared_data, **by_file(shared_data, "luna16"))
    assert data.describe()["positives"] == {
        "train": {"non-nodule": 60, "nodule": 5},
        "val": {"non-nodule": 0, "nodule": 0},
        "test": {"non-nodule": 60, "nodule": 6},
    }
    assert data.describe()["notes"][0] == "5 of 7 scans have no candidates"


def test_luna_candidates_mark_the_annotated_nodules(shared_data):
    data = luna(shared_data, **by_file(shared_data, "luna16"))
    for case in every(data):
        marked = [candidate.lesion for candidate in case.candidates if candidate.label]
        assert sorted(marked) == list(range(case.lesions))  # here every nodule has one candidate
    assert sorted(case.lesions for case in every(data)) == [5, 6]


def test_luna_nodules_are_denser_than_the_lung_around_them(shared_data):
    data = luna(shared_data, **by_file(shared_data, "luna16"))
    cubes = CandidateCubes(every(data), data.load, patch=(32, 32, 26), seed=0, negatives_per_positive=None)
    with (shared_data / "luna16" / "annotations.csv").open() as file:
        diameters = {
            (row["seriesuid"], round(float(row["coordX"]), 3)): float(row["diameter_mm"])
            for row in csv.DictReader(file)
        }
    steps = np.stack(np.meshgrid(*(np.arange(n) - n // 2 for n in (32, 32, 26)), indexing="ij"), -1)
    distance = np.linalg.norm(steps * (1.8, 1.8, 2.2), axis=-1)
    nodules = [number for number, (_, candidate) in enumerate(cubes.all) if candidate.label]
    assert len(nodules) == len(diameters) == 11
    for number in nodules:
        scan, candidate = cubes.all[number]
        diameter = diameters[cubes.cases[scan].name, round(candidate.world[0], 3)]
        hu = cubes[0, number]["image"][0].numpy() * 2000 - 1000
        middle = hu[distance <= max(2.3, diameter / 4)]
        around = hu[(distance > diameter) & (distance < diameter + 12)]
        lung = around[around < -500]
        assert lung.size > 200
        assert middle.mean() > np.median(lung) + 250
    values = [cubes[0, number]["image"][0, 16, 16, 13] * 2000 - 1000 for number in nodules]
    assert np.median(values) > -150, "the middle voxel is soft tissue"


def test_luna_subset_splits(shared_data):
    data = luna(shared_data, labelled=False, split="mg")
    assert {c.subset for c in data.parts["train"]} == {0, 1, 2, 3, 4}
    assert [c.subset for c in data.parts["val"]] == [5]
    with pytest.raises(SslMedError, match=r"data.split=pcrl: no test subject is left"):
        luna(shared_data, split="pcrl")


def test_luna_crops_lie_in_the_lung(shared_data):
    data = luna(shared_data, labelled=False, split="mg", patch_size=(32, 32, 16), cache_gb=1.0)
    dataset = data.dataset(data.parts["val"], part="val")
    shares = [((dataset[0, i]["image"].numpy() * 2000 - 1000) > -149.9).mean() for i in range(len(dataset))]
    assert max(shares) <= 0.15


# ------------------------------------------------------------------------------------------------- lits


def test_lits_volumes_and_livers(shared_data):
    data = lits(shared_data, **by_file(shared_data, "lits"))
    assert {c.subject for c in every(data)} == {str(i) for i in range(1, 16)}
    for case in every(data):
        image, labels = nib.load(case.images[0]), nib.load(case.mask)
        assert image.shape[:2] == (256, 256)
        assert 56 <= image.shape[2] <= 111
        assert case.voxels == np.prod(image.shape)
        assert image.get_data_dtype() == np.int16
        spacing = spacing_of(image.affine)
        assert 1.12 <= round(spacing[0], 2) == round(spacing[1], 2) <= 1.75
        assert 2 <= round(spacing[2], 2) <= 3.2
        if case.subject not in ("1", "7", "13", "15"):
            continue  # decoding all would take long
        item = data.load(case)
        assert axis_codes(item.to_world) == "LPS"
        np.testing.assert_allclose(sorted(spacing_of(item.to_world)), sorted(spacing), rtol=1e-5)
        # nibabel's own reorientation: axes towards R, A, S; ours towards L, P, S
        hu = np.asarray(nib.as_closest_canonical(image).dataobj)[::-1, ::-1]
        mask = np.asarray(nib.as_closest_canonical(labels).dataobj)[::-1, ::-1] > 0
        np.testing.assert_array_equal(item.mask[0], mask)
        found = item.codes[0].astype(float) / TOP * 400 - 200
        assert np.abs(found - np.clip(hu, -200, 200)).max() < 0.004
        assert (hu.min(), hu.max()) >= (-1000, 0)
        assert hu.max() <= 1000
        assert 40 < np.median(hu[mask]) < 180
        litres = mask.sum() * np.prod(spacing) / 1e6
        assert 0.7 < litres < 3.0
        # x grows to the patient's left: the liver is on the right
        assert np.argwhere(mask)[:, 0].mean() < 0.5 * mask.shape[0]


# ------------------------------------------------------------------------------------------------ brats


def test_brats_cases(shared_data):
    data = brats(shared_data, **by_file(shared_data, "brats"))
    assert len(every(data)) == 5
    for case in every(data):
        if case.name.endswith(("3", "4")):
            continue  # as 002 and 005; decoding all would take long
        item = data.load(case)
        assert item.codes.shape == (2, 240, 240, 155)
        assert item.mask.shape == (3, 240, 240, 155)
        assert axis_codes(item.to_world) == "LPS"
        np.testing.assert_allclose(spacing_of(item.to_world), 1)
        wt, tc, et = (region.astype(bool) for region in item.mask)
        assert (et <= tc).all()
        assert (tc <= wt).all()
        assert wt.sum() > 5000
        assert et.any() == (not case.name.endswith("001"))
        flair = item.codes[0].astype(float)
        brain = flair > 0
        assert 0.05 < brain.mean() < 0.3
        assert not brain[:5].any(), "air around the brain stays 0"
        assert np.median(flair[wt & brain]) > np.median(flair[brain & ~wt]), "oedema is bright in FLAIR"
        ends = (item.codes[1][item.codes[1] > 0] == TOP).mean()
        assert 0.002 < ends < 0.02, "half a percent lies above the window"


def test_brats_cases_that_lack_sequences(shared_data):
    with pytest.raises(
        SslMedError, match=r"BraTS20_Training_002: lacks .*_t1.nii\[.gz\], .*_t2.nii\[.gz\]; choose data.modal"
    ):
        brats(shared_data, modalities=("flair", "t1", "t1ce", "t2"))
    data = brats(
        shared_data, modalities=("flair", "t1", "t1ce", "t2"), skip_incomplete=True, labelled=False,
        split_ratios=(1.0, 0.0, 0.0),
    )  # fmt: skip
    assert [c.name for c in every(data)] == ["BraTS20_Training_001"]
    assert data.describe()["notes"][0].startswith("left out for want of a file (4): BraTS20_Training_002, ")


# ---------------------------------------------------------------------------------------------- chest14


def test_chest14_images_and_official_lists(shared_data):
    tree = json.loads((shared_data / "splits.json").read_text())["chest14"]
    data = chest14(shared_data, split="official")
    assert sum(data.describe()["cases"].values()) == 793
    assert data.describe()["cases"]["test"] == 147
    subjects = data.subjects()
    assert subjects["test"] == sorted(map(str, tree["val_patients"]))
    assert sorted(subjects["train"] + subjects["val"]) == sorted(map(str, tree["train_patients"]))
    assert (len(subjects["train"]), len(subjects["val"])) == (140, 20)
    positives = data.describe()["positives"]["test"]
    assert positives["Hernia"] == 1
    assert positives["Pneumonia"] == positives["Emphysema"] == 2
    assert set(positives) == set(FINDINGS)
    unlabelled = chest14(shared_data, split="official", labelled=False)
    assert unlabelled.subjects() == {part: subjects[part] for part in ("train", "val")}


def test_chest14_pixels(shared_data):
    data = chest14(shared_data, split="official")
    batches = list(data.val_dataloader())
    assert sum(len(b["id"]) for b in batches) == data.describe()["cases"]["val"]
    images = np.concatenate([b["image"].numpy() for b in batches])
    assert images.shape[1:] == (1, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.std((1, 2, 3)) > 0.05).all(), "every image has contrast"
    assert 0.3 < images.mean() < 0.7
    np.testing.assert_allclose(images * 255, np.rint(images * 255), atol=0.02, err_msg="64 px images are not resampled")


def test_chest14_file_split(shared_data, tmp_path):
    tree = json.loads((shared_data / "splits.json").read_text())["chest14"]
    (tmp_path / "s.json").write_text(json.dumps({"train": tree["train_patients"], "val": tree["val_patients"]}))
    data = chest14(shared_data, split="file", split_file=str(tmp_path / "s.json"), test_is_val=True)
    assert data.describe()["cases"] == {"train": 646, "val": 0, "test": 147}
    with pytest.raises(SslMedError, match=r"splits.json:chest14: needs lists of subject ids"):
        chest14(shared_data, **by_file(shared_data, "chest14"))
