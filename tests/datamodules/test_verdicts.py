"""`ssl-med check` and training agree: over every planted input, what the one calls clean the other takes, and no more.

A row of `INPUTS`: a family of `small_folders.FAMILIES`, what is done to its folder, and the verdict of pretraining; `FINETUNED`
holds the verdicts of fine-tuning that differ. To add an input, add a row.
"""

import gzip
import os
import shutil

import numpy as np
import pytest
from small_folders import FAMILIES, doubled, linked, littered, nnunet, picture, upper, volume

from experiments.cli import main

CLEAN, ERROR = "clean", "error"
SETTINGS = {
    "luna": ["data.tissue_max=1"],
    "ms": ["data.modalities=[FLAIR,T1]"],
    "lidc": ["data.spacing_mm=null"],
    "images": ["data.labels=labels.csv", "data.label_columns=[x]", "data.class_names=[a,b]"],
}
FLAT = {"chest14", "images", "chexpert", "eyepacs", "bach", "shenzhen", "montgomery", "ichallenge_amd", "ichallenge_pm"}
FLAT |= {"busi", "fetal_planes"}


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def cut(pattern):
    def change(root):
        path = first(root, pattern)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def junk(pattern):
    return lambda root: first(root, pattern).write_bytes(b"no image at all " * 40)


def gone(pattern):
    return lambda root: first(root, pattern).unlink()


def beside(name, content=b"no image at all " * 40):
    """A file that no case needs."""

    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


def link_to_nothing(name):
    return lambda root: (root / name).symlink_to(root / "gone" / name)


def copied(pattern, name):
    return lambda root: shutil.copy(first(root, pattern), root / name)


def aliased(pattern, name):
    return lambda root: (root / name).symlink_to(first(root, pattern))


def odd_name(pattern, ending):
    return lambda root: first(root, pattern).rename(os.path.join(root, os.fsdecode(b"caf\xe9 \xff\n#1") + ending))


def appended(table, line):
    return lambda root: (root / table).open("a").write(line)


def emptied(root):
    shutil.rmtree(root)
    (root / "notes").mkdir(parents=True)
    picture(root / "notes" / "figure.png")
    volume(root / "notes" / "other.nii.gz")


def nan(root):
    import nibabel as nib

    path = first(root, "*.nii.gz")
    array = np.full((12, 12, 12), np.nan, np.float32)
    path.unlink()
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def no_value_below_zero(root):
    import nibabel as nib

    path = first(root, "*.nii.gz")
    path.unlink()
    nib.save(nib.Nifti1Image(np.random.default_rng(0).integers(0, 90, (12, 12, 12)).astype(np.int16), np.eye(4)), path)


def second_folder(root):
    case = first(root, "BraTS*")
    shutil.copytree(case, root / "x" / case.name)


def second_uid(root):
    (root / "x").mkdir()
    shutil.copy(first(root, "scan0*"), root / "x")


def nnunet_form(root):
    shutil.rmtree(root)
    nnunet(root, labels={"background": 0, "lesion": 1})


def deep(root):
    """Each case one folder deeper, in a folder of its batch."""
    for path in sorted(root.iterdir()):
        (root / "batch").mkdir(exist_ok=True)
        path.rename(root / "batch" / path.name)


