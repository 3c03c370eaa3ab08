"""nnU-Net v2 for a given processor time: planned, preprocessed, trained and applied as its authors do, on our split.

Run by the Python of an environment that has nnunetv2 (`pip install nnunetv2`), which the suite itself does not need:

    PYTHON nnunet.py REQUEST.json

REQUEST.json: {"folder": work folder, "train": [[image, label], ...], "test": [image, ...], "labels": {name: value}, "modality":
"MRI", "seconds": processor seconds of training, "seed": 0}. Written: predictions in folder/predicted, one NIfTI a test case in
their order (0000.nii.gz), and answer.json: {"steps", "seconds"}.

What differs from its own command line: the learning rate falls with the share of the processor time that is used, as
(1 - t/T)^0.9, in place of the share of 1000 epochs; samples are augmented in the training process itself, so that all its
work is counted.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

DATASET = "Dataset501_Bench"
LR, POWER = 1e-2, 0.9


def main(request: Path) -> None:
    """Carries out a request."""
    asked = json.loads(request.read_text())
    folder = Path(asked["folder"])
    for name in ("raw", "preprocessed", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder / name)
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_compile": "f"}  # planning takes it for a number of threads
    lay_out(asked, folder / "raw" / DATASET)

    import numpy as np
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(1)
    np.random.seed(asked["seed"])
    torch.manual_seed(asked["seed"])
    number, configuration, device = int(DATASET[7:10]), "3d_fullres", torch.device("cpu")
    if not (folder / "preprocessed" / DATASET / "nnUNetPlans.json").exists():
        extract_fingerprints([number], num_processes=1)
        plan_experiments([number])
        preprocess([number], configurations=[configuration], num_processes=[1])
    names = [f"case_{k:04d}" for k in range(len(asked["train"]))]
    split = [{"train": names, "val": names[:1]}]  # the last weights are used: its validation chooses nothing
    (folder / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(split))

    os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - its name; samples are augmented in this process
    trainer = get_trainer_from_args(str(number), configuration, 0, device=device)
    trainer.on_train_start()
    trainer.network.train()
    start, steps = time.process_time(), 0
    while (spent := time.process_time() - start) < asked["seconds"]:
        for group in trainer.optimizer.param_groups:
            group["lr"] = LR * (1 - spent / asked["seconds"]) ** POWER
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(
        tile_step_size=0.5, use_gaussian=True, use_mirroring=True, device=device, allow_tqdm=False
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    predictor.list_of_parameters = [trainer.network.state_dict()]
    (folder / "predicted").mkdir(exist_ok=True)
    wanted = [str(folder / "predicted" / f"{k:04d}.nii.gz") for k in range(len(asked["test"]))]
    predictor.predict_from_files_sequential([[image] for image in asked["test"]], wanted)
    (folder / "answer.json").write_text(json.dumps({"steps": steps, "seconds": spent}))


def lay_out(asked: dict[str, Any], folder: Path) -> None:
    """nnU-Net's layout of the training cases."""
    for part, place in ((0, "imagesTr"), (1, "labelsTr")):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for k, case in enumerate(asked["train"]):
            ending = "_0000" if part == 0 else ""
            shutil.copyfile(case[part], folder / place / f"case_{k:04d}{ending}.nii.gz")
    about = {
        "channel_names": {"0": asked["modality"]},
        "labels": {"background": 0, **asked["labels"]},
        "numTraining": len(asked["train"]),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
