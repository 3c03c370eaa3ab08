"""Spatial transforms and pretext tasks as MONAI transforms; `ssl_med.transforms.monai` offers them.

Where voxels of the result lie on a straight grid of the input, the affine follows them; a smooth deformation has none, and
leaves the affine of the image that it deforms.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple_rep
from torch import Tensor

from ssl_med.ranges import BelowOne, Degrees, NonNegative, Positive, PositiveShare, Range, Seed, Share
from ssl_med.transforms import patches, rotations, spatial
from ssl_med.transforms._monai import Interpolating, Keyed, Labelled, Rand

# --- where voxels come from ------------------------------------------------------------------------------------------


def turned(shape: Sequence[int], plane: tuple[int, int], turns: int) -> Tensor:
    """Maps voxels of an image after `turns` quarter turns in `plane` to those of the image of `shape`; (D + 1, D + 1)."""
    source, sides = torch.eye(len(shape) + 1, dtype=torch.float64), list(shape)
    first, second = plane
    for _ in range(turns % 4):
        once = torch.eye(len(shape) + 1, dtype=torch.float64)
        once[[first, second]] = 0
        once[first, second] = 1
        once[second, first], once[second, -1] = -1, sides[second] - 1
        source = source @ once
        sides[first], sides[second] = sides[second], sides[first]
    return source


def mirrored(shape: Sequence[int], flips: Sequence[bool]) -> Tensor:
    """Maps voxels of an image that is mirrored along the axes of `flips` to those of the image; (D + 1, D + 1)."""
    source = torch.eye(len(shape) + 1, dtype=torch.float64)
    for axis, flip in enumerate(flips):
        if flip:
            source[axis, axis], source[axis, -1] = -1, shape[axis] - 1
    return source


# --- flips and quarter turns -----------------------------------------------------------------------------------------


class _FlipRot(Rand):
    """What mirrors and turns by quarters: exact, for images and label maps alike."""

    in_unit_range: ClassVar[bool] = False
    moves: ClassVar[bool] = True

    @abstractmethod
    def draw(self, shape: Sequence[int], generator: torch.Generator) -> spatial.FlipRot:
        """Parameters of a batch of one."""

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """Mirrors, then turns."""
        return spatial.apply_flip_rot(x, self.draw(x.shape[2:], generator))

    def source(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Turns back, then mirrors back."""
        params = self.draw(shape, generator)
        return mirrored(shape, params.flips[0].tolist()) @ turned(shape, (0, 1), int(params.turns))


@dataclass(eq=False, kw_only=True)
class RandFlipAxes(_FlipRot):
    """Mirrors each axis by a coin of its own, where MONAI's RandFlip mirrors all axes or none; the affine follows."""

    offers = staticmethod(spatial.flip)

    p: Share = 0.5
    """probability of each axis, once the transform acts"""
    axes: Sequence[int] | None = None
    """spatial axes that may be mirrored, 0 is the first after the channel; None: all"""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> spatial.FlipRot:
        """Which axes are mirrored."""
        return spatial.sample_flip(1, len(shape), generator, p=self.p, axes=self.axes)


@dataclass(eq=False)
class RandFlipAxesd(Keyed, RandFlipAxes):
    """Dictionary form of `RandFlipAxes`: all keys are mirrored alike."""


@dataclass(eq=False, kw_only=True)
class RandFlipRot(_FlipRot):
    """The random transform of PCRL (Zhou et al. 2021): flips, then quarter turns of the first two axes; the affine follows."""

    offers = staticmethod(spatial.flip_rot)

    flips: bool = True
    """whether each axis is mirrored with probability 1/2"""
    rotations: bool = True
    """whether 0 to 3 quarter turns follow, 0 or 2 where the plane is no square"""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> spatial.FlipRot:
        """Axes and turns."""
        return spatial.sample_flip_rot(1, shape, generator, flips=self.flips, rotations=self.rotations)


@dataclass(eq=False)
class RandFlipRotd(Keyed, RandFlipRot):
    """Dictionary form of `RandFlipRot`: all keys are moved alike."""


@dataclass(eq=False, kw_only=True)
class RandQuarterTurns(_FlipRot):
    """0 to 3 quarter turns in the plane of the first two axes, 0 or 2 where it is no square; the affine follows."""

    offers = staticmethod(spatial.rot90)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> spatial.FlipRot:
        """Number of turns."""
        return spatial.sample_rot90(1, shape, generator, p=1.0)


@dataclass(eq=False)
class RandQuarterTurnsd(Keyed, RandQuarterTurns):
    """Dictionary form of `RandQuarterTurns`: all keys are turned alike."""