INPUTS = {
    "lits volume cut": ("lits", cut("volume*"), ERROR),
    "lits volume junk": ("lits", junk("volume*"), ERROR),
    "lits mask cut": ("lits", cut("seg*"), CLEAN),  # pretraining reads no mask
    "lits mask gone": ("lits", gone("seg*"), CLEAN),
    "lits NaN": ("lits", lambda root: nan(root), CLEAN),  # the first file is a mask
    "lits second copy": ("lits", copied("volume-0*", "volume-00.nii.gz"), ERROR),
    "lits alias": ("lits", aliased("volume-0*", "volume-9.nii.gz"), CLEAN),
    "lits junk beside": ("lits", beside("other.nii.gz"), CLEAN),
    "lits table in another code": ("lits", beside("notes.csv", "a;b\nß".encode("utf-16")), CLEAN),
    "lits link to nothing": ("lits", link_to_nothing("volume-7.nii.gz"), ERROR),
    "lits batch on a disk that is gone": ("lits", link_to_nothing("batch2"), ERROR),
    "lits deeper": ("lits", deep, CLEAN),
    "lits none": ("lits", emptied, ERROR),
    "brats sequence gone": ("brats", gone("*t1c.nii.gz"), ERROR),
    "brats sequence cut": ("brats", cut("*t2w.nii.gz"), ERROR),
    "brats second folder": (
        "brats",
        lambda root: shutil.copytree(first(root, "BraTS*"), root / "x" / first(root, "BraTS*").name),
        ERROR,
    ),
    "ms sequence gone": ("ms", gone("T1.nii.gz"), ERROR),
    "ms mask gone": ("ms", gone("mask.nii.gz"), CLEAN),
    "ms NaN": ("ms", nan, ERROR),
    "msd file gone": ("msd", gone("imagesTr/c_1*"), ERROR),
    "msd file cut": ("msd", cut("imagesTr/c_1*"), ERROR),
    "msd not listed": ("msd", copied("imagesTr/c_1*", "imagesTr/c_9.nii.gz"), CLEAN),
    "msd table cut": ("msd", cut("dataset.json"), ERROR),
    "msd in nnU-Net's form": ("msd", nnunet_form, CLEAN),
    "msd none": ("msd", emptied, ERROR),
    "luna raw gone": ("luna", gone("*.raw"), ERROR),
    "luna raw cut": ("luna", cut("*.raw"), ERROR),
    "volumes cut": ("volumes", cut("*.nii.gz"), ERROR),
    "volumes no HU": ("volumes", no_value_below_zero, ERROR),
    "volumes odd name": ("volumes", odd_name("*.nii.gz", ".nii.gz"), CLEAN),
    "volumes odd name junk": (
        "volumes",
        lambda root: (odd_name("*.nii.gz", ".nii.gz")(root), junk("caf*")(root)),
        ERROR,
    ),
    "volumes plain gzip": ("volumes", beside("p0/again.nii.gz", gzip.compress(b"text")), ERROR),
    "candidates uid twice": (
        "candidates",
        lambda root: (root / "x").mkdir() or shutil.copy(first(root, "scan0*"), root / "x"),
        ERROR,
    ),
    "candidates row of no scan": ("candidates", appended("candidates.csv", "scan77,1,1,1,0\n"), CLEAN),
    "candidates bad row": ("candidates", appended("candidates.csv", "scan1,a,1,1,0\n"), ERROR),
    "lidc slice cut": ("lidc", cut("*.dcm"), ERROR),
    "lidc slice gone": ("lidc", gone("*1-003.dcm"), ERROR),
    "medmnist cut": ("medmnist", cut("*.npz"), ERROR),
    "medmnist second": ("medmnist", copied("x.npz", "y.npz"), ERROR),
    "chest14 image gone": ("chest14", gone("*.png"), ERROR),
    "chest14 image cut": ("chest14", cut("*.png"), ERROR),
    "chest14 image more": ("chest14", copied("images/*0_000.png", "images/99999999_000.png"), CLEAN),
    "chest14 unknown finding": ("chest14", appended("Data_Entry_2017.csv", "\n00000003_000.png,Flu,3"), ERROR),
    "chexpert image gone": ("chexpert", gone("*.jpg"), ERROR),
    "chexpert image junk": ("chexpert", junk("*.jpg"), ERROR),
    "eyepacs image gone": ("eyepacs", gone("*.jpeg"), ERROR),
    "eyepacs level": ("eyepacs", appended("trainLabels.csv", "1_right,9\n"), ERROR),
    "images row of no image": ("images", appended("labels.csv", "person9/9.png,a\n"), ERROR),
    "images junk": ("images", junk("*.png"), ERROR),
    "images not in the table": ("images", copied("*.png", "more.png"), CLEAN),
    "bach cut": ("bach", cut("*.tif"), ERROR),
    "shenzhen second copy": ("shenzhen", copied("*.png", "CHNCXR_0000_0.png"), ERROR),
    "montgomery junk": ("montgomery", junk("*.png"), ERROR),
    "ichallenge_amd junk": ("ichallenge_amd", junk("*.jpg"), ERROR),
    "ichallenge_pm other picture": ("ichallenge_pm", beside("readme.jpg"), CLEAN),
}
FINETUNED = {"lits mask cut": ERROR, "lits mask gone": ERROR, "lits NaN": ERROR}
INPUTS |= {
    f"{family} {change.__name__}": (family, change, CLEAN)
    for family in FAMILIES
    for change in (doubled, littered, linked, upper)
}
QUICK = ("lits mask gone", "lits link to nothing", "msd file gone", "images junk", "volumes odd name junk")
UNCURED = ("none", "table cut", "bad row", "unknown finding", "level", "medmnist", "batch on")  # nothing to leave out


def commands(family, root, *more):
    size = "[8,8]" if family in (*FLAT, "medmnist") else "[8,8,8]"
    words = [f"data={family}", f"data.root={root}", f"data.patch_size={size}", *SETTINGS.get(family, []), *more]
    if family in FLAT:
        words.append("data.image_size=8")
    return words


