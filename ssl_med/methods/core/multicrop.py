"""Multi-crop (Caron et al. 2020): two large crops of each image and several small ones of lower resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.pair import ViewConfig, random_view
from ssl_med.methods.core.schedule import ScheduleConfig
from ssl_med.networks.pyramid import Backbone
from ssl_med.ranges import Natural, PositiveShare, Range
from ssl_med.setting import SET, setting


@dataclass
class MultiCropConfig(ScheduleConfig):
    """Settings of the small crops, and of an output layer that is frozen at first."""

    small_view: ViewConfig = setting(
        default_factory=lambda: ViewConfig(crop_scale=(0.05, 0.14)), needs={"small_crops": SET}
    )
    """random view that makes a small crop"""
    small_crops: Annotated[int, Range(0, 1000)] = 6
    """number of small crops"""
    small_share: PositiveShare = setting(default=96 / 224, needs={"small_crops": SET})
    """side of a small crop as a share of a large one's"""
    freeze_steps: Natural = 313
    """optimiser steps before the output layer or the prototypes learn"""


def small_size(patch: Sequence[int], backbone: Backbone, *, share: float) -> tuple[int, ...]:
    """Sides nearest to `share` of the patch that the network can halve; at least two voxels are left at its last level.

    Batch and instance normalisation have nothing to compare in a single voxel.
    """
    divisor = backbone.divisor
    size = [min(side, max(by, round(share * side / by) * by)) for side, by in zip(patch, divisor, strict=True)]
    for axis in sorted(range(len(size)), key=lambda a: -patch[a]):
        if math.prod(side // by for side, by in zip(size, divisor, strict=True)) < 2:
            size[axis] = min(patch[axis], 2 * divisor[axis])
    return tuple(size)


def multi_crop(
    image: Tensor,
    generator: torch.Generator,
    *,
    large: Sequence[ViewConfig],
    small: ViewConfig,
    count: int,
    size: Sequence[int],
) -> Tensors:
    """(B, C, *S) -> large0, large1, ... of the image's size and small0, ... of `size`, each (B, C, *)."""
    views = {f"large{i}": random_view(image, generator, config) for i, config in enumerate(large)}
    return views | {f"small{i}": random_view(image, generator, small, size=size) for i in range(count)}


def crops(views: Tensors, kind: str) -> list[Tensor]:
    """The large or the small crops, in order."""
    return [views[f"{kind}{i}"] for i in range(sum(key.startswith(kind) for key in views))]


def pool_crops(backbone: Backbone, views: Tensors) -> Tensor:
    """Pooled features of all crops, (crops * B, d), crop by crop, large ones first; one pass per resolution."""
    groups = [found for found in (crops(views, "large"), crops(views, "small")) if found]
    return torch.cat([backbone.pool(backbone(torch.cat(group))) for group in groups])