# --- with interpolation ----------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class RandResizedCrop(Interpolating):
    """A random box resized to the image's size, antialiased where it shrinks; the affine follows."""

    offers = staticmethod(spatial.random_resized_crop)

    scale: tuple[PositiveShare, PositiveShare] = (0.2, 1.0)
    """range of the box's share of the area or volume"""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """range of the ratio between two sides of the box, each as a share of the image's"""

    def source(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """First voxel and step along each axis."""
        crop = spatial.sample_crop(1, len(shape), generator, scale=self.scale, ratio=self.ratio)
        place = torch.eye(len(shape) + 1, dtype=torch.float64)
        for axis, side in enumerate(shape):
            step = float(crop.side[0, axis])
            place[axis, axis], place[axis, -1] = step, float(crop.corner[0, axis]) * side + step / 2 - 0.5
        return place


@dataclass(eq=False)
class RandResizedCropd(Keyed, RandResizedCrop):
    """Dictionary form of `RandResizedCrop`: all keys show the same box."""


@dataclass(eq=False, kw_only=True)
class RandSmallRotation(Interpolating):
    """Rotates by U(-degrees, degrees) about the centre of the first two axes, in voxels; borders repeat; the affine follows."""

    offers = staticmethod(spatial.small_rotation)

    degrees: Degrees = 10.0
    """largest angle"""

    def source(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Turns back about the centre."""
        angle = float(spatial.sample_rotation(1, generator, degrees=self.degrees, p=1.0))
        cos, sin = math.cos(angle), math.sin(angle)
        place = torch.eye(len(shape) + 1, dtype=torch.float64)
        place[:2, :2] = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        centre = (torch.tensor(tuple(shape[:2]), dtype=torch.float64) - 1) / 2
        place[:2, -1] = centre - place[:2, :2] @ centre
        return place


@dataclass(eq=False)
class RandSmallRotationd(Keyed, RandSmallRotation):
    """Dictionary form of `RandSmallRotation`: all keys are rotated alike."""


@dataclass(eq=False, kw_only=True)
class RandSmoothDeformation(Interpolating):
    """Smooth random deformation along the first two axes (Simard et al. 2003); the affine stays that of the image before."""

    offers = staticmethod(spatial.elastic)

    magnitude: NonNegative
    """standard deviation of the displacement in voxels"""
    sigma: Positive = 8.0
    """standard deviation in voxels of the Gaussian that smooths the displacement"""


@dataclass(eq=False)
class RandSmoothDeformationd(Keyed, RandSmoothDeformation):
    """Dictionary form of `RandSmoothDeformation`: all keys are deformed alike."""


# --- pretext tasks ---------------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class RandTurn(Labelled):
    """One of the quarter turns that keep the image's shape, all equally likely (Gidaris et al. 2018; 3D: Taleb et al. 2020).

    `label` numbers the turns as `ssl_med.transforms.rotations.rotations_of(shape)` lists them; 0: not turned. A cube has 10,
    a square 4. The affine follows.
    """

    offers = staticmethod(rotations.apply_rotations)
    in_unit_range: ClassVar[bool] = False

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """Turns the image and keeps the number of the turn."""
        found, which = self._drawn(x.shape[2:], generator)
        self.label = int(which)
        return rotations.apply_rotations(x, which, found)

    def source(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Turns back."""
        found, which = self._drawn(shape, generator)
        return turned(shape, *found[int(which)])

    def left_alone(self, image: Tensor) -> Tensor:
        """Not turned."""
        self.label = 0
        return image

    def _drawn(self, shape: Sequence[int], generator: torch.Generator) -> tuple[tuple[rotations.Rotation, ...], Tensor]:
        found = rotations.rotations_of(shape)
        return found, torch.randint(0, len(found), (1,), generator=generator, device=generator.device)


@dataclass(eq=False, kw_only=True)
class RandTurnd(Keyed, RandTurn):
    """Dictionary form of `RandTurn`: all keys are turned alike, and `label_key` receives the number of the turn."""

    label_key: str = "turn"
    """where the number of the turn is written"""


@dataclass(eq=False, kw_only=True)
class RandJigsaw(Labelled):
    """A jigsaw puzzle (Noroozi and Favaro 2016): patches of a grid in one of `permutations` orders that differ much.

    (C, *S) becomes a plain tensor (P, C, *patch), for which no affine exists. `label` is the number of the order, or
    `permutations` where the transform does not act and the patches are in their own order.
    """

    offers = staticmethod(patches.permute)
    in_unit_range: ClassVar[bool] = False

    grid: Annotated[int, Range(2, 16)] = 3
    """cells per axis"""
    permutations: Annotated[int, Range(2, 10**5)] = 100
    """number of orders"""
    permutation_seed: Seed = 0
    """seed of the set of orders"""
    gap: BelowOne = 0.0
    """between patches of neighbouring cells at least, as a share of a cell's side"""
    jitter: BelowOne = 0.15
    """how far a patch moves within its cell, as a share of the cell's side"""
    standardize: bool = True
    """each channel of each patch to mean 0 and variance 1"""

    def transformed(self, img: Any, number: int) -> Tensor:
        """(C, *S) -> (P, C, *patch)."""
        result = super().transformed(img, number)
        return result.as_tensor() if isinstance(result, MetaTensor) else result

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """Cuts, then lays the patches in a random order."""
        dims = x.ndim - 2
        orders = patches.permutation_set(self.grid**dims, self.permutations, seed=self.permutation_seed)
        self.label = int(torch.randint(0, len(orders), (1,), generator=generator, device=generator.device))
        return patches.permute(self._cut(x, generator), orders[self.label : self.label + 1].to(x.device))

    def left_alone(self, image: Tensor) -> Tensor:
        """The patches of undisturbed cells, in their order."""
        self.label = self.permutations
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        return self._cut(plain[None], self._generator(plain))[0]

    def _cut(self, x: Tensor, generator: torch.Generator) -> Tensor:
        dims = x.ndim - 2
        grid = patches.make_grid(x.shape[2:], ensure_tuple_rep(self.grid, dims), gap=self.gap, jitter=self.jitter)
        cut = patches.cut(x, patches.sample_corners(1, grid, generator), grid.patch)
        return patches.standardize(cut.float()) if self.standardize else cut


@dataclass(eq=False, kw_only=True)
class RandJigsawd(Keyed, RandJigsaw):
    """Dictionary form of `RandJigsaw`: all keys are cut and ordered alike, and `label_key` receives the number of the order."""

    label_key: str = "order"
    """where the number of the order is written"""
