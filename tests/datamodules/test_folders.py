"""Folders as people have them: links, upper-case endings, archive litter, doubled folders, other conventions of names."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from datamodules.brats import BratsConfig, BratsData
from datamodules.chest14 import Chest14Data
from datamodules.core.files import find_files, find_volumes, spelled
from datamodules.core.images2d import TableConfig
from datamodules.images import ImagesConfig, ImagesData
from datamodules.lits import LitsConfig, LitsData
from datamodules.luna import LunaConfig, LunaData
from datamodules.medmnist import MedMNISTConfig, MedMNISTData
from datamodules.ms import MsConfig, MsData
from datamodules.msd import MsdConfig, MsdData
from datamodules.volumes import VolumesConfig, VolumesData
from ssl_med.spec import SslMedError

SIDE = 12


def volume(path, *, seed=0, labels=False, channels=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    shape = (SIDE,) * 3 + ((channels,) if channels else ())
    array = rng.integers(0, 2, shape).astype(np.uint8) if labels else rng.integers(-900, 900, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path.with_name("x.nii.gz"))
    path.with_name("x.nii.gz").rename(path)
    return path


def picture(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16)).astype(np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def data_of(family, config, name, root, *, labelled=False, only_test="", **settings):
    if name in ("lits", "brats", "luna", "ms", "msd", "volumes"):
        settings = {"patch_size": (8, 8, 8), **settings}
    made = config(name=name, root=str(root), **settings)
    return family(made, labelled=labelled, batch_size=1, only_test=only_test)


def cases(data):
    return list(data.cases())


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


def lits(root, count=4):
    for k in range(count):
        volume(root / f"volume-{k}.nii.gz", seed=k)
        volume(root / f"segmentation-{k}.nii.gz", labels=True)
    return data_of(LitsData, LitsConfig, "lits", root)


def brats(root, style="BraTS-GLI-{:05d}-{:03d}", sep="-", sequences=("t2f", "t1n", "t1c", "t2w", "seg")):
    for k, (patient, time) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0)]):
        case = style.format(patient, time)
        for name in sequences:
            volume(root / case / f"{case}{sep}{name}.nii.gz", seed=10 * k + len(name), labels=name == "seg")
    return data_of(BratsData, BratsConfig, "brats", root)


def chest14(root):
    rows = ["Image Index,Finding Labels,Patient ID"]
    for k in range(4):
        picture(root / "images" / f"{k:08d}_000.png", k)
        rows.append(f"{k:08d}_000.png,No Finding,{k}")
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows))
    return data_of(Chest14Data, TableConfig, "chest14", root)


def luna(root):
    for k in range(4):
        place = root / f"subset{k}"
        place.mkdir(parents=True)
        header = "NDims = 3\nDimSize = 12 12 12\nElementType = MET_SHORT\nElementSpacing = 1 1 1\nOffset = 0 0 0\n"
        (place / f"1.2.{k}.mhd").write_text(
            f"{header}TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = 1.2.{k}.raw\n"
        )
        (place / f"1.2.{k}.raw").write_bytes(np.full(SIDE**3, -700 + k, np.int16).tobytes())
    return data_of(LunaData, LunaConfig, "luna", root, tissue_max=1.0)


def ms(root):
    for k in range(4):
        for name in ("FLAIR", "T1"):
            volume(root / f"p{k}" / f"{name}.nii.gz", seed=k)
        volume(root / f"p{k}" / "mask.nii.gz", labels=True)
    return data_of(MsData, MsConfig, "ms", root, modalities=("FLAIR", "T1"))


def msd(root):
    rows = []
    for k in range(4):
        volume(root / "imagesTr" / f"c_{k}.nii.gz", seed=k)
        volume(root / "labelsTr" / f"c_{k}.nii.gz", labels=True)
        rows.append({"image": f"./imagesTr/c_{k}.nii.gz", "label": f"./labelsTr/c_{k}.nii.gz"})
    table = {"modality": {"0": "CT"}, "labels": {"0": "b", "1": "a"}, "training": rows, "test": []}
    (root / "dataset.json").write_text(json.dumps(table))
    return data_of(MsdData, MsdConfig, "msd", root)


def medmnist(root):
    root.mkdir(parents=True)
    arrays = {
        f"{part}_images": np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
        for part in ("train", "val", "test")
    }
    np.savez(
        root / "x.npz",
        **arrays,
        **{f"{part}_labels": np.array([[0], [1], [0], [1]]) for part in ("train", "val", "test")},
    )
    return data_of(MedMNISTData, MedMNISTConfig, "medmnist", root)


def images(root):
    for k in range(4):
        picture(root / f"person{k}" / f"{k}.png", k)
    (root / "labels.csv").write_text("file,x\n" + "".join(f"person{k}/{k}.png,{'ab'[k % 2]}\n" for k in range(4)))
    settings = {"labels": "labels.csv", "label_columns": ("x",), "class_names": ("a", "b")}
    return data_of(ImagesData, ImagesConfig, "images", root, **settings)


def volumes(root):
    for k in range(4):
        volume(root / f"p{k}" / "ct.nii.gz", seed=k)
    return data_of(VolumesData, VolumesConfig, "volumes", root)


FAMILIES = {f.__name__: f for f in (lits, brats, chest14, luna, ms, msd, medmnist, images, volumes)}


def doubled(root):
    inner = root.rename(root.with_name("kept"))
    root.mkdir()
    inner.rename(root / root.name)


def littered(root):
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        for path in [path for path in folder.iterdir() if path.is_file()]:
            folder.joinpath(f"._{path.name}").write_bytes(b"\0\5\26\7junk")
        folder.joinpath(".DS_Store").write_bytes(b"junk")
    shutil.copytree(root, root / "__MACOSX")


def linked(root):
    """Half of what lies in the root is on another disk; an alias and a loop are there as well."""
    disk = root.with_name("disk")
    disk.mkdir()
    for path in sorted(root.iterdir())[::2]:
        target = path.rename(disk / path.name)
        path.symlink_to(target)
    for path in sorted(root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            (path / "loop").symlink_to(root)


def upper(root):
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".csv", ".json", ".raw")]:
        ending = "".join(path.suffixes) if path.name.endswith(".nii.gz") else path.suffix
        path.rename(path.with_name(path.name.removesuffix(ending) + ending.upper()))


@pytest.mark.parametrize("change", [doubled, littered, linked, upper], ids=lambda change: change.__name__)
@pytest.mark.parametrize("family", FAMILIES)
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


def nnunet(root, *, labels, separate=2):
    for k in range(4):
        for channel in range(separate):
            volume(root / "imagesTr" / f"c_{k:03d}_{channel:04d}.nii.gz", seed=10 * k + channel)
        volume(root / "labelsTr" / f"c_{k:03d}.nii.gz", labels=True)
    volume(root / "imagesTs" / "t_001_0000.nii.gz", seed=90)
    volume(root / "imagesTs" / "t_001_0001.nii.gz", seed=91)
    table = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table))


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


def test_an_alias_is_no_second_volume(tmp_path):
    volume(tmp_path / "a" / "ct.nii.gz")
    (tmp_path / "a" / "again.nii.gz").symlink_to(tmp_path / "a" / "ct.nii.gz")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert find_volumes(tmp_path) == [tmp_path / "a" / "ct.nii.gz"]
