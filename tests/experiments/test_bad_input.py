"""Every mistake of the request: one clear line on stderr that names the file or key, exit code 2, no traceback."""

import gzip
import shutil

import numpy as np
import pytest

from datamodules.phantoms import chest14, lits, luna
from experiments.cli import main

FAST = ["trainer=cpu", "trainer.max_steps=1", "trainer.progress=false"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    lits.generate(root / "lits", subjects=4, seed=0, size=(40, 40, 24))
    luna.generate(root / "luna", subjects=3, seed=0, size=(48, 48, 40))
    chest14.generate(root / "chest14", subjects=8, seed=0)
    return root


@pytest.fixture
def copy_of(phantoms, tmp_path):
    def copy(name):
        shutil.copytree(phantoms / name, tmp_path / name)
        return tmp_path / name

    return copy


def refused(capsys, *words, code=2):
    assert main(words) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ssl-med: ")
    return lines[0]


def test_unknown_names_and_keys(capsys):
    assert "method 'pcrll' is unknown; did you mean 'pcrl'?" in refused(capsys, "pretrain", "method=pcrll", "data=luna")
    assert "data 'lunna' is unknown; did you mean 'luna'?" in refused(capsys, "pretrain", "method=pcrl", "data=lunna")
    assert "task 'litss' is unknown; did you mean 'lits'?" in refused(capsys, "finetune", "task=litss")
    line = refused(capsys, "pretrain", "method=moco", "data=luna", "method.temprature=1")
    assert line == "ssl-med: command line: key 'method.temprature' is unknown; did you mean 'temperature'?"
    assert "did you mean 'optim'?" in refused(capsys, "pretrain", "method=moco", "data=luna", "optm.lr=1")
    assert "method=NAME is missing" in refused(capsys, "pretrain", "data=luna")
    assert "did you mean 'pretrain'?" in refused(capsys, "pretrian")


def test_wrong_types_and_contradictions(capsys):
    base = ["pretrain", "method=moco", "data=luna"]
    assert "'trainer.max_steps' is 'many'; it must be a whole number" in refused(
        capsys, *base, "trainer.max_steps=many"
    )
    assert "'labels.fraction' is 0; it must be above 0" in refused(capsys, "finetune", "task=lits", "labels.fraction=0")
    assert "'method.temperature' is -1; it must be above 0" in refused(capsys, *base, "method.temperature=-1")
    assert refused(capsys, *base, "seed=-1") == "ssl-med: command line: 'seed' is -1; it must be at least 0"


def test_a_yaml_typo_names_the_yaml(capsys, tmp_path, monkeypatch):
    from experiments.config import sources as layers

    shutil.copytree(layers.CONF, tmp_path / "conf")
    monkeypatch.setattr(layers, "CONF", tmp_path / "conf")
    with (tmp_path / "conf/method/moco.yaml").open("a") as file:
        file.write("method:\n  temprature: 0.1\n")
    line = refused(capsys, "pretrain", "method=moco", "data=luna")
    assert "conf/method/moco.yaml: key 'method.temprature' is unknown; did you mean 'temperature'?" in line


@pytest.mark.slow
def test_missing_root_and_foreign_root(capsys, phantoms, tmp_path):
    base = ["pretrain", "method=simclr", "data=luna", *FAST]
    assert "data.root is missing" in refused(capsys, "check", "data=luna")
    assert "nowhere" in refused(capsys, *base, "data.root=nowhere")
    assert str(phantoms / "lits") in refused(capsys, *base, f"data.root={phantoms / 'lits'}", f"out={tmp_path / 'x'}")
    assert not (tmp_path / "x").exists(), "work started before the request was checked"


@pytest.mark.parametrize(("data", "size"), [("luna", "[30,32,16]"), ("chest14", "[50,64]")])
def test_patch_that_the_network_cannot_take(capsys, data, size):
    line = refused(capsys, "pretrain", "method=simclr", f"data={data}", *FAST, f"data.patch_size={size}")
    assert "data.patch_size" in line


def test_truncated_and_spoiled_volumes(capsys, copy_of, tmp_path):
    import nibabel

    root = copy_of("lits")
    words = ["finetune", "task=lits", "init=scratch", f"data.root={root}", *FAST, f"out={tmp_path / 'run'}"]
    for path in root.glob("volume-*"):
        if path.suffix == ".gz":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "volume-" in refused(capsys, *words)
    shutil.rmtree(root)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    root = copy_of("lits")
    for path in root.glob("volume-*"):
        image = nibabel.load(path)
        data = image.get_fdata(dtype=np.float32)
        data[3, 3, 3] = np.nan
        header = image.header.copy()
        header.set_data_dtype(np.float32)
        nibabel.save(nibabel.Nifti1Image(data, image.affine, header), path)
    line = refused(capsys, *words)
    assert "volume-" in line
    assert "nan" in line.lower()


def test_mask_of_another_shape(capsys, copy_of, tmp_path):
    import nibabel

    root = copy_of("lits")
    for path in root.glob("segmentation-*"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), path)
    line = refused(
        capsys, "finetune", "task=lits", "init=scratch", f"data.root={root}", *FAST, f"out={tmp_path / 'run'}"
    )
    assert "segmentation-" in line


def test_header_without_its_voxels(capsys, copy_of, tmp_path):
    root = copy_of("luna")
    for path in [*root.rglob("*.zraw"), *root.rglob("*.raw")]:
        path.unlink()
    line = refused(
        capsys, "pretrain", "method=simclr", "data=luna", f"data.root={root}", *FAST, f"out={tmp_path / 'r'}"
    )
    assert ".mhd" in line


def test_csv_without_a_column_and_absent_image(capsys, copy_of, tmp_path):
    root = copy_of("chest14")
    words = ["finetune", "task=chest14", f"data.root={root}", *FAST, f"out={tmp_path / 'run'}"]
    csv = next(root.glob("Data_Entry_2017*.csv"))
    text = csv.read_text()
    csv.write_text(text.replace("Finding Labels", "Findings", 1))
    line = refused(capsys, *words)
    assert csv.name in line
    assert "Finding Labels" in line
    csv.write_text(text)
    gone = sorted(root.glob("images/*.png"))[0]
    gone.unlink()
    assert gone.name in refused(capsys, *words)


def test_init_that_does_not_fit(capsys, phantoms, tmp_path):
    words = ["finetune", "task=lits", f"data.root={phantoms / 'lits'}", *FAST]
    assert "no such run folder or file" in refused(capsys, *words, f"init={tmp_path / 'none'}")
    (tmp_path / "empty").mkdir()
    assert "holds no backbone.safetensors" in refused(capsys, *words, f"init={tmp_path / 'empty'}")
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(gzip.compress(b"x" * 100))
    assert "junk.safetensors" in refused(capsys, *words, f"init={junk}")
    assert main(
        ["pretrain", "method=simclr", "data=chest14", f"data.root={phantoms / 'chest14'}", *FAST, "backbone.name=unet",
         "backbone.channels=[8,16,32]", "trainer.batch_size=4", f"out={tmp_path / 'images'}"]
    ) == 0  # fmt: skip
    capsys.readouterr()
    line = refused(capsys, *words, f"init={tmp_path / 'images'}")
    assert "2D" in line
    assert "3D" in line
