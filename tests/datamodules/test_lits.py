"""LiTS: masks lie on their livers in any storage, regions by option, numbers as subjects."""

import shutil
from itertools import pairwise

import nibabel as nib
import numpy as np
import pytest
import torch

from datamodules.core.geometry import axis_codes
from datamodules.core.intensity import TOP
from datamodules.lits import LitsConfig, LitsData
from datamodules.phantoms import lits
from ssl_med.spec import SslMedError

PATCH = (16, 16, 8)


@pytest.fixture(scope="module")
def abdomens(tmp_path_factory):
    return lits.generate(tmp_path_factory.mktemp("p") / "lits", subjects=10, seed=0, size=(40, 36, 24))


def module(root, *, labelled, fraction=1.0, seed=0, batch_size=2, setup=True, **settings):
    config = LitsConfig(**{"name": "lits", "root": str(root), "patch_size": PATCH, **settings})
    data = LitsData(config, labelled=labelled, batch_size=batch_size, label_fraction=fraction, seed=seed)
    if setup:
        data.setup()
    return data


def canonical(path):
    """Array with axes towards L, P and S, turned by nibabel."""
    image = nib.as_closest_canonical(nib.load(path))  # R, A, S
    return np.asarray(image.dataobj)[::-1, ::-1]


# ------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("number", range(6))
def test_image_and_mask_are_turned_alike(abdomens, number):
    """The phantom is stored as LAS, RAS and LPS in turn."""
    data = module(abdomens, labelled=True)
    case = next(c for part in data.parts.values() for c in part if c.subject == str(number))
    stored = nib.load(abdomens / f"volume-{number}.nii.gz")
    assert "".join(nib.aff2axcodes(stored.affine)) == ("LAS", "RAS", "LPS")[number % 3]
    item = data.load(case)
    assert axis_codes(item.to_world) == "LPS"
    hu = np.clip(canonical(abdomens / f"volume-{number}.nii.gz"), -200, 200)
    np.testing.assert_allclose(item.codes[0].astype(float) / TOP * 400 - 200, hu, atol=0.004)
    np.testing.assert_array_equal(item.mask[0], canonical(abdomens / f"segmentation-{number}.nii.gz") > 0)


def test_orientation_and_spacing_are_options(abdomens):
    plain = module(abdomens, labelled=True)
    case = plain.parts["train"][0]
    one = plain.load(case)
    other = module(abdomens, labelled=True, orientation="SAR").load(case)
    np.testing.assert_array_equal(other.codes[0], one.codes[0].transpose(2, 1, 0)[:, ::-1, ::-1])
    np.testing.assert_array_equal(other.mask[0], one.mask[0].transpose(2, 1, 0)[:, ::-1, ::-1])
    data = module(abdomens, labelled=True, spacing_mm=(6.0, 6.0, 6.0))
    coarse = data.load(case)
    np.testing.assert_allclose(np.linalg.norm(coarse.to_world[:3, :3], axis=0), 6)
    assert coarse.codes.shape == coarse.mask.shape
    # volume and middle of the liver stay
    sizes = np.abs(np.linalg.det(one.to_world[:3, :3])), 6.0**3
    assert coarse.mask.sum() * sizes[1] == pytest.approx(one.mask.sum() * sizes[0], rel=0.1)
    middles = [np.argwhere(i.mask[0]).mean(0) @ i.to_world[:3, :3].T + i.to_world[:3, 3] for i in (one, coarse)]
    np.testing.assert_allclose(*middles, atol=1.5)
    # the liver is soft tissue on both grids
    for item in (one, coarse):
        assert 20 < np.median(item.codes[item.mask > 0]) / TOP * 400 - 200 < 150
    assert data.spec.spacing_mm == (6.0, 6.0, 6.0)
    zooms = nib.load(case.images[0]).header.get_zooms()
    assert data.parts["train"][0].voxels == np.prod([int(n * z / 6) for n, z in zip((40, 36, 24), zooms, strict=True)])


