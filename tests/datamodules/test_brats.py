"""BraTS 2018, 2020 and 2021: folders, nested regions under both label conventions, any choice of sequences."""

import shutil

import nibabel as nib
import numpy as np
import pytest

from datamodules.brats import SEQUENCES, BratsConfig, BratsData
from datamodules.core.intensity import TOP
from datamodules.phantoms import brats
from ssl_med.spec import SslMedError

PATCH = (12, 12, 8)
SIZE = (26, 28, 24)


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("p")
    for layout in ("brats18", "brats20", "brats21"):
        brats.generate(root / layout, subjects=8, seed=0, size=SIZE, layout=layout)
    return root


@pytest.fixture
def copied(heads, tmp_path):
    return shutil.copytree(heads / "brats20", tmp_path / "brats")


def module(root, *, labelled=True, seed=0, **settings):
    config = BratsConfig(**{"name": "brats", "root": str(root), "patch_size": PATCH, **settings})
    data = BratsData(config, labelled=labelled, batch_size=2, seed=seed)
    data.setup()
    return data


def cases(data):
    return sorted((c for part in data.parts.values() for c in part), key=lambda c: c.name)


def stored(folder, name):
    return np.asarray(nib.load(folder / f"{folder.name}_{name}.nii.gz").dataobj)


def folders(root):
    return sorted(path.parent for path in root.rglob("*_seg.nii.gz"))


# ---------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", ["brats18", "brats20", "brats21"])
def test_layouts(heads, layout):
    data = module(heads / layout)
    found = cases(data)
    assert [c.name for c in found] == sorted(f.name for f in folders(heads / layout))
    assert data.describe()["cases"] == {"train": 5, "val": 1, "test": 2}
    prefix = {"brats18": "Brats18_SIM", "brats20": "BraTS20_Training_", "brats21": "BraTS2021_"}[layout]
    assert all(c.name.startswith(prefix) for c in found)
    if layout == "brats18":
        assert {path.split("/")[-3] for c in found for path in c.images} == {"HGG", "LGG"}
    by_name = {f.name: f for f in folders(heads / layout)}
    for case in found[:3]:
        item = data.load(case)
        assert item.codes.shape == (4, *SIZE)
        folder = by_name[case.name]
        for channel, name in enumerate(SEQUENCES):
            raw = stored(folder, name).astype(float)  # the phantom is stored as LPS
            brain = raw[raw != 0]
            low, high = np.quantile(brain, [0.005, 0.995])
            unit = np.clip((raw - low) / (high - low), 0, 1)
            unit[raw == 0] = 0
            np.testing.assert_allclose(item.codes[channel] / TOP, unit, atol=1e-5)


def test_the_three_layouts_hold_the_same_patients(heads):
    """The same voxels under three names give the same arrays."""
    items = []
    for layout in ("brats18", "brats20", "brats21"):
        data = module(heads / layout)
        key = {"brats18": "SIM003", "brats20": "_003", "brats21": "_00002"}[layout]
        items.append(data.load(next(c for c in cases(data) if key in c.name)))
    for item in items[1:]:
        np.testing.assert_array_equal(item.codes, items[0].codes)
        np.testing.assert_array_equal(item.mask, items[0].mask)


# ---------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize("enhancing", [4, 3])
def test_regions_are_nested_under_both_conventions(copied, enhancing):
    for folder in folders(copied):
        path = folder / f"{folder.name}_seg.nii.gz"
        image = nib.load(path)
        labels = np.asarray(image.dataobj).copy()
        labels[labels == 4] = enhancing
        nib.save(nib.Nifti1Image(labels, image.affine), path)
    data = module(copied)
    assert data.spec.class_names == ("WT", "TC", "ET")
    with_enhancing = 0
    for case, folder in zip(cases(data), folders(copied), strict=True):
        labels = stored(folder, "seg")
        wt, tc, et = data.load(case).mask
        np.testing.assert_array_equal(wt, np.isin(labels, (1, 2, enhancing)))
        np.testing.assert_array_equal(tc, np.isin(labels, (1, enhancing)))
        np.testing.assert_array_equal(et, labels == enhancing)
        assert (et <= tc).all()
        assert (tc <= wt).all()
        with_enhancing += et.any()
    assert with_enhancing >= 5


def test_masks_with_both_labels_need_a_word(copied):
    folder = folders(copied)[0]
    path = folder / f"{folder.name}_seg.nii.gz"
    image = nib.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[5, 5, 5], labels[6, 6, 6] = 3, 4
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    data = module(copied)
    case = next(c for c in cases(data) if c.name == folder.name)
    with pytest.raises(SslMedError, match=r"_seg.nii.gz: holds labels 3 and 4; .* data.enhancing=3 or 4"):
        data.load(case)
    for choice in ("3", "4"):
        wt, tc, et = module(copied, enhancing=choice).load(case).mask
        np.testing.assert_array_equal(et, labels == int(choice))
        np.testing.assert_array_equal(tc, np.isin(labels, (1, int(choice))))
        np.testing.assert_array_equal(wt, labels > 0)
    labels[7, 7, 7] = 5
    nib.save(nib.Nifti1Image(labels, image.affine), path)
    with pytest.raises(SslMedError, match=r"holds label 5; brats has \(0, 1, 2, 3, 4\)"):
        data.load(case)


