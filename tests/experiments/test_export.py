"""A finished fine-tuning leaves as a bundle that answers what `ssl-med predict` answers."""

import shutil

import monai.bundle
import nibabel as nib
import pytest

from experiments.cli import main

pytestmark = pytest.mark.slow  # needs a fine-tuning


def test_a_bundle_of_a_fine_tuning_segments_as_predict_does(shared_phantom, tmp_path):
    root, run = shared_phantom("lits", subjects=6, seed=0, size=(32, 32, 24)), tmp_path / "run"
    words = [
        "trainer=cpu",
        "trainer.progress=false",
        "trainer.batch_size=4",
        "task.pictures=[0,0,0,0]",
        "optim.lr=0.01",
    ]
    words += ["backbone.name=unet", "backbone.channels=[8,8,16]", "trainer.max_steps=12", f"data.root={root}"]
    words += ["task=lits", "data.patch_size=[16,16,8]", "data.crops_per_volume=2"]
    assert main(["finetune", *words, f"out={run}"]) == 0
    bundle, scans = tmp_path / "bundle", tmp_path / "scans"
    assert main(["weights", "export", str(run), "to=monai_bundle", f"out={bundle}"]) == 0
    scans.mkdir()
    scan = sorted(root.rglob("volume-*.nii*"))[0]
    shutil.copy(scan, scans)
    assert main(["predict", str(run), str(scans), str(tmp_path / "out"), "trainer.progress=false"]) == 0
    monai.bundle.run(
        config_file=str(bundle / "configs/inference.json"), bundle_root=str(bundle), dataset_dir=str(scans)
    )
    theirs = nib.load(next((bundle / "answers").glob("*_mask.nii.gz")))
    ours = nib.load(next((tmp_path / "out").rglob("*.nii.gz")))
    assert ours.get_fdata().any()
    assert ((theirs.get_fdata() > 0) == (ours.get_fdata() > 0)).mean() > 0.999