def test_regions(abdomens):
    for number in range(10):
        labels = canonical(abdomens / f"segmentation-{number}.nii.gz")
        expected = {"liver": [labels > 0], "liver_only": [labels == 1], "liver+tumor": [labels > 0, labels == 2]}
        for option, masks in expected.items():
            data = module(abdomens, labelled=True, target_regions=option)
            case = next(c for part in data.parts.values() for c in part if c.subject == str(number))
            found = data.load(case).mask
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, np.stack(masks))
            assert data.spec.class_names == (("liver", "tumor") if option == "liver+tumor" else ("liver",))
    assert module(abdomens, labelled=False).spec.class_names == ()


def test_batches(abdomens):
    data = module(abdomens, labelled=True, target_regions="liver+tumor", crops_per_volume=3, foreground_p=1.0)
    assert len(data.train_dataloader()) == 7 * 3 // 2
    for batch in data.train_dataloader():
        assert batch["image"].shape == (2, 1, *PATCH)
        assert batch["mask"].shape == (2, 2, *PATCH)
        assert set(batch["mask"].unique().tolist()) <= {0.0, 1.0}
        assert (batch["mask"][:, 1] <= batch["mask"][:, 0]).all()
        assert batch["mask"].flatten(1).any(1).all()
    whole = list(data.test_dataloader())
    assert [b["id"] for b in whole] == [[c.name] for c in data.parts["test"]]
    assert all(b["image"].shape[2:] == b["mask"].shape[2:] for b in whole)
    assert [b["image"].shape[2:] for b in whole] == [(40, 36, 24)] * 2
    unlabelled = module(abdomens, labelled=False, crops_per_volume=2)
    batch = next(iter(unlabelled.train_dataloader()))
    assert set(batch) == {"image", "id", "index"}
    assert batch["image"].dtype == torch.float32


# ---------------------------------------------------------------------------------------- files and splits


def test_subjects_are_numbers_in_any_folder(abdomens, tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
    for number in range(10):
        for kind in ("volume", "segmentation"):
            name = f"{kind}-{number}.nii.gz"
            shutil.copy(abdomens / name, tmp_path / ("a" if number < 5 else "b") / name)
    nib.save(nib.load(tmp_path / "a" / "volume-0.nii.gz"), tmp_path / "a" / "volume-0.nii")
    (tmp_path / "a" / "volume-0.nii.gz").unlink()
    (tmp_path / "a" / "volume-x.nii.gz").write_text("not counted")
    flat, nested = module(abdomens, labelled=True), module(tmp_path, labelled=True)
    assert nested.subjects() == flat.subjects()
    assert nested.describe()["cases"] == {"train": 7, "val": 1, "test": 2}
    shutil.copy(abdomens / "volume-3.nii.gz", tmp_path / "b")
    with pytest.raises(SslMedError, match=r"b/volume-3.nii.gz: there is a second volume 3, .*a/volume-3.nii.gz"):
        module(tmp_path, labelled=True)


def test_missing_segmentation(abdomens, tmp_path):
    shutil.copytree(abdomens, tmp_path / "lits")
    gone = tmp_path / "lits" / "segmentation-4.nii.gz"
    gone.unlink()
    with pytest.raises(SslMedError, match=r"volume-4.nii.gz: has no segmentation-4.nii\[.gz\]; add it or remove"):
        module(tmp_path / "lits", labelled=True)
    assert sum(module(tmp_path / "lits", labelled=False).describe()["cases"].values()) in (7, 8)


def test_labels_of_another_data_set_are_refused(abdomens, tmp_path):
    shutil.copytree(abdomens, tmp_path / "lits")
    for path in (tmp_path / "lits").glob("segmentation-*"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * 3, image.affine), path)
    data = module(tmp_path / "lits", labelled=True)
    with pytest.raises(SslMedError, match=r"segmentation-\d+.nii.gz: holds label [36]; lits has \(0, 1, 2\)"):
        data.load(data.parts["train"][0])


def test_the_mask_header_counts_unless_it_is_said_to_be_wrong(abdomens, tmp_path):
    """Masks are often saved with an identity affine: whether their voxels lie on the image's, only the user knows."""
    shutil.copytree(abdomens, tmp_path / "lits")
    for path in (tmp_path / "lits").glob("segmentation-*"):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), np.eye(4)), path)
    with pytest.raises(SslMedError, match=r"segmentation-\d+.nii.gz: does not lie on .* set data.mask_header=ignored"):
        module(tmp_path / "lits", labelled=True)
    right, wrong = module(abdomens, labelled=True), module(tmp_path / "lits", labelled=True, mask_header="ignored")
    for one, other in zip(right.parts["train"], wrong.parts["train"], strict=True):
        np.testing.assert_array_equal(right.load(one).mask, wrong.load(other).mask)


