"""The restoration family: corrupt an image, restore the original."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_med.losses.restoration import mae, mse, ssim_loss
from ssl_med.methods._base import Method, Metric, Tensors, full
from ssl_med.networks.backbone import build_decoder
from ssl_med.networks.heads import RestorationHead
from ssl_med.spec import Batch

_LOSSES = {"mse": mse, "mae": mae, "ssim": ssim_loss}


@dataclass
class RestorationConfig:
    """What every restoration method can choose."""

    loss: Literal["mse", "mae", "ssim"] = "mse"
    """distance between restored and original image"""
    skips: bool = True
    """whether the decoder sees the encoder's finer levels (U-Net) or only the last one"""


class Restoration(Method):
    """A leaf gives `corrupt(target, generator)`; the target is the image itself, intensities in [0, 1]."""

    metric = Metric("mse", higher_is_better=False)
    config: RestorationConfig

    def build(self) -> None:
        """Decoder and a sigmoid output: targets lie in [0, 1]."""
        self.decoder = build_decoder(self.backbone_config, self.backbone, skips=self.config.skips)
        self.head = RestorationHead(
            self.decoder.out_channels, self.spec.in_channels, self.spec.spatial_dims, activation="sigmoid"
        )

    @abstractmethod
    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) -> the corrupted input, a new tensor."""

    def target(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """What is to be restored; the image as it is unless a leaf also augments it."""
        return image

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`target` and its corrupted `input`, both (B, C, *S)."""
        target = self.target(batch["image"], generator)
        return {"input": self.corrupt(target, generator), "target": target}

    def restore(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, *S) -> restored image in [0, 1] and the encoder's pyramid."""
        assert self.decoder is not None
        pyramid = self.backbone(image)
        return self.head(self.decoder(pyramid)), pyramid

    def terms(self, views: Tensors) -> Tensors:
        """The restoration distance."""
        restored, pyramid = self.restore(views["input"])
        restored, target = full(restored), views["target"]
        return {
            "loss": _LOSSES[self.config.loss](restored, target),
            "features": self.backbone.pool(pyramid).detach(),
            "metric": mse(restored.detach(), target),
            "trivial": trivial_mse(views["input"], target),
        }


def trivial_mse(image: Tensor, target: Tensor) -> Tensor:
    """Squared error of the better of two solvers that learned nothing: return the input, or one grey value per image."""
    flat = target.flatten(1)
    return torch.minimum(mse(image, target), (flat - flat.mean(1, keepdim=True)).square().mean())
