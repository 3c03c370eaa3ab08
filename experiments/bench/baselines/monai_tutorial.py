"""The recipe of MONAI's spleen tutorial for a given processor time, on our split.

    python -m experiments.bench.baselines.monai_tutorial REQUEST.json

REQUEST.json and what is written: as in `nnunet`. Residual U-Net 16-256, batch norm, Adam with lr 1e-4, Dice loss of a softmax,
crops half of which are centred on foreground, batches of 2 x 4 crops, no further augmentation (tutorial
spleen_segmentation_3d, Project-MONAI/tutorials). What differs: intensities are z-scores, as the tutorial's window is one of
CT; crops are those of the request, as its 96^3 is larger than small images.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.dataset import CacheDataset
from monai.data.utils import list_data_collate
from monai.inferers.utils import sliding_window_inference
from monai.losses.dice import DiceLoss
from monai.networks.nets.unet import UNet
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld, SpatialPadd
from monai.transforms.intensity.dictionary import NormalizeIntensityd
from monai.transforms.io.dictionary import LoadImaged
from monai.transforms.utility.dictionary import EnsureChannelFirstd, EnsureTyped
from monai.utils.misc import set_determinism
from torch.utils.data import DataLoader

KEYS = ("image", "mask")


def pipeline(patch: tuple[int, ...]) -> Compose:
    """Deterministic reading, then crops of which half are centred on foreground."""
    crops = RandCropByPosNegLabeld(
        KEYS, label_key="mask", spatial_size=patch, pos=1, neg=1, num_samples=4, image_key="image", image_threshold=0
    )
    return Compose(
        [
            LoadImaged(KEYS),
            EnsureChannelFirstd(KEYS),
            NormalizeIntensityd("image"),
            SpatialPadd(KEYS, patch),
            EnsureTyped(KEYS),
            crops,
        ]
    )


def train(asked: dict[str, Any]) -> tuple[torch.nn.Module, int, float]:
    """The network, its steps and the processor seconds they took."""
    set_determinism(asked["seed"])
    torch.set_num_threads(1)
    patch = tuple(asked["patch"])
    cases = [dict(zip(KEYS, case, strict=True)) for case in asked["train"]]
    data = CacheDataset(cases, pipeline(patch), num_workers=0, progress=False)
    loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=list_data_collate, drop_last=True)
    classes = 1 + len(asked["labels"])
    net = UNet(3, 1, classes, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2, norm="BATCH")
    loss, optimizer = DiceLoss(to_onehot_y=True, softmax=True), torch.optim.Adam(net.parameters(), 1e-4)
    start, steps, spent = time.process_time(), 0, 0.0
    while spent < asked["seconds"]:
        for batch in loader:
            optimizer.zero_grad()
            loss(net(batch["image"].as_tensor()), batch["mask"].as_tensor()).backward()
            optimizer.step()
            steps, spent = steps + 1, time.process_time() - start
            if spent >= asked["seconds"]:
                break
    return net.eval(), steps, spent


@torch.no_grad()
def predict(net: torch.nn.Module, image: str, patch: tuple[int, ...]) -> np.ndarray:
    """Label map of a whole image."""
    data = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), NormalizeIntensityd("image")])({"image": image})
    logits = sliding_window_inference(data["image"].as_tensor()[None], patch, 4, net, overlap=0.25)
    assert isinstance(logits, torch.Tensor)
    return logits[0].argmax(0).numpy().astype(np.uint8)


def main(request: Path) -> None:
    """Carries out a request."""
    asked = json.loads(request.read_text())
    folder = Path(asked["folder"])
    net, steps, spent = train(asked)
    (folder / "predicted").mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(asked["test"]):
        found = predict(net, image, tuple(asked["patch"]))
        nib.save(nib.Nifti1Image(found, nib.load(image).affine), folder / "predicted" / f"{k:04d}.nii.gz")
    (folder / "answer.json").write_text(json.dumps({"steps": steps, "seconds": spent}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
