"""Small data sets of every family in their true layouts, and what happens to folders on people's disks."""

import json
import shutil

import nibabel as nib
import numpy as np
from PIL import Image

from datamodules.bach import BachData
from datamodules.brats import BratsConfig, BratsData
from datamodules.busi import BusiConfig, BusiData
from datamodules.candidates import CandidatesConfig, CandidatesData
from datamodules.chest14 import Chest14Data
from datamodules.chexpert import OBSERVATIONS, CheXpertConfig, CheXpertData
from datamodules.core.images2d import ImageConfig2D, TableConfig
from datamodules.eyepacs import EyePacsData
from datamodules.fetal_planes import PLANES, FetalPlanesData
from datamodules.ichallenge_amd import IChallengeAmdData
from datamodules.ichallenge_pm import IChallengePmData
from datamodules.images import ImagesConfig, ImagesData
from datamodules.lidc import LidcConfig, LidcData
from datamodules.lits import LitsConfig, LitsData
from datamodules.luna import LunaConfig, LunaData
from datamodules.medmnist import MedMNISTConfig, MedMNISTData
from datamodules.monai import MonaiConfig, MonaiData
from datamodules.montgomery import MontgomeryConfig, MontgomeryData
from datamodules.ms import MsConfig, MsData
from datamodules.msd import MsdConfig, MsdData
from datamodules.phantoms._dicom import write_series
from datamodules.phantoms.lidc import READERS
from datamodules.phantoms.lidc import _message as message
from datamodules.shenzhen import ShenzhenData
from datamodules.volumes import VolumesConfig, VolumesData

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
    Image.fromarray(pixels).save(path, {".tif": "TIFF", ".png": "PNG", ".bmp": "BMP"}.get(path.suffix.lower(), "JPEG"))
    return path


def data_of(family, config, name, root, *, labelled=False, only_test="", **settings):
    if name in ("lits", "brats", "luna", "ms", "msd", "monai", "volumes", "candidates", "lidc"):
        settings = {"patch_size": (8, 8, 8), **settings}
    made = config(name=name, root=str(root), **settings)
    return family(made, labelled=labelled, batch_size=1, only_test=only_test)


def cases(data):
    return list(data.cases())


def lits(root, count=4):
    for k in range(count):
        volume(root / f"volume-{k}.nii.gz", seed=k)
        volume(root / f"segmentation-{k}.nii.gz", labels=True)
    return data_of(LitsData, LitsConfig, "lits", root)


def brats(root, style="BraTS-GLI-{:05d}-{:03d}", sep="-", sequences=("t2f", "t1n", "t1c", "t2w", "seg")):
    for k, (patient, time) in enumerate([(0, 0), (0, 1), (1, 0), (2, 0)]):
        case = style.format(patient, time)
        for name in sequences:
            volume(root / case / f"{case}{sep}{name}.nii.gz", seed=10 * k + sequences.index(name), labels=name == "seg")
    return data_of(BratsData, BratsConfig, "brats", root)


def chest14(root, count=4):
    rows = ["Image Index,Finding Labels,Patient ID"]
    for k in range(count):
        picture(root / "images" / f"{k:08d}_000.png", k)
        rows.append(f"{k:08d}_000.png,No Finding,{k}")
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows))
    return data_of(Chest14Data, Chest14Data.Config, "chest14", root)


def luna(root, count=4):
    for k in range(count):
        place = root / f"subset{k}"
        place.mkdir(parents=True)
        header = "NDims = 3\nDimSize = 12 12 12\nElementType = MET_SHORT\nElementSpacing = 1 1 1\nOffset = 0 0 0\n"
        (place / f"1.2.{k}.mhd").write_text(
            f"{header}TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = 1.2.{k}.raw\n"
        )
        (place / f"1.2.{k}.raw").write_bytes(
            np.random.default_rng(k).integers(-900, 900, SIDE**3).astype(np.int16).tobytes()
        )
    rows = "".join(f"1.2.{k},6,6,6,{k % 2}\n" for k in range(count))
    (root / "candidates_V2.csv").write_text("seriesuid,coordX,coordY,coordZ,class\n" + rows)
    return data_of(LunaData, LunaConfig, "luna", root, tissue_max=1.0)


