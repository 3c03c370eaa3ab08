"""`ssl-med plan` from data to settings, and `config=FILE`, which takes them to other commands."""

import numpy as np
import pytest

from datamodules.core.extent import Extent
from experiments.cli import main
from experiments.commands import plan as command
from experiments.config.data import compose_plan
from experiments.config.files import with_files
from experiments.config.run import compose_finetune
from ssl_med.spec import SslMedError
from ssl_med.yaml_text import parse


@pytest.fixture
def counted(monkeypatch):
    """A byte count that takes no time: 1 KiB a voxel."""
    monkeypatch.setattr(command, "_bytes", lambda asked, patch, topology, batch: 1024 * batch * int(np.prod(patch)))


def settings_of(lines):
    return dict(line.split("=", 1) for line in lines.splitlines() if not line.startswith("#"))


@pytest.fixture(scope="module")
def scans(shared_phantom):
    return shared_phantom("lits", subjects=8, size=(48, 48, 40))


def test_a_plan_of_scans_goes_into_a_file_and_from_there_into_a_run(scans, tmp_path, capsys, counted):
    file, words = tmp_path / "plan.yaml", ["task=lits", f"data.root={scans}"]
    assert main(["plan", *words, "memory=1GB", f"out={file}", "workers=1"]) == 0
    printed = capsys.readouterr().out
    found = settings_of(printed)
    # 1 GiB less the driver's half, of it 90 %: 230 patches of 2 x 1 KiB x 1024 voxels; 5 scans of about 48 x 48 x 40
    assert found["data.patch_size"] == "[48,48,40]"
    assert found["trainer.batch_size"] == "2"
    spacing = parse(found["data.spacing_mm"])
    assert spacing == pytest.approx([174 / 48, 174 / 48, 128 / 40], rel=0.07)
    assert -200 < float(found["data.intensity_low"]) < float(found["data.intensity_high"]) < 300
    assert found["backbone.name"] == "plainconv"
    assert found["backbone.strides"] == "[[1,1,1],[2,2,2],[2,2,2],[2,2,2]]"
    assert f"ssl-med finetune task=lits config={file}" in printed
    # what is typed wins over the file
    line = with_files("finetune", [*words, f"config={file}", "trainer.batch_size=5"], ["data"])
    run = compose_finetune(line)
    assert run.trainer.batch_size == 5
    assert run.data.patch_size == (48, 48, 40)
    assert run.data.spacing_mm == tuple(spacing)
    assert run.backbone.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert run.backbone.features == (32, 64, 128, 256)
    # the printed words, pasted, are the same run
    assert compose_finetune([*words, *printed_words(printed)]).data == compose_finetune(
        with_files("finetune", [*words, f"config={file}"], ["data"])
    ).data  # fmt: skip


def printed_words(printed):
    return [line for line in printed.splitlines() if not line.startswith("#")]


def test_a_store_gives_the_same_plan_and_what_the_user_sets_stays(scans, tmp_path, capsys, counted):
    words = ["plan", "task=lits", f"data.root={scans}", "memory=1GB", "workers=1"]
    main(words)
    from_files = capsys.readouterr().out
    assert main(["prepare", "data=lits", f"data.root={scans}", f"store={tmp_path / 's'}", "workers=1"]) == 0
    capsys.readouterr()
    for _ in range(2):  # measured, then remembered
        assert main([*words, f"data.store={tmp_path / 's'}"]) == 0
        assert capsys.readouterr().out == from_files
    given = {"data.spacing_mm": "[4.0,4.0,4.0]", "data.intensity_low": "-100.0", "trainer.batch_size": "3"}
    assert main([*words, *(f"{key}={value}" for key, value in given.items()), "backbone=resenc"]) == 0
    found = settings_of(capsys.readouterr().out)
    assert given.items() <= found.items()
    assert found["backbone.name"] == "resenc"
    assert found["data.patch_size"] == "[48,48,32]"  # 174 / 4 = 43.5, 128 / 4 = 32; halved three times


