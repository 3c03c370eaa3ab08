"""A patient's name in headers, in file names and in folders reaches no artefact that is shared."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datamodules.lits import LitsConfig, LitsData
from datamodules.phantoms import brats, lits
from experiments.cli import main

NAME = "Doe^Jane"
SPELLED = (NAME, "Doe_Jane", "Doe%5EJane", "Doe Jane", "Jane Doe")  # three letters alone occur in any picture
TINY = ["trainer=cpu", "trainer.progress=false", "trainer.log_every=1", "trainer.batch_size=2", "backbone.name=unet"]
VOLUME = ["data.patch_size=[16,16,16]", "data.crops_per_volume=2", "trainer.max_steps=2", "tracking.wandb=offline"]
WIDTHS = ["backbone.channels=[8,8,16]"]
LOCAL = ("quarantine.txt",)  # tells the user which files to repair; its first lines say so


def rename(root):
    """Cases of one's own in the layout of BraTS: folder and files are called like the patient."""
    for number, folder in enumerate(sorted(path for path in root.iterdir() if path.is_dir())):
        new = root / f"{NAME}_{number}"
        folder.rename(new)
        for path in new.iterdir():
            path.rename(new / path.name.replace(folder.name, new.name))


def mark(root):
    for path in root.rglob("*.nii.gz"):
        image = nib.load(path)
        header = image.header.copy()
        header["descrip"] = NAME.encode()
        header["db_name"] = NAME.encode()
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, header), path)


def leaks(folder, *, besides=()):
    """Files whose name or content holds the name."""
    found = []
    for path in folder.rglob("*"):
        if any(name in path.relative_to(folder).as_posix() for name in SPELLED):
            found.append(f"name of {path}")
        if path.is_file() and path.name not in besides:
            content = path.read_bytes()
            found += [f"{name} in {path}" for name in SPELLED if name.encode() in content]
    return found


@pytest.fixture(autouse=True)
def wandb_as_a_user_has_it(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)


def everything(root, task, out):
    """Pretraining, fine-tuning, report and check of one folder."""
    assert main(["pretrain", "method=models_genesis", f"data={task}", *VOLUME, *TINY, *WIDTHS, f"data.root={root}",
                 f"out={out / 'pre'}"]) == 0  # fmt: skip
    assert main(["finetune", f"task={task}", *VOLUME, *TINY, f"data.root={root}", f"init={out / 'pre'}",
                 f"out={out / 'fine'}"]) == 0  # fmt: skip
    assert main(["report", str(out), f"out={out / 'report'}"]) == 0
    return main(["check", f"data={task}", f"data.root={root}", f"out={out / 'check'}", "workers=0"])


@pytest.mark.slow
def test_names_in_headers_and_below_the_root(tmp_path, capsys):
    root = brats.generate(tmp_path / "data", subjects=6, seed=0, size=(32, 32, 24))
    rename(root)
    mark(root)
    out = tmp_path / "out"
    everything(root, "brats", out)
    assert leaks(out, besides=LOCAL) == []
    assert all(list((out / run).glob("wandb/offline-run-*/*.wandb")) for run in ("pre", "fine"))
    cases = (out / "fine" / "test_cases.csv").read_text().splitlines()[1:]
    assert cases
    assert all(line.startswith("case-") for line in cases)
    assert NAME not in capsys.readouterr().out


def test_names_in_the_root_stay_in_config_yaml(tmp_path):
    root = lits.generate(tmp_path / NAME / "lits", subjects=6, seed=0, size=(32, 32, 24))
    mark(root)
    data = LitsData(LitsConfig(name="lits", root=str(root)), labelled=True, batch_size=1)
    data.setup()
    path = Path(data.parts["train"][0].images[0])
    path.write_bytes(path.read_bytes()[:2000])  # a fault, so that the check has something to name
    out = tmp_path / "out"
    quarantine = root / "q.txt"
    quarantine.write_text(f"{path.name}\ttruncated: damaged\n")
    words = [f"data.quarantine={quarantine}", "data.quarantine_budget=0.5"]
    assert main(["pretrain", "method=models_genesis", "data=lits", *VOLUME, *TINY, *WIDTHS, f"data.root={root}",
                 f"out={out / 'pre'}", *words]) == 0  # fmt: skip
    assert main(["finetune", "task=lits", *VOLUME, *TINY, f"data.root={root}", f"init={out / 'pre'}",
                 f"out={out / 'fine'}", *words]) == 0  # fmt: skip
    assert main(["report", str(out), f"out={out / 'report'}"]) == 0
    assert main(["check", "data=lits", f"data.root={root}", f"out={out / 'check'}", "workers=0"]) == 1
    own = {"config.yaml"}  # of the run; W&B's copy lies below wandb and must be clean
    assert leaks(out, besides=(*LOCAL, *own)) == []
    for run in ("pre", "fine"):
        assert list((out / run).glob("wandb/offline-run-*/*.wandb"))
        assert leaks(out / run / "wandb") == []
        assert NAME in (out / run / "config.yaml").read_text()
    report = (out / "check" / "report.md").read_text()
    assert path.name.removesuffix(".nii.gz") in report  # a name that LiTS published
    assert f"{path.name}\ttruncated" in (out / "check" / "quarantine.txt").read_text()


def test_a_table_that_names_patients(tmp_path):
    """Ids of a table, and what a reader says of a file, stay out of the report."""
    root = lits.generate(tmp_path / "lits", subjects=3, seed=0, size=(24, 24, 24))
    (root / NAME).mkdir()
    (root / NAME / "scan.nii.gz").write_bytes(b"junk")
    (root / f"{NAME}.csv").write_text(f"file\nvolume-0.nii.gz\nvolume-1.nii.gz\nvolume-2.nii.gz\n{NAME}.nii.gz\n")
    out = tmp_path / "out"
    assert main(["check", "data=lits", f"data.root={root}", f"out={out}", "workers=0"]) == 1
    assert leaks(out, besides=LOCAL) == []
    listed = (out / "quarantine.txt").read_text()
    assert f"{NAME}/scan.nii.gz\tunreadable" in listed
    assert f"{NAME}.nii.gz\tabsent" in listed
