"""Corruptions as MONAI transforms; `ssl_med.transforms.monai` offers them.

Each pair is a declaration: the batched function, its settings under its own names, and the dictionary form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssl_med.ranges import Count, Natural, Seed, Share
from ssl_med.transforms import cells, corruptions
from ssl_med.transforms._monai import Keyed, Rand, Sides


@dataclass(eq=False, kw_only=True)
class RandLocalPixelShuffle(Rand):
    """Local pixel shuffling of Models Genesis (Zhou et al. 2021): windows of 1 to S//10 voxels a side, each in random order."""

    offers = staticmethod(corruptions.local_shuffle)
    in_unit_range: ClassVar[bool] = False

    prob: Share = 0.5
    """probability that the transform acts"""
    windows: Natural = 1000
    """windows per image: 1,000 change 16 % of 64x64x32 voxels, the official code's 10,000 change 79 %"""


@dataclass(eq=False)
class RandLocalPixelShuffled(Keyed, RandLocalPixelShuffle):
    """Dictionary form of `RandLocalPixelShuffle`: all keys are shuffled alike."""


@dataclass(eq=False, kw_only=True)
class RandPooledPixelShuffle(Rand):
    """`RandLocalPixelShuffle` by a random one of `pool` shufflings that are drawn once: several times as fast."""

    offers = staticmethod(corruptions.pooled_shuffle)
    in_unit_range: ClassVar[bool] = False

    prob: Share = 0.5
    """probability that the transform acts"""
    pool: Count = 64
    """shufflings drawn for each spatial shape when it is first seen; each takes 4 bytes a voxel"""
    windows: Natural = 1000
    """windows of each shuffling"""
    pool_seed: Seed = 0
    """seed of the pool"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._maps: dict[tuple[int, ...], Tensor] = {}

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """Shuffles by one of the maps for this shape."""
        shape = tuple(x.shape[2:])
        if shape not in self._maps:
            drawn = torch.Generator().manual_seed(self.pool_seed)
            self._maps[shape] = corruptions.shuffle_maps(self.pool, shape, drawn, windows=self.windows)
        return corruptions.pooled_shuffle(x, generator, maps=self._maps[shape].to(x.device), p=1.0)


@dataclass(eq=False)
class RandPooledPixelShuffled(Keyed, RandPooledPixelShuffle):
    """Dictionary form of `RandPooledPixelShuffle`: all keys are shuffled alike."""


@dataclass(eq=False, kw_only=True)
class RandPaint(Rand):
    """In- or out-painting of Models Genesis (Zhou et al. 2021) with U(0, 1) noise, never both."""

    offers = staticmethod(corruptions.paint)

    prob: Share = 0.9
    """probability that the transform acts"""
    inpaint_rate: Share = 0.2
    """share of in-painting, the rest is out-painting"""


@dataclass(eq=False)
class RandPaintd(Keyed, RandPaint):
    """Dictionary form of `RandPaint`: all keys have the same boxes."""


@dataclass(eq=False, kw_only=True)
class RandInPaint(Rand):
    """Noise inside up to five boxes of S//6 to S//3 voxels a side: on average 5.5 % of 64x64x32 voxels."""

    offers = staticmethod(corruptions.inpaint)


@dataclass(eq=False)
class RandInPaintd(Keyed, RandInPaint):
    """Dictionary form of `RandInPaint`: all keys have the same boxes."""


@dataclass(eq=False, kw_only=True)
class RandOutPaint(Rand):
    """Noise outside one to five boxes of 3S/7 to 4S/7 voxels a side: on average 68 % of 64x64x32 voxels."""

    offers = staticmethod(corruptions.outpaint)


@dataclass(eq=False)
class RandOutPaintd(Keyed, RandOutPaint):
    """Dictionary form of `RandOutPaint`: all keys have the same boxes."""


@dataclass(eq=False, kw_only=True)
class RandModelsGenesis(Rand):
    """The whole corruption of Models Genesis (Zhou et al. 2021): local shuffling, Bezier intensity map, painting.

    Its flips act on the target too: put `RandFlipAxesd` with image and target as keys before it.
    """

    offers = staticmethod(corruptions.models_genesis)

    shuffle: Share = 0.5
    """probability of local pixel shuffling"""
    windows: Natural = 1000
    """windows of local pixel shuffling per image"""
    nonlinear: Share = 0.9
    """probability of the Bezier intensity map"""
    paint: Share = 0.9
    """probability of painting"""
    inpaint_rate: Share = 0.2
    """share of painting that is in-painting"""


@dataclass(eq=False)
class RandModelsGenesisd(Keyed, RandModelsGenesis):
    """Dictionary form of `RandModelsGenesis`: all keys have the same windows, curve and boxes."""


@dataclass(eq=False, kw_only=True)
class RandContextSwap(Rand):
    """Context restoration's corruption (Chen et al. 2019): pairs of equal patches exchange places; values only move."""

    offers = staticmethod(corruptions.swap_patches)
    in_unit_range: ClassVar[bool] = False

    patch: Sides
    """sides of a patch in voxels, one for all axes or one each"""
    swaps: Natural = 10
    """exchanges per image"""
    disjoint: bool = False
    """whether no patch takes part in two exchanges"""


@dataclass(eq=False)
class RandContextSwapd(Keyed, RandContextSwap):
    """Dictionary form of `RandContextSwap`: all keys exchange the same patches."""


@dataclass(eq=False, kw_only=True)
class RandPatchShuffle(Rand):
    """Cells of a grid change places, and turn as far as their shape allows: patch shuffling, and the cube of Cube++."""

    offers = staticmethod(cells.rearrange)
    in_unit_range: ClassVar[bool] = False

    side: Sides
    """sides of a cell in voxels, divisors of the image's, one for all axes or one each"""
    share: Share = 1.0
    """share of the cells that take part"""
    permute: bool = True
    """whether they change places"""
    rotate: bool = False
    """whether they turn"""


@dataclass(eq=False)
class RandPatchShuffled(Keyed, RandPatchShuffle):
    """Dictionary form of `RandPatchShuffle`: all keys are rearranged alike."""


@dataclass(eq=False, kw_only=True)
class RandCellMask(Rand):
    """A random share of the cells of a grid is hidden: the mask of MAE (He et al. 2022)."""

    offers = staticmethod(cells.hide_cells)
    in_unit_range: ClassVar[bool] = False

    side: Sides
    """sides of a cell in voxels, divisors of the image's, one for all axes or one each"""
    share: Share = 0.75
    """share of the cells that are hidden"""
    value: float = 0.0
    """what hidden cells show"""


@dataclass(eq=False)
class RandCellMaskd(Keyed, RandCellMask):
    """Dictionary form of `RandCellMask`: the same cells of all keys are hidden."""
