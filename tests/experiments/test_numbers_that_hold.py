"""Values that are NaN, batches that cannot teach and validation parts that cannot choose: one line each, and no result."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.core.content import content_key
from experiments.cli import main
from experiments.config.run import compose_pretrain
from ssl_med.evaluation.features import Features
from ssl_med.evaluation.protocols.core.choice import check_choice
from ssl_med.finite import NotFiniteError, check_tensors, first_bad
from ssl_med.methods.core.measures import collapse
from ssl_med.methods.moco import MoCo
from ssl_med.spec import DataSpec, SslMedError

TINY = [
    "trainer=cpu", "trainer.progress=false", "trainer.batch_size=8", "trainer.log_every=1", "backbone.channels=[8,8,16]",
    "trainer.val_every_steps=2", "trainer.precision=32", "task.pictures=[0,0,0,0]",
]  # fmt: skip
PRETRAIN = [word for word in TINY if not word.startswith("task")]


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Images of two classes; `one` has a validation part of one class alone."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for name, positives in (("both", 6), ("one", 0)):
        arrays = {}
        for part, count, ones in (("train", 24, 12), ("val", 12, positives), ("test", 16, 8)):
            label = np.zeros((count, 1), np.uint8)
            label[:ones] = 1
            image = rng.integers(0, 120, (count, 32, 32)).astype(np.uint8)
            image[label[:, 0] == 1, 8:20, 8:20] += 120
            arrays |= {f"{part}_images": image, f"{part}_labels": label}
        (folder / name).mkdir()
        np.savez(folder / name / "d.npz", **arrays)
    return folder


def refused(capsys, *words, code=2):
    assert main([str(word) for word in words]) == code
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ssl-med: ")]
    return line


# --- a validation part of one class -------------------------------------------------------------------------------


def test_a_validation_part_of_one_class_chooses_nothing(squares, tmp_path, capsys):
    base = ["task=nodule2d", f"data.root={squares / 'one'}"]
    line = refused(
        capsys, "finetune", *base, *TINY, "trainer.max_steps=4", "trainer.monitor=val/auc", f"out={tmp_path / 'f'}"
    )
    assert line.startswith("ssl-med: trainer.monitor=val/auc is not defined: all 12 validation samples are '")
    assert line.endswith("set trainer.monitor=val/loss")
    probe = [word for word in TINY if "val_every" not in word and "log_every" not in word]
    for protocol in ("linear", "knn"):
        line = refused(capsys, "probe", f"protocol={protocol}", *base, *probe, f"out={tmp_path / protocol}")
        assert f"protocol={protocol} has nothing to choose its settings by: all 12 validation samples are" in line
    assert not list(tmp_path.iterdir()), "before work starts"


def test_labels_that_cannot_choose_are_refused_wherever_settings_are_chosen():
    spec = DataSpec("x", 2, 1, (8, 8), target="class", class_names=("a", "b"))
    check_choice(spec, torch.tensor([1, 1]), 1)
    check_choice(spec, torch.tensor([0, 1]), 5)
    with pytest.raises(SslMedError, match="the 2 validation samples are all 'b'"):
        check_choice(spec, torch.tensor([1, 1]), 2)
    spec = DataSpec("x", 2, 1, (8, 8), target="multilabel", class_names=("a", "b"))
    check_choice(spec, torch.tensor([[1.0, 0.0], [0.0, torch.nan]]), 2)
    with pytest.raises(SslMedError, match="no finding has both labels among the 2 validation samples"):
        check_choice(spec, torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]), 2)


# --- NaN ----------------------------------------------------------------------------------------------------------


def test_a_last_step_that_spoils_the_weights_ends_without_a_backbone(squares, tmp_path, monkeypatch, capsys):
    from ssl_med.methods.simclr import SimCLR

    def spoil(self):
        if self.global_step >= 2:  # of the last of three steps
            with torch.no_grad():
                next(self.backbone.parameters()).fill_(torch.nan)

    monkeypatch.setattr(SimCLR, "after_step", spoil)
    words = ["pretrain", "method=simclr", "data=medmnist", f"data.root={squares / 'both'}", *PRETRAIN]
    line = refused(capsys, *words, "trainer.max_steps=3", f"out={tmp_path / 'run'}", code=1)
    assert "the weights are not finite after step 3 (backbone." in line
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    for checkpoint in (tmp_path / "run").glob("*.ckpt"):
        assert not first_bad(torch.load(checkpoint, weights_only=True)["state_dict"]), checkpoint


def test_weights_that_hold_nan_start_nothing(squares, tmp_path, capsys):
    words = ["pretrain", "method=simclr", "data=medmnist", f"data.root={squares / 'both'}", *PRETRAIN]
    assert main([*words, "trainer.max_steps=2", f"out={tmp_path / 'run'}"]) == 0
    good = tmp_path / "run" / "backbone.safetensors"
    from safetensors import safe_open

    with safe_open(good, "pt") as file:
        card = file.metadata()
    tensors = load_file(good)
    name = next(key for key in tensors if tensors[key].is_floating_point())
    tensors[name].view(-1)[0] = torch.inf
    bad = tmp_path / "bad.safetensors"
    shutil.copy(good, bad)
    save_file(tensors, bad, metadata=card)
    base = ["task=nodule2d", f"data.root={squares / 'both'}", f"init={bad}"]
    probe = [word for word in TINY if "val_every" not in word and "log_every" not in word and "backbone" not in word]
    tuned = [word for word in TINY if "backbone" not in word]
    capsys.readouterr()
    probes = (["probe", *probe, f"protocol={protocol}"] for protocol in ("knn", "fewshot"))
    for command in (["finetune", *tuned, "trainer.max_steps=2"], *probes):
        line = refused(capsys, *command, *base, f"out={tmp_path / 'x'}")
        assert f"{bad}: tensor {name} holds NaN or infinity" in line
    assert not (tmp_path / "x").exists()


def test_features_and_monitors():
    x = torch.zeros(3, 2)
    x[1, 0] = torch.nan
    with pytest.raises(NotFiniteError, match=r"the features of b hold NaN or infinity \(1 of 3 samples\)"):
        Features(("a", "b", "c"), x, torch.zeros(3, dtype=torch.long))
    assert all(value.isnan() for key, value in collapse(x).items() if key != "collapse/feature_std")
    with pytest.raises(NotFiniteError, match="file: tensor w holds"):
        check_tensors({"n": torch.tensor(3), "v": torch.ones(2), "w": x}, "file")
    assert first_bad({"half": torch.full((4,), 6e4, dtype=torch.float16)}) == ""  # large is not infinite


# --- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "size", "line"),
    [
        ("simclr", 1, "trainer.batch_size is 1; SimCLR compares the images of a batch: give at least 2"),
        ("exemplar", 1, "trainer.batch_size is 1; Exemplar compares the images of a batch"),
        ("swav", 1, "trainer.batch_size is 1; SwAV compares the images of a batch"),
        ("byol", 1, "trainer.batch_size is 1; "),
        ("relative_position", 1, "trainer.batch_size is 1; RelativePosition normalises features over the batch"),
        ("deep_cluster/v2", 1, "trainer.batch_size is 1; "),
        (
            "simclr",
            32,
            "trainer.batch_size is 32, but there are 24 training samples: an image would be in a batch twice",
        ),
        ("cpc", 32, "its own negative; set trainer.batch_size=24 or less"),
    ],
)
def test_a_batch_that_cannot_teach_is_one_line(squares, tmp_path, capsys, method, size, line):
    words = [word for word in PRETRAIN if "batch_size" not in word]
    words = [f"method={method}", "data=medmnist", f"data.root={squares / 'both'}", *words, f"trainer.batch_size={size}"]
    assert line in refused(capsys, "pretrain", *words, "trainer.max_steps=2", f"out={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


def test_a_batch_above_the_data_and_keys_of_the_own_image_are_told(squares):
    config = compose_pretrain(["method=moco", "data=medmnist", f"data.root={squares / 'both'}", *PRETRAIN])
    method = MoCo(MoCo.Config(queue=64, out_dim=8), spec=config.spec, backbone=config.backbone)
    assert method.check_batch_size(8, 100) == []
    assert method.check_batch_size(8, 24) == [
        "method.queue=64 is above the 24 training samples: former keys of an image are among its negatives"
    ]
    assert method.check_batch_size(32, 24)[0].startswith("trainer.batch_size=32 is above the 24 training samples")


# --- features are those of these images and labels ----------------------------------------------------------------


@pytest.mark.parametrize("what", ["images", "labels"])
def test_features_of_another_content_are_not_taken_from_the_cache(squares, tmp_path, what):
    """Same names, size, times: only an image or a label differs."""
    folder, cache = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(squares / "both", folder)
    probe = [word for word in TINY if "val_every" not in word and "log_every" not in word]
    words = ["probe", "task=nodule2d", "protocol=knn", f"data.root={folder}", *probe, f"probe.cache={cache}"]
    before = (folder / "d.npz").stat()
    read = []
    for number in range(3):
        assert main([*words, f"out={tmp_path / f'run{number}'}"]) == 0
        read.append(
            json.loads((tmp_path / f"run{number}" / "summary.json").read_text())["features"]["parts_from_cache"]
        )
        if number == 1:
            arrays = dict(np.load(folder / "d.npz"))
            changed = arrays[f"test_{what}"]
            changed[0] = 1 - changed[0] if what == "labels" else changed[0][::-1]
            np.savez(folder / "d.npz", **arrays)
            os.utime(folder / "d.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
            after = (folder / "d.npz").stat()
            assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read == [0, 3, 0]


def test_the_digest_of_a_large_file_changes_with_its_content_and_with_its_times(tmp_path):
    path = tmp_path / "volume.raw"
    path.write_bytes(bytes(9 * 2**20))
    first = content_key((), [str(path)])
    assert content_key((), [str(path)]) == first
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(5_000_000)  # between two samples
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert content_key((), [str(path)]) != first


# --- settings of a network beside a file of weights ---------------------------------------------------------------


def test_settings_of_another_network_beside_init_are_refused(squares, tmp_path, capsys):
    data = f"data.root={squares / 'both'}"
    words = ["pretrain", "method=simclr", "data=medmnist", data, *PRETRAIN, "trainer.max_steps=1"]
    assert main([*words, f"out={tmp_path / 'run'}"]) == 0
    tuned = [word for word in TINY if "backbone" not in word]
    base = ["finetune", "task=nodule2d", data, f"init={tmp_path / 'run'}", *tuned, "trainer.max_steps=1"]
    capsys.readouterr()
    for word, line in (
        ("backbone.norm=batch", "has norm=group; transfer.norm=group exchanges its normalisation"),
        ("backbone.name=resnet18", "has name=unet; leave it out"),
        ("backbone.channels=[16,32,64]", "has channels=[8, 8, 16]; leave it out"),
        ("backbone=resnet34", "has name=unet; leave it out"),
        ("backbone=resenc_s", "has name=unet; leave it out"),
    ):
        found = refused(capsys, *base, word, "data.allow_overlap=true", f"out={tmp_path / 'tuned'}")
        assert found.startswith(("ssl-med: command line: backbone.", "ssl-med: conf/backbone/resenc_s.yaml: backbone."))
        assert found.endswith(line)
    same = [*base, "backbone.channels=[8,8,16]", "data.allow_overlap=true"]  # the network that is there
    assert main([*same, f"out={tmp_path / 'tuned'}"]) == 0
