"""Folders as people have them: links, upper-case endings, archive litter, doubled folders, other conventions of names."""

import os

import numpy as np
import pytest
from small_folders import (
    FAMILIES,
    SIDE,
    brats,
    cases,
    data_of,
    doubled,
    linked,
    littered,
    nnunet,
    picture,
    upper,
    volume,
)

from datamodules.core.files import find_files, find_volumes, spelled
from datamodules.images import ImagesConfig, ImagesData
from datamodules.msd import MsdConfig, MsdData
from datamodules.volumes import VolumesConfig, VolumesData
from ssl_med.spec import SslMedError

# ---------------------------------------------------------------------------------------------------- the walk


def names(root, ending=".x"):
    found = find_files(root, lambda path: path.suffix.lower() == ending)
    return [path.relative_to(root).as_posix() for path in found]


def test_each_file_is_found_once_by_its_path_without_links(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    for place in (root / "b", disk / "outside"):
        place.mkdir(parents=True)
        (place / "1.x").touch()
    (root / "a").symlink_to(root / "b")  # an alias that is met first
    (root / "0.x").symlink_to(root / "b" / "1.x")
    (root / "c").symlink_to(disk / "outside")
    (root / "again").symlink_to(disk / "outside")
    (root / "b" / "up").symlink_to(root)  # loops
    (root / "b" / "over").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    assert names(root) == ["again/1.x", "b/1.x"]
    assert find_files(root, lambda path: path.suffix == ".x", prefer=lambda path: path.parent.name == "c") == [
        root / "b" / "1.x",
        root / "c" / "1.x",
    ]


def test_litter_is_passed_over_and_endings_may_be_upper_case(tmp_path):
    for name in ("a.x", "B.X", "._a.x", ".DS_Store", ".hidden/c.x", "__MACOSX/._a.x", "__MACOSX/d.x", "@eaDir/a.x/e.x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / name).exists():
            (tmp_path / name).touch()
    assert names(tmp_path) == ["B.X", "a.x"]


def test_a_link_to_nothing_is_refused_where_it_may_stand_for_data(tmp_path):
    (tmp_path / "notes.txt").symlink_to(tmp_path / "gone")
    assert names(tmp_path) == []
    link = tmp_path / "batch2"  # no ending: a folder of another disk
    link.symlink_to(tmp_path / "disk" / "batch2")
    with pytest.raises(SslMedError, match=r"batch2: is a link to .*disk/batch2, which is not there"):
        names(tmp_path)
    assert find_files(tmp_path, lambda path: True, left_out=lambda path: True) == []


def test_names_that_are_no_utf8_and_accents_in_two_forms(tmp_path):
    odd = os.fsdecode(b"scan-\xff.nii.gz")
    volume(tmp_path / "v" / odd)
    data = data_of(VolumesData, VolumesConfig, "volumes", tmp_path, subject="file")
    assert [case.images[0] for case in cases(data)] == [str(tmp_path / "v" / odd)]
    data.public_name(odd).encode()
    data.identities()
    assert spelled("Mu\u0308ller.NII.GZ") == "M\u00fcller.nii.gz"
    picture(tmp_path / "i" / "Mu\u0308ller.PNG")
    picture(tmp_path / "i" / "b.png", 1)
    (tmp_path / "i" / "labels.csv").write_text("file,x\nM\u00fcller.png,no\nb.png,yes\n", encoding="utf-8")
    settings = {"labels": "labels.csv", "label_columns": ("x",), "class_names": ("no", "yes")}
    data = data_of(ImagesData, ImagesConfig, "images", tmp_path / "i", labelled=True, **settings)
    assert sorted(case.label for case in cases(data)) == [(0,), (1,)]


# ------------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize("change", [doubled, littered, linked, upper], ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=() if name in ("lits", "msd", "images") else pytest.mark.slow) for name in FAMILIES],
)
def test_every_family_finds_the_same_cases(tmp_path, family, change):
    root = tmp_path / "root"
    data = FAMILIES[family](root)
    before = [(case.name, case.subject) for case in cases(data)]
    assert len(before) >= 4
    change(root)
    data = type(data)(data.config, labelled=False, batch_size=1)
    after = [(case.name, case.subject) for case in cases(data)]
    if family == "images" and change is upper:  # their names are paths
        after = [(spelled(name), spelled(subject)) for name, subject in after]
    assert sorted(after) == sorted(before)
    for part in ("train", "val"):
        data.setup()
        for sample in range(min(1, data.count(part))):
            data.dataset(data.parts[part], part=part)[0, sample]


def test_brats_of_2023_keeps_the_scans_of_a_patient_together(tmp_path):
    data = brats(tmp_path)
    found = {case.name: case for case in cases(data)}
    assert [found[f"BraTS-GLI-0000{p}-00{t}"].subject for p, t in ((0, 0), (0, 1), (1, 0))] == [
        "BraTS-GLI-00000",
        "BraTS-GLI-00000",
        "BraTS-GLI-00001",
    ]
    ends = [path.rpartition("-")[2] for path in found["BraTS-GLI-00001-000"].images]
    assert ends == ["t2f.nii.gz", "t1n.nii.gz", "t1c.nii.gz", "t2w.nii.gz"]  # flair, t1, t1ce, t2
    labels = np.array([0, 1, 2, 3]).reshape(4, 1, 1).astype(np.uint8)
    mask = found["BraTS-GLI-00001-000"].mask
    assert data.regions(labels, source=mask)[:, :, 0, 0].tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    with pytest.raises(SslMedError, match="holds label 4, which BraTS 2023 does not have"):
        data.regions(labels + 1, source=mask)
    (tmp_path / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1c.nii.gz").unlink()
    with pytest.raises(SslMedError, match=r"lacks BraTS-GLI-00001-000-t1c\.nii\[\.gz\]"):
        cases(data)


def test_nnunet_keeps_a_channel_a_file(tmp_path):
    nnunet(tmp_path, labels={"background": 0, "lesion": 1})
    data = data_of(MsdData, MsdConfig, "msd", tmp_path, labelled=True)
    found = cases(data)
    assert [case.name for case in found] == ["c_000", "c_001", "c_002", "c_003", "t_001"]
    assert [bool(case.mask) for case in found] == [True] * 4 + [False]
    assert data.spec.channel_names == ("T1", "T2")
    assert data.spec.class_names == ("lesion",)
    loaded = data.load(found[1])
    assert loaded.codes.shape == (2, SIDE, SIDE, SIDE)
    one = data_of(MsdData, MsdConfig, "msd", tmp_path, modalities=("T2",))
    assert [os.path.basename(path) for path in cases(one)[1].images] == ["c_001_0001.nii.gz"]
    (tmp_path / "imagesTr" / "c_001_0001.nii.gz").unlink()
    with pytest.raises(SslMedError, match=r"c_001_0000\.nii\.gz: its case has no channel imagesTr/c_001_0001\.nii\.gz"):
        cases(data)


def test_nnunet_regions_and_the_label_that_counts_for_nothing(tmp_path):
    nnunet(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2})
    data = data_of(MsdData, MsdConfig, "msd", tmp_path, labelled=True)
    cases(data)
    labels = np.array([0, 1, 2]).reshape(3, 1, 1)
    assert data.regions(labels, source="")[:, :, 0, 0].tolist() == [[0, 1, 1], [0, 0, 1]]
    nnunet(tmp_path, labels={"background": 0, "lesion": 1, "ignore": 2})
    with pytest.raises(SslMedError, match="'ignore', a label that counts for nothing"):
        data_of(MsdData, MsdConfig, "msd", tmp_path, labelled=True)


def test_a_folder_of_links_says_what_an_image_is(tmp_path):
    for k in range(4):
        real = picture(tmp_path / "all" / f"{k}.png", k)
        link = tmp_path / ("sick" if k % 2 else "well") / f"{k}.png"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(real)
    data = data_of(ImagesData, ImagesConfig, "images", tmp_path, labelled=True, class_names=("well", "sick"))
    assert [(case.name, case.label) for case in cases(data)] == [
        ("sick/1.png", (1,)),
        ("sick/3.png", (1,)),
        ("well/0.png", (0,)),
        ("well/2.png", (0,)),
    ]


def test_dicom_without_an_ending(tmp_path):
    pytest.importorskip("pydicom")
    from datamodules.phantoms._dicom import write_series

    array = np.random.default_rng(0).integers(-900, 900, (16, 16, 3)).astype(np.int16)
    for k in range(3):
        series = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "series": f"2.25.{k + 1}", "patient": "p"}
        write_series(tmp_path / f"p{k}", array + k, **series)
        for path in list((tmp_path / f"p{k}").iterdir()):
            path.rename(path.with_suffix(""))
    (tmp_path / "p0" / "README").write_text("no image")
    data = data_of(VolumesData, VolumesConfig, "volumes", tmp_path)
    assert [case.images for case in cases(data)] == [(str(tmp_path / f"p{k}"),) for k in range(3)]
    flat = data_of(ImagesData, ImagesConfig, "images", tmp_path, intensity_low=-1000.0, intensity_high=1000.0)
    assert len(cases(flat)) == 9
    assert flat.read(flat.cases()[0].path).shape == (1, 16, 16)


def test_channels_of_one_case_are_one_subject(tmp_path):
    for case in ("a", "b"):
        for channel in range(2):
            volume(tmp_path / f"{case}_{channel:04d}.nii.gz", seed=ord(case) + 9 * channel)
    volume(tmp_path / "c_2019.nii.gz", seed=5)
    data = data_of(VolumesData, VolumesConfig, "volumes", tmp_path)
    assert [case.subject for case in cases(data)] == ["a", "a", "b", "b", "c_2019"]
    for path in tmp_path.glob("b_*"):
        path.unlink()
    assert [case.subject for case in cases(data)] == ["a_0000", "a_0001", "c_2019"]  # may be a series of scans


def test_an_alias_is_no_second_volume(tmp_path):
    volume(tmp_path / "a" / "ct.nii.gz")
    (tmp_path / "a" / "again.nii.gz").symlink_to(tmp_path / "a" / "ct.nii.gz")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_volumes(tmp_path) == [tmp_path / "a" / "ct.nii.gz"]