def ms(root, count=4):
    for k in range(count):
        for number, name in enumerate(("FLAIR", "T1")):
            volume(root / f"p{k}" / f"{name}.nii.gz", seed=10 * k + number)
        volume(root / f"p{k}" / "mask.nii.gz", labels=True)
    return data_of(MsData, MsConfig, "ms", root, modalities=("FLAIR", "T1"))


def msd(root, count=4):
    rows = []
    for k in range(count):
        volume(root / "imagesTr" / f"c_{k}.nii.gz", seed=k)
        volume(root / "labelsTr" / f"c_{k}.nii.gz", labels=True)
        rows.append({"image": f"./imagesTr/c_{k}.nii.gz", "label": f"./labelsTr/c_{k}.nii.gz"})
    table = {"modality": {"0": "CT"}, "labels": {"0": "b", "1": "a"}, "training": rows, "test": []}
    (root / "dataset.json").write_text(json.dumps(table))
    return data_of(MsdData, MsdConfig, "msd", root)


def medmnist(root):
    root.mkdir(parents=True)
    arrays = {
        f"{part}_images": np.random.default_rng(len(part)).integers(0, 256, (4, 8, 8), np.uint8)
        for part in ("train", "val", "test")
    }
    np.savez(
        root / "x.npz",
        **arrays,
        **{f"{part}_labels": np.array([[0], [1], [0], [1]]) for part in ("train", "val", "test")},
    )
    return data_of(MedMNISTData, MedMNISTConfig, "medmnist", root)


def images(root, count=4):
    for k in range(count):
        picture(root / f"person{k}" / f"{k}.png", k)
    (root / "labels.csv").write_text("file,x\n" + "".join(f"person{k}/{k}.png,{'ab'[k % 2]}\n" for k in range(count)))
    settings = {"labels": "labels.csv", "label_columns": ("x",), "class_names": ("a", "b")}
    return data_of(ImagesData, ImagesConfig, "images", root, **settings)


def volumes(root, count=4):
    for k in range(count):
        volume(root / f"p{k}" / "ct.nii.gz", seed=k)
    return data_of(VolumesData, VolumesConfig, "volumes", root)


def candidates(root, count=4):
    for k in range(count):
        volume(root / f"scan{k}.nii.gz", seed=k)
    (root / "candidates.csv").write_text(
        "uid,x,y,z,label\n" + "".join(f"scan{k},6,6,6,{k % 2}\n" for k in range(count))
    )
    return data_of(CandidatesData, CandidatesConfig, "candidates", root)


def lidc(root, count=4):
    for k in range(count):
        array = np.random.default_rng(k).integers(-900, 900, (SIDE, SIDE, 6)).astype(np.int16)
        place = root / f"LIDC-IDRI-{k + 1:04d}" / "study" / "series"
        uid = f"2.25.{10 + k}"
        files = write_series(place, array, spacing=(1, 1, 1), origin=(0, 0, 0), series=uid, patient=f"{k}")
        nodule = np.zeros(array.shape, bool)
        nodule[4:9, 4:9, 2:4] = True
        (place / "1.xml").write_bytes(message(uid, files, np.arange(6.0), [[nodule]] * READERS))
    return data_of(LidcData, LidcConfig, "lidc", root, spacing_mm=None)


