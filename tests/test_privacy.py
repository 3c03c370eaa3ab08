"""A patient's name in headers, in file names and in folders reaches no artefact that is shared; nothing is sent unasked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

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
@pytest.mark.figures
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


@pytest.mark.slow
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


EXCLUDE = {"volumes": ["data.exclude=[seg*]"], "lits": []}


def test_a_table_that_names_patients(tmp_path):
    """Ids of a table, and what a reader says of a file, stay out of the report."""
    root = lits.generate(tmp_path / "lits", subjects=3, seed=0, size=(24, 24, 24))
    (root / NAME).mkdir()
    (root / NAME / "scan.nii.gz").write_bytes(b"junk")
    (root / f"{NAME}.csv").write_text(f"file\nvolume-0.nii.gz\nvolume-1.nii.gz\nvolume-2.nii.gz\n{NAME}.nii.gz\n")
    # volumes need the file, LiTS does not
    for data, listed in (("volumes", f"{NAME}/scan.nii.gz\tunreadable"), ("lits", f"unused: {NAME}/scan.nii.gz")):
        out = tmp_path / f"out-{data}"
        assert main(["check", f"data={data}", f"data.root={root}", f"out={out}", "workers=0", *EXCLUDE[data]]) == 1
        assert leaks(out, besides=LOCAL) == []
        assert listed in (out / "quarantine.txt").read_text()
        assert f"unknown_id: {NAME}.nii.gz" in (out / "quarantine.txt").read_text()


# commands of argv[2], one after the other; each address that Python asks for or connects to becomes a line of argv[1]
WATCHED = """
import json, sys

lines = open(sys.argv[1], "w", buffering=1)

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        print(f"{event} {address if isinstance(address, str) else address[0]}", file=lines)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        print(f"{event} {arguments[0]}", file=lines)

sys.addaudithook(watch)
from experiments.cli import main

sys.exit(max(main(words) for words in json.loads(sys.argv[2])))
"""


def watched(server, tmp_path, *asked, fresh=False):
    """Runs commands whose W&B, and whose proxy to every other host, is `server`; the addresses that Python used.

    W&B's own process is no Python: what it sends arrives at the server. With `fresh` the imports are watched, too.
    """
    seen = tmp_path / "addresses.txt"
    words = [WATCHED, str(seen), json.dumps([[str(word) for word in words] for words in asked])]
    if fresh:
        environment = {**server.environment(), "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    else:
        done = commands.run(*words, function=commands.script, env=server.environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return seen.read_text().splitlines()


@pytest.fixture
def nodules(shared_phantom):
    root = shared_phantom("medmnist", subjects=100, seed=0)
    return [*TINY, f"data.root={root}", *WIDTHS]


@pytest.mark.slow
def test_offline_is_the_default_and_opens_no_connection(nodules, wandb_server, tmp_path):
    nodules = ["trainer=default" if word == "trainer=cpu" else word for word in nodules]  # trainer=cpu turns W&B off
    steps = ["trainer.max_steps=2", "trainer.accelerator=cpu", "optim.schedule=constant"]
    probed = [
        word for word in nodules if word.startswith(("data", "trainer=", "trainer.batch_size", "trainer.progress"))
    ]
    addresses = watched(
        wandb_server,
        tmp_path,
        ["pretrain", "method=rotation", "data=medmnist", *nodules, *steps, "out=pre"],
        ["finetune", "task=nodule2d", *nodules[:-1], *steps, "init=pre", "out=fine"],
        ["probe", "task=nodule2d", "protocol=knn", *probed, "init=pre", "trainer.accelerator=cpu", "out=probe"],
        ["report", "pre", "fine", "probe", "out=report"],
        ["sweep", "method=rotation", "data=medmnist", "out=sweep.yaml"],
        ["dashboard", "out=dashboard.json"],
        fresh=True,
    )
    for run in ("pre", "fine", "probe"):
        assert "wandb: offline" in (tmp_path / run / "config.yaml").read_text()
        assert len(list((tmp_path / run / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert wandb_server.connections == 0
    # W&B's own process on this machine is spoken to through a socket file
    assert [line for line in addresses if not line.startswith(f"socket.connect {os.sep}")] == []


@pytest.mark.slow
def test_online_reaches_the_server_and_the_guard_sees_it(nodules, wandb_server, tmp_path):
    words = ["pretrain", "method=rotation", "data=medmnist", *nodules, "trainer.max_steps=2", "out=pre"]
    watched(wandb_server, tmp_path, [*words, "tracking.wandb=online"])
    assert wandb_server.variables("UpsertBucket")[0]["tags"][:2] == ["pretrain", "method:rotation"]
    history = [json.loads(line) for line in wandb_server.lines["wandb-history.jsonl"]]
    assert any("train/accuracy" in line for line in history)
    assert wandb_server.connections > 0
    assert wandb_server.hosts == []
    told = json.dumps([wandb_server.operations, wandb_server.lines]) + str(wandb_server.files)
    assert str(tmp_path) not in told, "the folder of the data is a salted hash"


@pytest.mark.parametrize(
    ("setting", "mode", "expected"),
    [
        ("offline", None, "offline"),
        ("online", None, "online"),
        ("online", "offline", "offline"),
        ("online", "dryrun", "offline"),
        ("online", "disabled", "off"),
        ("offline", "disabled", "off"),
        ("off", "online", "off"),
        ("offline", "online", "offline"),  # the environment alone sends nothing
        ("online", "online", "online"),
    ],
)
def test_the_stricter_of_setting_and_wandb_mode_holds(setting, mode, expected, monkeypatch):
    from experiments.run.tracking import wandb_mode

    if mode is not None:
        monkeypatch.setenv("WANDB_MODE", mode)
    assert wandb_mode(setting) == expected


def test_a_disabled_wandb_writes_nothing_and_an_unknown_mode_is_one_line(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32)).astype(np.uint8)
        (root / f"{k}").mkdir(parents=True)
        Image.fromarray(pixels).save(root / f"{k}" / "a.png")
    words = ["pretrain", "method=models_genesis", "data=images", f"data.root={root}", "data.patch_size=[16,16]"]
    words += ["data.image_size=16", "trainer.max_steps=1", *WIDTHS, *TINY]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main([*words, "tracking.wandb=offline", f"out={tmp_path / 'run'}"]) == 0
    assert "W&B is off and not offline, as WANDB_MODE asks" in capsys.readouterr().out
    assert not (tmp_path / "run" / "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert main([*words, f"out={tmp_path / 'other'}"]) == 2
    assert "WANDB_MODE=sometimes: is no mode of W&B" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
