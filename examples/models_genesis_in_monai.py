"""Pretrain Models Genesis in plain MONAI and PyTorch: of this suite, only transforms are used.

python examples/models_genesis_in_monai.py FOLDER [STEPS [SIDE [OUT]]]      (CT scans, as LiTS names them)
"""

import sys
from pathlib import Path

import torch
from monai import transforms as mt
from monai.data import CacheDataset, DataLoader
from monai.networks.nets import UNet
from monai.utils import set_determinism

from ssl_med.transforms.monai import RandBezierIntensityd, RandFlipAxesd, RandLocalPixelShuffled, RandPaintd


def pipeline(side: int) -> mt.Compose:
    """From a file to the corrupted `image` and the `target` to restore; what is before the first Rand is cached."""
    return mt.Compose([
        mt.LoadImaged("image", reader="NibabelReader"),
        mt.EnsureChannelFirstd("image"),
        mt.Orientationd("image", axcodes="RAS", labels=None),
        mt.ScaleIntensityRanged("image", a_min=-1000, a_max=1000, b_min=0, b_max=1, clip=True),
        mt.SpatialPadd("image", side),
        mt.RandSpatialCropd("image", side, random_size=False),
        RandFlipAxesd("image", p=0.4),
        mt.CopyItemsd("image", names="target"),
        RandLocalPixelShuffled("image", prob=0.5),
        RandBezierIntensityd("image", prob=0.9),
        RandPaintd("image", prob=0.9, inpaint_rate=0.2),
    ])  # fmt: skip


def main(folder: str, steps: str = "1000", side: str = "64", out: str = "genesis.pt") -> list[float]:
    """Trains for `steps` batches; returns the losses and leaves the weights in `out`."""
    set_determinism(0)
    scans = [{"image": path} for path in sorted(Path(folder).rglob("volume-*.nii.gz"))]
    loader = DataLoader(CacheDataset(scans, pipeline(int(side)), progress=False), batch_size=2, shuffle=True)
    network = UNet(3, 1, 1, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses: list[float] = []
    while len(losses) < int(steps):
        for batch in loader:
            loss = torch.nn.functional.mse_loss(network(batch["image"]).sigmoid(), batch["target"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    torch.save(network.state_dict(), out)
    print(f"{len(losses)} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}, weights in {out}")
    return losses


if __name__ == "__main__":
    main(*sys.argv[1:])