def named_pictures(family, name, pattern, config=ImageConfig2D):
    """A family of images that are known by their names; `pattern` makes the name of number k and class c of its own."""

    def make(root, count=4):
        for k in range(count):
            folder, letter = ("Normal", "Benign", "InSitu", "Invasive")[k % 4], "NA"[k % 2]
            picture(root / pattern.format(k=k, c=k % 2, folder=folder, letter=letter, kind="NP"[k % 2]), k)
        return data_of(family, config, name, root)

    return make


def chexpert(root, count=4):
    rows = [",".join(["Path", *OBSERVATIONS])]
    for k in range(count):
        place = f"train/patient{k:05d}/study1/view1_frontal.jpg"
        picture(root / place, k)
        rows.append(",".join([f"CheXpert-v1.0-small/{place}", *(["0.0"] * len(OBSERVATIONS))]))
    (root / "train.csv").write_text("\n".join(rows))
    return data_of(CheXpertData, CheXpertConfig, "chexpert", root)


def eyepacs(root, count=4):
    for k in range(count):
        picture(root / "train" / f"{k}_left.jpeg", k)
    (root / "trainLabels.csv").write_text("image,level\n" + "".join(f"{k}_left,{k % 5}\n" for k in range(count)))
    return data_of(EyePacsData, TableConfig, "eyepacs", root)


def busi(root, count=6):
    for k in range(count):
        kind = ("normal", "benign", "malignant")[k % 3]
        picture(root / kind / f"{kind} ({k}).png", k)
    return data_of(BusiData, BusiConfig, "busi", root)


def fetal_planes(root, count=6):
    lines = ["Image_name;Patient_num;Plane"]
    for k in range(count):
        picture(root / "Images" / f"Patient{k}_Plane1_1_of_1.png", k)
        lines.append(f"Patient{k}_Plane1_1_of_1;{k};{PLANES[k % 6]}")
    (root / "FETAL_PLANES_DB_data.csv").write_text("\n".join(lines) + "\n")
    return data_of(FetalPlanesData, TableConfig, "fetal_planes", root)


def monai(root, count=5):
    rows = []
    for k in range(count):
        volume(root / "scans" / f"{k}.nii.gz", seed=k)
        volume(root / "masks" / f"{k}.nii.gz", labels=True)
        rows.append({"image": f"scans/{k}.nii.gz", "label": f"masks/{k}.nii.gz"})
    (root / "datalist.json").write_text(json.dumps({"labels": {"0": "background", "1": "a"}, "training": rows}))
    return data_of(MonaiData, MonaiConfig, "monai", root)


FAMILIES = {f.__name__: f for f in (lits, brats, chest14, luna, ms, msd, monai, medmnist, images, volumes)}
FAMILIES |= {f.__name__: f for f in (candidates, lidc, chexpert, eyepacs, busi, fetal_planes)}
FAMILIES |= {
    "bach": named_pictures(BachData, "bach", "{folder}/n{k}.tif"),
    "shenzhen": named_pictures(ShenzhenData, "shenzhen", "CXR_png/CHNCXR_{k:04d}_{c}.png"),
    "montgomery": named_pictures(MontgomeryData, "montgomery", "CXR_png/MCUCXR_{k:04d}_{c}.png", MontgomeryConfig),
    "ichallenge_amd": named_pictures(IChallengeAmdData, "ichallenge_amd", "{letter}{k:04d}.jpg"),
    "ichallenge_pm": named_pictures(IChallengePmData, "ichallenge_pm", "{kind}{k:04d}.jpg"),
}


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


def nnunet(root, *, labels, separate=2):
    for k in range(4):
        for channel in range(separate):
            volume(root / "imagesTr" / f"c_{k:03d}_{channel:04d}.nii.gz", seed=10 * k + channel)
        volume(root / "labelsTr" / f"c_{k:03d}.nii.gz", labels=True)
    volume(root / "imagesTs" / "t_001_0000.nii.gz", seed=90)
    volume(root / "imagesTs" / "t_001_0001.nii.gz", seed=91)
    table = {"channel_names": {"0": "T1", "1": "T2"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(table))
