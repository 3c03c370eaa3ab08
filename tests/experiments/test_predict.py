"""`ssl-med predict`: answers lie on the grid of each file, say what the run's own test says, and are never half."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from experiments.cli import main
from ssl_med.reports.run_folder import CASES

pytestmark = pytest.mark.slow  # every test needs a fine-tuning

TINY = ["trainer=cpu", "trainer.progress=false", "trainer.batch_size=4", "task.pictures=[0,0,0,0]"]
NET = ["backbone.name=unet", "backbone.channels=[8,8,16]"]
QUICK = ["trainer.progress=false", "trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def lits(shared_phantom):
    return shared_phantom("lits", subjects=6, seed=0, size=(32, 32, 24))


def tuned(out, *words):
    steps = [] if any(str(word).startswith("trainer.max_steps=") for word in words) else ["trainer.max_steps=2"]
    assert main(["finetune", *TINY, *NET, *steps, *map(str, words), f"out={out}"]) == 0
    return out


@pytest.fixture(scope="module")
def trained(lits, tmp_path_factory):
    """A run on voxels as acquired, and one on resampled ones."""
    top = tmp_path_factory.mktemp("runs")
    small = [
        "task=lits",
        f"data.root={lits}",
        "data.patch_size=[16,16,8]",
        "data.crops_per_volume=2",
        "trainer.max_steps=12",
        "optim.lr=0.01",
    ]
    return tuned(top / "plain", *small), tuned(top / "spaced", *small, "data.spacing_mm=[3,3,4]", "seed=1")


def dice(a, b):
    return 2 * (a & b).sum() / max(1, a.sum() + b.sum())


def test_masks_say_what_the_runs_own_test_says_in_every_orientation(lits, trained, tmp_path):
    with (trained[0] / CASES).open() as file:
        expected = {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}
    scans = tmp_path / "scans"
    scans.mkdir()
    turned = {"LPS": "LPS", "RAS": "RAS", "SRA": "SRA", "ail": "AIL"}
    for case in expected:
        image = nib.load(next(lits.rglob(f"{case}.nii*")))
        for name, codes in turned.items():
            moves = nib.orientations.ornt_transform(
                nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple(codes))
            )
            nib.save(image.as_reoriented(moves), scans / f"{case}-{name}.nii.gz")
    assert main(["predict", str(trained[0]), str(scans), str(tmp_path / "out"), *QUICK]) == 0
    assert json.loads((tmp_path / "out/predictions.json").read_text())["labels"] == {"background": 0, "liver": 1}
    for case, value in expected.items():
        assert value > 0.1
        truth = nib.load(next(lits.rglob(f"{case.replace('volume', 'segmentation')}.nii*")))
        for name in turned:
            scan, mask = (nib.load(tmp_path / place / f"{case}-{name}.nii.gz") for place in ("scans", "out"))
            assert mask.shape == scan.shape
            assert np.allclose(mask.affine, scan.affine, atol=1e-4)
            back = nib.orientations.ornt_transform(nib.io_orientation(mask.affine), nib.io_orientation(truth.affine))
            found = np.asarray(mask.as_reoriented(back).dataobj) == 1
            assert dice(found, np.asarray(truth.dataobj) > 0) == pytest.approx(value, abs=1e-6)


def test_resampled_answers_come_back_to_the_file(lits, trained, tmp_path):
    with (trained[1] / CASES).open() as file:
        expected = {row["case"]: float(row["dice"]) for row in csv.DictReader(file)}
    assert main(["predict", str(trained[1]), str(lits), str(tmp_path / "out"), "exclude=[segmentation-*]", *QUICK]) == 0
    for case, value in expected.items():
        assert value > 0.1
        truth = nib.load(next(lits.rglob(f"{case.replace('volume', 'segmentation')}.nii*")))
        mask = nib.load(tmp_path / "out" / f"{case}.nii.gz")
        assert mask.shape == truth.shape
        # the run tested on the resampled grid, whose voxels hold several of the file's
        assert dice(np.asarray(mask.dataobj) == 1, np.asarray(truth.dataobj) > 0) == pytest.approx(value, abs=0.1)


def test_an_answer_is_made_once_and_two_runs_answer_by_the_mean_of_their_log_odds(lits, trained, tmp_path, capsys):
    scan = next(lits.rglob("volume-0.nii*"))
    outs = {}
    for name, runs in {"first": trained[:1], "both": trained, "twice": (trained[0], trained[0])}.items():
        outs[name] = tmp_path / name
        assert main(["predict", *map(str, runs), str(scan), str(outs[name]), *QUICK]) == 0
    first, both, twice = (np.asarray(nib.load(out / "volume-0.nii.gz").dataobj) for out in outs.values())
    assert (first == twice).all()
    assert (first != both).any()
    before = (outs["first"] / "volume-0.nii.gz").stat().st_mtime_ns
    capsys.readouterr()
    assert main(["predict", str(trained[0]), str(scan), str(outs["first"]), *QUICK]) == 0
    assert "1 answered already" in capsys.readouterr().out
    assert (outs["first"] / "volume-0.nii.gz").stat().st_mtime_ns == before
    assert main(["predict", str(trained[1]), str(scan), str(outs["first"]), *QUICK]) == 2
    assert "answers of other runs" in capsys.readouterr().err


def test_what_cannot_be_answered_is_said_and_the_rest_is_answered(lits, trained, tmp_path, capsys):
    scans = tmp_path / "in"
    scans.mkdir()
    shutil.copy(next(lits.rglob("volume-1.nii*")), scans)
    (scans / "broken.nii.gz").write_bytes(b"no image")
    nib.save(nib.Nifti1Image(np.full((24, 24, 24), 5000, np.int16), np.eye(4)), scans / "bright.nii.gz")
    assert main(["predict", str(trained[0]), str(scans), str(tmp_path / "out"), *QUICK]) == 2
    said = capsys.readouterr()
    assert "1 of 3 inputs cannot be answered" in said.err
    assert "broken.nii.gz" in said.err
    assert "note: bright: hardly a value lies inside the run's window" in said.out
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["bright.nii.gz", "predictions.json", "volume-1.nii.gz"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["RUN", "IN"], "ssl-med predict RUN IN OUT"),
        (["RUN", "nowhere", "OUT"], "nowhere: no such file or folder"),
        (["nowhere", "IN", "OUT"], "nowhere: no such folder"),
        (["RUN", "IN", "IN/answers"], "lies inside of"),
        (["RUN", "IN", "OUT", "mask=labels"], "'mask' is unknown; did you mean 'masks'"),
        (["RUN", "IN", "OUT", "masks=all"], "masks"),
        (["RUN", "IN", "OUT", "trainer.batch_size=4"], "trainer.batch_size"),
        (["RUN", "IN", "OUT", "exclude=[*]"], "holds no volume that can be read besides those of exclude"),
    ],
)
def test_wrong_requests(lits, trained, tmp_path, capsys, words, said):
    places = {
        "RUN": str(trained[0]),
        "IN": str(lits),
        "IN/answers": str(lits / "answers"),
        "OUT": str(tmp_path / "out"),
    }
    assert main(["predict", *(places.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(lits, trained, tmp_path, capsys):
    words = ["predict", str(trained[0]), str(lits), str(tmp_path / "out"), "trainer.accelerator=cuda"]
    assert main(words) == 2
    assert "there is no GPU" in capsys.readouterr().err


def test_transforms_that_move_voxels_are_refused(lits, tmp_path, capsys):
    flip = "data.transforms=[{_target_: Flipd, keys: [image, mask], spatial_axis: 0}]"
    small = ["data.patch_size=[16,16,8]", "data.crops_per_volume=1", "trainer.max_steps=1"]
    run = tuned(tmp_path / "run", "task=lits", f"data.root={lits}", flip, *small)
    assert main(["predict", str(run), str(lits), str(tmp_path / "out"), *QUICK]) == 2
    assert "entry 1 (Flipd): moves voxels, and answers cannot be brought back through it" in capsys.readouterr().err


def test_channels_are_found_by_number_and_by_name(shared_phantom, tmp_path, capsys):
    root = shared_phantom("brats", subjects=5, seed=0, size=(24, 24, 24))
    run = tuned(
        tmp_path / "run", "task=brats", f"data.root={root}", "data.patch_size=[16,16,16]", "data.crops_per_volume=1"
    )
    names = json.loads((run / "summary.json").read_text())["network"]["spec"]["channel_names"]
    case = next(path.parent for path in sorted(root.rglob("*_flair.nii*")))
    scans = tmp_path / "in"
    scans.mkdir()
    for number, name in enumerate(names):
        image = nib.load(next(case.glob(f"*_{name}.nii*")))
        nib.save(image, scans / f"numbered_{number:04d}.nii.gz")
        nib.save(image, scans / f"named_{name}.nii.gz")
    assert main(["predict", str(run), str(scans), str(tmp_path / "out"), *QUICK]) == 0
    for region in ("WT", "TC", "ET"):  # regions overlap: a file each
        one, other = (
            np.asarray(nib.load(tmp_path / f"out/{name}_{region}.nii.gz").dataobj) for name in ("numbered", "named")
        )
        assert (one == other).all()
        assert set(np.unique(one)) <= {0, 1}
    (scans / f"named_{names[1]}.nii.gz").unlink()
    assert main(["predict", str(run), str(scans), str(tmp_path / "other"), *QUICK]) == 2
    assert f"its scan 'named' lacks {names[1]}" in capsys.readouterr().err


def test_numbers_at_the_end_of_a_name_are_channels_only_where_they_can_be(lits, trained, tmp_path):
    scan = next(lits.rglob("volume-0.nii*"))

    def answered(*names):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        for name in names:
            shutil.copy(scan, place / f"{name}.nii.gz" if scan.name.endswith(".gz") else place / f"{name}.nii")
        out = tmp_path / f"out{place.name}"
        assert main(["predict", str(trained[0]), str(place), str(out), *QUICK]) == 0
        return sorted(path.name.removesuffix(".nii.gz") for path in out.glob("*.nii.gz"))

    assert answered("case_0001", "case_0002") == ["case_0001", "case_0002"]  # patients of one series
    assert answered("a_0000", "b_0000") == ["a", "b"]  # nnU-Net's only channel
    assert answered("a_0000", "a_0001", "b_0000", "b_0001") == ["a", "b"]  # further channels are left out, and named


def test_images_get_probabilities_that_are_the_runs_own(shared_phantom, tmp_path):
    root = shared_phantom("shenzhen", subjects=24, seed=0)
    words = ["task=shenzhen", f"data.root={root}", "data.patch_size=[32,32]", "data.image_size=36"]
    run = tuned(tmp_path / "run", *words)
    with (run / CASES).open() as file:
        expected = {row["case"]: float(row["score/tuberculosis"]) for row in csv.DictReader(file)}
    pictures = next(path.parent for path in sorted(root.rglob("*.png")))
    assert main(["predict", str(run), str(pictures), str(tmp_path / "out"), *QUICK]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert len(rows) == len(list(pictures.glob("*.png")))
    for case, value in expected.items():
        assert float(rows[case]["tuberculosis"]) == pytest.approx(value, abs=1e-5)
        assert rows[case]["answer"] == ("tuberculosis" if value > 0.5 else "normal")


def test_scans_with_classes_get_the_runs_own_probabilities(lits, tmp_path):
    root = tmp_path / "scans"
    root.mkdir()
    files = [shutil.copy(path, root) for path in sorted(lits.rglob("volume-*.nii*"))]
    rows = [
        {"image": path.rpartition("/")[2], "label": k % 2, "subject": str(k)} for k, path in enumerate(map(str, files))
    ]
    lists = {"training": rows[:2], "validation": rows[2:4], "test": rows[4:], "labels": {"0": "well", "1": "ill"}}
    (root / "list.json").write_text(json.dumps(lists))
    words = ["task=monai", f"data.root={root}", f"data.datalist={root / 'list.json'}", "data.patch_size=[16,16,8]"]
    run = tuned(tmp_path / "run", *words)
    with (run / CASES).open() as file:
        expected = [float(row["score/ill"]) for row in csv.DictReader(file)]
    assert main(["predict", str(run), str(root), str(tmp_path / "out"), *QUICK]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        found = [float(row["ill"]) for row in csv.DictReader(file)]
    assert len(found) == len(files)
    assert sorted(expected) == pytest.approx(sorted(found[4:]), abs=1e-5)


def test_masks_of_images_have_their_size(shared_phantom, tmp_path):
    root = shared_phantom("montgomery", subjects=8, seed=0)
    words = ["task=montgomery_lungs", f"data.root={root}", "data.patch_size=[32,32]", "data.image_size=36"]
    run = tuned(tmp_path / "run", *words)
    pictures = next(path.parent for path in sorted(root.rglob("*.png")) if "mask" not in str(path).lower())
    assert main(["predict", str(run), str(pictures), str(tmp_path / "out"), *QUICK]) == 0
    for path in pictures.glob("*.png"):
        found = [np.asarray(Image.open(one)) for one in (tmp_path / "out").glob(f"{path.stem}*.png")]
        assert found
        for mask in found:
            assert mask.shape == Image.open(path).size[::-1]
            assert set(np.unique(mask)) <= {0, 1, 2, 255}
