"""What the tables of `make bench ARGS=speed` work on: crops like those of CT, and a method of the papers' size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.bench.variants import BenchSpeedConfig
from ssl_med.networks.backbone import backbone_config
from ssl_med.optim import OptimConfig
from ssl_med.spec import DataSpec


def crops_like_ct(count: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(B, 1, *S) in [0, 1]: smooth anatomy with noise, whole Hounsfield units from -1000 to 1000."""
    smooth = torch.rand((count, 1, *(max(2, side // 8) for side in shape)), generator=generator)
    anatomy = F.interpolate(smooth, size=tuple(shape), mode="trilinear", align_corners=True)
    noise = 0.02 * torch.randn(anatomy.shape, generator=generator)
    return ((anatomy + noise).clamp(0, 1) * 2000).round() / 2000


def method_of_size(kind: type[Any], method_config: Any, config: BenchSpeedConfig, *, fast_up: bool = True) -> Any:
    """A method in training mode on crops and a U-Net of the size that the settings ask for."""
    torch.manual_seed(0)
    spec = DataSpec(name="random", spatial_dims=3, in_channels=1, patch_size=config.patch)
    backbone = backbone_config("unet", channels=config.channels, fast_up=fast_up)
    return kind(method_config, spec=spec, backbone=backbone, optim=OptimConfig(), batch_size=1).train()
