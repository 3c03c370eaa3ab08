"""Pretrain with your own loader and a plain Lightning Trainer: nothing of the suite but the method.

python examples/plain_lightning.py [STEPS]
"""

import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from ssl_med.methods.moco import MoCo
from ssl_med.networks.backbone import backbone_config
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec


class Images(Dataset):
    """Replace it by your own: dictionaries with `image`, (C, *S) float32 with values in [0, 1]."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(index))
        return {"image": torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")[0]}


def main(steps: str = "6") -> MoCo:
    """Trains for a few steps; returns the method, whose `backbone` is the pretrained encoder."""
    method = MoCo(
        MoCo.Config(temperature=0.1, queue=64, momentum=0.99),
        spec=DataSpec(name="mine", spatial_dims=2, in_channels=1, patch_size=(32, 32)),
        backbone=backbone_config("unet", channels=(8, 16, 32)),
        optim=OptimConfig(name="adamw", lr=1e-3, warmup_epochs=0.5),
    )
    loader = DataLoader(Images(), batch_size=4, shuffle=True, drop_last=True)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=int(steps), logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(method, loader)
    print(f"{trainer.global_step} steps, loss {float(trainer.callback_metrics['train/loss']):.3f}")
    return method


if __name__ == "__main__":
    main(*sys.argv[1:])