def pretrain(family, root, out, *more):
    words = commands(family, root, "trainer=cpu", "trainer.max_steps=1", "trainer.val_every_steps=0", *more)
    words += [
        "trainer.batch_size=4",
        "trainer.progress=false",
        "backbone.channels=[8,8,8]",
        f"out={out}",
        "tracking.wandb=off",
    ]
    if family != "medmnist":
        words.append("data.split_ratios=[1.0,0.0,0.0]")  # every case is read
    if family not in (*FLAT, "medmnist"):
        words.append("data.crops_per_volume=1")
    return main(["pretrain", "method=models_genesis", *words])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in INPUTS]
)
def test_check_says_what_pretraining_will_say(name, tmp_path, capsys):
    family, change, verdict = INPUTS[name]
    root = tmp_path / "root"
    FAMILIES[family](root)
    change(root)
    copies = any(
        word in name for word in ("second", "more", "listed", "in the table")
    )  # equal voxels are an error of their own
    checked = main(["check", *commands(family, root, "use=pretrain", f"out={tmp_path / 'c'}", "workers=0")])
    said = capsys.readouterr()
    trained = pretrain(family, root, tmp_path / "run")
    told = capsys.readouterr()
    assert (trained == 0) == (verdict == CLEAN), told.err
    assert checked == 0 or verdict == ERROR or copies, said.out
    assert checked != 0 or verdict == CLEAN, said.out
    assert "Traceback" not in said.err + told.err
    if verdict == ERROR and checked == 1 and not any(word in name for word in UNCURED):
        listed = tmp_path / "c" / "quarantine.txt"
        more = [f"data.quarantine={listed}", "data.quarantine_budget=0.9"]
        assert pretrain(family, root, tmp_path / "cured", *more) == 0, capsys.readouterr().err
        assert (
            main(["check", *commands(family, root, "use=pretrain", f"out={tmp_path / 'd'}", "workers=0", *more)]) == 0
        )
    if checked < 2:
        usable = next(line for line in said.out.splitlines() if line.startswith("usable: "))
        assert usable.endswith("(use=pretrain)")
        assert not usable.startswith("usable: 0 of") or verdict == ERROR


# of those whose classes are to be told apart, enough that some of each are left to train and to test on
CLASSES = {
    "luna",
    "images",
    "candidates",
    "eyepacs",
    "bach",
    "shenzhen",
    "montgomery",
    "ichallenge_amd",
    "ichallenge_pm",
    "busi",
    "fetal_planes",
}
TUNED = [
    name for name, (family, *_) in INPUTS.items() if family != "volumes" and not name.endswith((" doubled", " linked"))
]


def finetune(family, root, out, *more):
    words = commands(family, root, "trainer=cpu", "trainer.max_epochs=1", "trainer.patience=0", "trainer.select=last")
    words = [
        f"task={family}",
        "init=scratch",
        "backbone.name=unet",
        *words[1:],
        *more,
        f"out={out}",
        "tracking.wandb=off",
    ]
    words += ["trainer.batch_size=2", "trainer.progress=false", "backbone.channels=[8,8,8]", "task.pictures=[0,0,0,0]"]
    if family not in (*FLAT, "medmnist", "candidates", "luna"):
        words.append("data.crops_per_volume=1")
    return main(["finetune", *words])


@pytest.mark.slow
@pytest.mark.parametrize("name", TUNED)
def test_check_says_what_finetuning_will_say(name, tmp_path, capsys):
    family, change, verdict = INPUTS[name]
    verdict = FINETUNED.get(name, verdict)
    root = tmp_path / "root"
    FAMILIES[family](
        root, **({"count": 40 if family in ("eyepacs", "fetal_planes") else 12} if family in CLASSES else {})
    )
    change(root)
    split = [] if family == "medmnist" else ["data.split_ratios=[0.5,0.0,0.5]"]
    checked = main(["check", *commands(family, root, "use=finetune", f"out={tmp_path / 'c'}", "workers=0", *split)])
    said = capsys.readouterr()
    trained = finetune(family, root, tmp_path / "run", *split)
    told = capsys.readouterr()
    copies = any(word in name for word in ("second", "more", "listed", "in the table"))
    assert (trained == 0) == (verdict == CLEAN), told.err
    assert checked == 0 or verdict == ERROR or copies, said.out
    assert checked != 0 or verdict == CLEAN, said.out
    assert "Traceback" not in said.err + told.err


def test_the_use_decides_whether_a_mask_is_needed(tmp_path, capsys):
    root = tmp_path / "root"
    FAMILIES["lits"](root)
    first(root, "seg*").unlink()
    for use, code, usable in (("pretrain", 0, "4 of 4"), ("finetune", 1, "3 of 4"), ("auto", 1, "3 of 4")):
        words = commands("lits", root, f"out={tmp_path / use}", "workers=0", *([] if use == "auto" else [f"use={use}"]))
        assert main(["check", *words]) == code
        said = capsys.readouterr().out
        assert f"usable: {usable} cases (use={'finetune' if code else 'pretrain'})" in said
        if code:
            assert "volume-0.nii.gz: has no segmentation-0.nii[.gz]; add it or remove the volume" in said
            report = (tmp_path / use / "report.md").read_text()
            assert "has no segmentation-0.nii[.gz]; add it or remove the volume" in report
            assert str(root) not in report
    for path in root.glob("seg*"):
        path.unlink()
    assert (
        main(["check", *commands("lits", root, f"out={tmp_path / 'none'}", "workers=0")]) == 0
    )  # nothing to fine-tune on
    assert "usable: 4 of 4 cases (use=pretrain)" in capsys.readouterr().out
    assert main(["check", *commands("volumes", root, "use=finetune")]) == 2
    assert "volumes has no labels" in capsys.readouterr().err