def test_a_plan_of_images(shared_phantom, capsys, counted):
    root = shared_phantom("montgomery", subjects=8)
    assert main(["plan", "task=montgomery_lungs", f"data.root={root}", "memory=1GB", "workers=1"]) == 0
    found = settings_of(capsys.readouterr().out)
    size, patch = int(found["data.image_size"]), parse(found["data.patch_size"])
    assert len(patch) == 2
    assert max(patch) <= size
    assert "data.spacing_mm" not in found
    assert "data.intensity_low" not in found
    run = compose_finetune(["task=montgomery_lungs", f"data.root={root}", *(f"{k}={v}" for k, v in found.items())])
    assert run.data.image_size == size


def test_intensities_of_ct_and_of_mr():
    """1000 voxels 0..999 in each of two scans: percentiles at 0.005 and 0.995 of 0..999."""
    foreground = np.arange(1000.0)[None]
    scans = [Extent((1.0, 1.0, 1.0), (64, 64, 64), foreground)] * 2
    asked = compose_plan(["task=lits", "memory=64GB"])
    data = {}
    (said,) = command._intensity(asked, scans, data)
    limits = {"intensity_low": pytest.approx(4.5, abs=0.6), "intensity_high": pytest.approx(994.5, abs=0.6)}
    assert data == {**limits, "normalisation": "dataset", "intensity_mean": 499.5, "intensity_sd": 288.67}
    assert "mean of 499.5 and over its deviation of 288.67" in said
    asked, data = compose_plan(["task=lits", "memory=64GB", "data.normalisation=unit"]), {}
    command._intensity(asked, scans, data)
    assert data == {**limits, "normalisation": "unit"}
    asked = compose_plan(["task=brats", "memory=64GB"])
    for share, wanted in ((0.9, "zscore"), (0.7, "zscore_nonzero")):
        data = {}
        command._intensity(asked, [Extent((1.0, 1.0, 1.0), (64, 64, 64), foreground[:, :0], share)] * 2, data)
        assert data == {"normalisation": wanted}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task=nodule2d"], "task=nodule2d: has no masks; a plan is for segmentation"),
        (["task=lits", "memory=24"], "memory=24: is no amount of memory; say memory=24GB"),
        (
            ["task=lits", "backbone=unet"],
            "backbone=unet: a plan decides kernels, strides and widths of plainconv or resenc",
        ),
        (["task=lits", "backbone.features=[8,8]"], "a plan decides kernels"),
    ],
)
def test_bad_requests_of_a_plan(words, message):
    with pytest.raises(SslMedError) as error:
        compose_plan(words)
    assert message in str(error.value)


def test_bad_files_of_settings(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("seed: 3\n")
    good = tmp_path / "good.yaml"
    good.write_text("backbone: {name: plainconv}\ndata: {patch_size: [8, 8, 8]}\n")
    for command_name, words, message in (
        ("finetune", [f"config={tmp_path}/none.yaml"], "no such file; `ssl-med plan ... out=FILE` writes one"),
        ("finetune", [f"config={wrong}"], "'seed' must be a section of settings"),
        ("finetune", [f"config={good}", f"config={good}"], "'config' is given twice"),
        ("finetune", [f"config={good}", "backbone=unet"], "leave one of them out"),
        ("compare", [f"config={good}"], "config=FILE is for pretrain, finetune, probe, features, prepare"),
    ):
        with pytest.raises(SslMedError) as error:
            with_files(command_name, words, ["data"])
        assert message in str(error.value)
    assert with_files("prepare", [f"config={good}"], ["data"]) == ["data.patch_size=[8,8,8]"]


@pytest.mark.slow
def test_the_bytes_of_a_real_network_decide(scans, capsys):
    sizes = {}
    for memory in ("2GB", "3GB"):
        assert main(["plan", "task=lits", f"data.root={scans}", f"memory={memory}", "workers=1"]) == 0
        sizes[memory] = int(np.prod(parse(settings_of(capsys.readouterr().out)["data.patch_size"])))
    assert sizes["2GB"] <= sizes["3GB"] <= 48 * 48 * 40, sizes
    with pytest.raises(SslMedError, match="give more memory"):
        command.plan(["task=lits", f"data.root={scans}", "memory=500MB", "workers=1"])
