import json

import nibabel as nib
import numpy as np
import pytest

from experiments.bench.__main__ import main
from experiments.bench.baseline import dice_of
from ssl_med.spec import SslMedError


def test_dice_is_that_of_each_label(tmp_path):
    truth, found = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    truth[0], truth[1] = 1, 2
    found[0, :2], found[1:3] = 1, 2  # half of the anterior part; the posterior one twice as large
    for name, labels in (("truth", truth), ("found", found)):
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert dice_of(tmp_path / "found.nii.gz", tmp_path / "truth.nii.gz") == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["systems=[ours]"], "root is missing"),
        (["root=x", "systems=[theirs]"], "systems: 'theirs' is unknown"),
        (["root=x"], "systems holds nnunet: name the Python"),
        (["root=x", "python=absent"], "systems holds nnunet: name the Python"),
    ],
)
def test_it_refuses_in_one_line(words, message):
    with pytest.raises(SslMedError, match=message):
        main(["baseline", *words])


@pytest.fixture
def task04(tmp_path):
    """Twelve bright balls of two halves in noise, in the layout of Decathlon Task04."""
    root, rng = tmp_path / "Task04", np.random.default_rng(0)
    training = []
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    axes = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"))
    for k in range(12):
        centre = rng.integers(12, 20, 3)
        inside = ((axes - centre[:, None, None, None]) ** 2).sum(0) < 64
        labels = np.where(inside, np.where(axes[1] < centre[1], 1, 2), 0).astype(np.uint8)
        image = (200 * inside + rng.normal(100, 10, inside.shape)).astype(np.float32)
        for folder, array in (("imagesTr", image), ("labelsTr", labels)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"hippocampus_{k:03d}.nii.gz")
        name = f"hippocampus_{k:03d}.nii.gz"
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    (root / "dataset.json").write_text(json.dumps({**about, "training": training, "test": []}))
    return root


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_recipes_train_on_one_split_for_the_time_that_is_asked(task04, tmp_path):
    ours = (
        "ours=[trainer=cpu,'data.patch_size=[32,32,32]',trainer.batch_size=2,optim.lr=3e-3,'task.pictures=[0,0,0,0]']"
    )
    words = [
        f"root={task04}",
        "systems=[monai,ours]",
        "minutes=[0.5]",
        "patch=[32,32,32]",
        f"out={tmp_path / 'out'}",
        ours,
    ]
    theirs, own = main(["baseline", *words])
    assert (theirs["system"], own["system"]) == ("monai", "ours")
    for row in (theirs, own):
        assert row["steps"] > 1
        assert 0.3 < row["minutes"] < 1
        assert row["dice"] == pytest.approx((row["anterior"] + row["posterior"]) / 2)
    assert own["dice"] > 0.5  # a ball of one brightness is learned in seconds, its halves by position
