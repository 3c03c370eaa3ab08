"""Parts of methods that predict what was done to an image: patches of a grid, and classification."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_med.methods.core.about import Family
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.ranges import Share
from ssl_med.spec import SslMedError
from ssl_med.transforms.patches import Grid, cut, make_grid, permute, sample_corners, standardize


@dataclass
class PatchConfig:
    """How patches are cut; both shares give way to the smallest patch that the network can take."""

    gap: Share = 0.0
    """least distance between the patches of neighbouring cells, as a share of a cell's side"""
    jitter: Share = 0.25
    """how far a patch moves within its cell, as a share of a cell's side"""
    standardize: bool = True
    """each patch to mean 0 and variance 1, so that brightness does not reveal its place"""

    def __post_init__(self) -> None:
        if self.gap + self.jitter >= 1:
            raise SslMedError("method.gap and method.jitter must leave something of a cell: their sum is 1 or more")


class PatchMethod(Method):
    """Sees an image as the patches of a grid, all through one encoder.

    Patches pass the encoder as one batch, so batch normalisation averages over the patches of all images.
    """

    family: ClassVar[tuple[Family, ...]] = ("prediction",)
    config: PatchConfig
    grid: Grid

    def make_grid(self, counts: tuple[int, ...], *, overlap: float = 0.0) -> None:
        """Sets `grid`, which says where patches lie and how large they are.

        Raises:
            SslMedError: patches that the network cannot take.
        """
        c, min_side = self.config, [max(2, side) for side in self.backbone.min_input_side]
        self.grid = make_grid(
            self.spec.patch_size, counts, gap=c.gap, jitter=c.jitter, overlap=overlap, min_side=min_side
        )
        last = math.prod(max(1, side // by) for side, by in zip(self.grid.patch, self.backbone.divisor, strict=True))
        if last < 2 and self.backbone.compares_voxels:
            raise SslMedError(
                f"backbone.norm=instance needs two voxels at the network's last level; patches of "
                f"{'x'.join(map(str, self.grid.patch))} leave one: take backbone.norm=group, where the network has it, "
                "or a larger data.patch_size"
            )

    def cut(self, image: Tensor, generator: torch.Generator, cells: Tensor | None = None) -> Tensor:
        """(B, C, *S) -> a patch of each of the cells (B, P), by default of all, row-major: (B, P, C, *patch)."""
        corners = sample_corners(len(image), self.grid, generator)
        patches = cut(image, corners if cells is None else permute(corners, cells), self.grid.patch)
        return standardize(patches) if self.config.standardize else patches

    def encode(self, patches: Tensor) -> Tensor:
        """(B, P, C, *patch) -> pooled features of each patch, (B, P, d)."""
        return self.backbone.pool(self.backbone(patches.flatten(0, 1))).view(*patches.shape[:2], -1)


def cells_of(grid: int, dims: int) -> tuple[int, ...]:
    """`method.grid` of the puzzles -> cells per axis: 3 in images and 2 in volumes when it is 0, the same along each axis."""
    return (grid or (3 if dims == 2 else 2),) * dims


def classify(logits: Tensor, label: Tensor) -> Tensors:
    """Cross-entropy as "loss", accuracy as "metric" and that of guessing as "baseline".

    Args:
        logits: (N, K).
        label: (N,) int64.
    """
    logits = to_float32(logits)
    return {
        "loss": F.cross_entropy(logits, label),
        "metric": (logits.detach().argmax(1) == label).float().mean(),
        "baseline": logits.new_tensor(1 / logits.shape[1]),
    }