# -------------------------------------------------------------------------------------------- sequences


def test_any_sequences_in_any_order(heads):
    whole = module(heads / "brats20")
    part = module(heads / "brats20", modalities=("t1ce", "flair"))
    assert part.spec.in_channels == 2
    assert part.spec.channel_names == ("t1ce", "flair")
    for one, other in zip(cases(whole), cases(part), strict=True):
        np.testing.assert_array_equal(whole.load(one).codes[[2, 0]], part.load(other).codes)
    for bad in ((), ("t1", "t1"), ("flair", "adc")):
        with pytest.raises(SslMedError, match=r"data.modalities \[.*\] must be different names of flair, t1, t1ce, t2"):
            module(heads / "brats20", modalities=bad)


def test_the_split_does_not_depend_on_sequences_labels_or_missing_files(copied):
    reference = module(copied).subjects()
    assert module(copied, modalities=("flair",)).subjects() == reference
    unlabelled = module(copied, labelled=False).subjects()
    assert unlabelled == {part: reference[part] for part in ("train", "val")}
    # one case of each part loses t1: the others stay where they are, for all choices
    gone = [reference[part][0] for part in ("train", "test")]
    for name in gone:
        (copied / name / f"{name}_t1.nii.gz").unlink()
    with pytest.raises(
        SslMedError, match=r"lacks .*_t1.nii\[.gz\]; choose data.modalities=\[...\] .* data.skip_incomplete=true"
    ):
        module(copied)
    assert module(copied, modalities=("flair", "t2")).subjects() == reference
    data = module(copied, skip_incomplete=True)
    assert data.subjects() == {part: [n for n in names if n not in gone] for part, names in reference.items()}
    assert data.describe()["notes"] == [f"left out for want of a file (2): {', '.join(sorted(gone))}"]
    assert not set(reference["test"]) & {
        s for p in module(copied, labelled=False, skip_incomplete=True).subjects().values() for s in p
    }


def test_a_case_without_mask(copied):
    name = folders(copied)[0].name
    (copied / name / f"{name}_seg.nii.gz").unlink()
    with pytest.raises(SslMedError, match=rf"{name}: lacks {name}_seg.nii\[.gz\]"):
        module(copied)
    assert len(cases(module(copied, skip_incomplete=True))) == 7
    unlabelled = module(copied, labelled=False)
    labelled = module(copied, skip_incomplete=True)
    assert not set(labelled.subjects()["test"]) & {s for p in unlabelled.subjects().values() for s in p}


def test_the_mask_that_was_distributed_under_its_source_name(copied):
    folder = folders(copied)[0]
    (folder / f"{folder.name}_seg.nii.gz").rename(folder / "W39_1998.09.19_Segm.nii.gz")
    data = module(copied)
    case = next(c for c in cases(data) if c.name == folder.name)
    assert case.mask.endswith("W39_1998.09.19_Segm.nii.gz")
    assert data.load(case).mask.any()


def test_a_case_in_two_folders_is_refused(copied):
    name = folders(copied)[0].name
    shutil.copytree(copied / name, copied / "backup" / name)
    with pytest.raises(SslMedError, match=rf"{name}: there is a second folder of this case, .*{name}; keep one"):
        module(copied)


# -------------------------------------------------------------------------------------- pixels and crops


def test_sequences_of_one_case_must_share_a_grid(copied):
    folder = folders(copied)[0]
    path = folder / f"{folder.name}_t2.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    with pytest.raises(
        SslMedError, match=r"_t2.nii.gz: .*_flair.nii.gz: it has shape \(25, 28, 24\), that has \(26, 28"
    ):
        module(copied)


def test_an_empty_sequence_is_refused(copied):
    folder = folders(copied)[0]
    path = folder / f"{folder.name}_t1.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SIZE, np.int16), nib.load(path).affine), path)
    data = module(copied)
    case = next(c for c in cases(data) if c.name == folder.name)
    with pytest.raises(SslMedError, match=r"_t1.nii.gz: every voxel is 0"):
        data.load(case)


def test_unlabelled_crops_hold_brain(heads):
    data = module(heads / "brats20", labelled=False, crops_per_volume=10)
    dataset = data.dataset(data.parts["train"], part="train")
    for index in range(len(dataset)):
        brain = dataset[0, index]["image"][0].numpy() > 0
        # what the filter may have counted: brain, and half of the voxels below brain, the last slice's neighbour unseen
        below = np.concatenate([brain[..., 1:], np.ones((12, 12, 1), bool)], -1) & ~brain
        assert (brain + 0.5 * below).mean() >= 0.1
    assert dataset[0, 0]["image"].shape == (4, *PATCH)
    batch = next(iter(module(heads / "brats20").train_dataloader()))
    assert batch["image"].shape == (2, 4, *PATCH)
    assert batch["mask"].shape == (2, 3, *PATCH)