def test_mg_split_is_by_number(abdomens, tmp_path):
    numbers = [0, 7, 99, 100, 114, 115, 130]
    for place, number in enumerate(numbers):
        for kind in ("volume", "segmentation"):
            shutil.copy(abdomens / f"{kind}-{place}.nii.gz", tmp_path / f"{kind}-{number}.nii.gz")
    data = module(tmp_path, labelled=True, split="mg")
    assert {p: [c.subject for c in cases] for p, cases in data.parts.items()} == {
        "train": ["0", "7", "99"], "val": ["100", "114"], "test": ["115", "130"],
    }  # fmt: skip
    unlabelled = module(tmp_path, labelled=False, split="mg")
    assert unlabelled.subjects() == {"train": ["0", "7", "99"], "val": ["100", "114"]}


def test_unlabelled_and_labelled_use_share_one_split(abdomens):
    for split_seed in range(5):
        labelled = module(abdomens, labelled=True, split_seed=split_seed).subjects()
        unlabelled = module(abdomens, labelled=False, split_seed=split_seed, target_regions="liver_only").subjects()
        assert unlabelled == {part: labelled[part] for part in ("train", "val")}


def test_volumes_smaller_than_a_patch_are_padded_with_their_masks(abdomens):
    data = module(abdomens, labelled=True, patch_size=(48, 48, 48))
    small = module(abdomens, labelled=True).load(data.parts["train"][0])
    large = data.load(data.parts["train"][0])
    assert large.codes.shape == (1, 48, 48, 48)
    np.testing.assert_array_equal(large.codes[:, 4:44, 6:42, 12:36], small.codes)
    np.testing.assert_array_equal(large.mask[:, 4:44, 6:42, 12:36], small.mask)
    assert large.mask.sum() == small.mask.sum()
    assert large.codes.astype(int).sum() == small.codes.astype(int).sum()
    np.testing.assert_allclose(
        large.to_world @ [4, 6, 12, 1], small.to_world @ [0, 0, 0, 1], err_msg="positions are kept"
    )


def test_scans_that_do_not_fit_into_the_cache_come_grouped(abdomens):
    """Less memory changes the order of samples, never what is in them or how often a scan is read."""
    roomy = module(abdomens, labelled=True, crops_per_volume=4, batch_size=1)
    tight = module(abdomens, labelled=True, crops_per_volume=4, batch_size=1, cache_gb=1e-9, mixed_volumes=1)
    ids = [name for batch in tight.train_dataloader() for name in batch["id"]]
    assert len(ids) == 28
    assert sum(a != b for a, b in pairwise(ids)) == 6
    found = {int(b["index"]): b["image"] for b in roomy.train_dataloader()}
    for batch in tight.train_dataloader():  # the next epoch
        assert batch["image"].shape == found[int(batch["index"])].shape
    tight = module(abdomens, labelled=True, crops_per_volume=4, batch_size=1, cache_gb=1e-9, mixed_volumes=1)
    for batch in tight.train_dataloader():
        assert torch.equal(batch["image"], found[int(batch["index"])])


@pytest.mark.parametrize("spacing", [None, (3.0, 4.0, 5.0)])
def test_evaluation_states_the_voxel_size_of_its_grid_and_who_it_is(abdomens, spacing):
    data = module(abdomens, labelled=True, spacing_mm=spacing)
    for batch, case in zip(data.test_dataloader(), data.parts["test"], strict=True):
        item = data.load(case)
        expected = np.linalg.norm(item.to_world[:3, :3], axis=0) if spacing is None else spacing
        assert batch["spacing"][0].numpy() == pytest.approx(expected, rel=1e-5)
        assert data.parts["test"][int(batch["case"])].name == batch["id"][0] == case.name
    numbers = [int(batch["subject"]) for batch in data.test_dataloader()]
    assert numbers == list(range(len(data.parts["test"])))
