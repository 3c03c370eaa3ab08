"""Random crops, rotations and scalings for training, in MONAI's dictionary form: one resampling of image and mask together.

MONAI has no transform that draws rotation and scale with chances of their own, one factor for all axes, and sees more of a
scan than the crop.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from torch import Tensor
from torch.nn import functional as F

from ssl_med.transforms.samples.arguments import chance, number, span

Size = tuple[int, ...]


class Resampled(Randomizable, MapTransform):  # type: ignore[misc]
    """A random linear map of the grid of a crop, which resamples image and mask once and together.

    The loader asks `window` what part of the scan a crop of some size will need, cuts that, and says in `middle` where in it
    the middle of the crop lies. Without a loader, in MONAI's own Compose, the crop itself is all that is seen. Outside of
    the scan its border is repeated, so nothing is black. Masks are interpolated linearly and are 1 where they reach 1/2.
    """

    moves = True

    def __init__(
        self, keys: KeysCollection, *, masks: KeysCollection = ("mask",), allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.masks = (masks,) if isinstance(masks, str) else tuple(masks)
        self.middle: Sequence[float] | None = None  # of the crop within what is seen, in voxels
        self._size: Size | None = None
        self._map: tuple[np.ndarray, np.ndarray] | None = None

    @abstractmethod
    def draw(self, size: Size) -> tuple[np.ndarray, np.ndarray] | None:
        """Matrix (D, D) and shift (D,): what is p away from the middle comes from matrix @ p + shift; None: no change."""

    def randomize(self, data: Any = None) -> None:
        """Draws the map of a crop of size `data`."""
        self._size, self._map = tuple(data), self.draw(tuple(data))

    def window(self, size: Size) -> Size | None:
        """Size of what the crop will be made of, around its middle; None: of itself."""
        self.randomize(size)
        if self._map is None:
            return None
        matrix, shift = self._map
        reach = np.abs(matrix) @ ((np.array(size) - 1) / 2) + np.abs(shift)
        return tuple(2 * math.ceil(r) + 1 + (n + 1) % 2 for r, n in zip(reach, size, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resamples all keys; what is seen may be larger than the crop that comes out."""
        found = dict(data)
        keys = list(self.key_iterator(found))
        seen = tuple(found[keys[0]].shape[1:])
        if self._size is None:
            self.randomize(seen)
        assert self._size is not None
        size, drawn, middle = self._size, self._map, self.middle
        self._size = self._map = self.middle = None
        if drawn is None:
            return found
        centre = np.array(middle if middle is not None else [(n - 1) / 2 for n in seen])
        tensors = [torch.as_tensor(found[key]) for key in keys]
        plain = [x.as_tensor() if isinstance(x, MetaTensor) else x for x in tensors]
        moved = resample(torch.cat([x.float() for x in plain]), size, drawn[0], drawn[1] + centre)
        for key, old, part in zip(keys, tensors, torch.split(moved, [len(x) for x in plain]), strict=True):
            new = (part >= 0.5).to(old.dtype) if key in self.masks else part
            found[key] = with_affine(new, old, size, drawn[0], drawn[1] + centre)
        return found


def resample(x: Tensor, size: Size, matrix: np.ndarray, shift: np.ndarray) -> Tensor:
    """Linear interpolation of x (C, *S) at matrix @ (p - middle of `size`) + shift for each voxel p of `size`: (C, *size)."""
    seen, dims = x.shape[1:], len(size)
    # grid_sample wants the last axis first, and places in [-1, 1] from the middle of the first voxel to that of the last
    span = np.maximum(np.array(seen, float) - 1, 1e-9)
    scale = (2 / span)[:, None] * matrix
    offset = 2 * shift / span - 1
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    grid = torch.empty(*size, dims)
    for row in range(dims):
        place = torch.full((1,) * dims, float(offset[row]))
        for axis, line in enumerate(axes):
            if scale[row, axis]:
                place = place + (line * float(scale[row, axis])).view([-1 if a == axis else 1 for a in range(dims)])
        grid[..., dims - 1 - row] = place
    moved: Tensor = F.grid_sample(x[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True)
    return moved[0]


def with_affine(new: Tensor, old: Tensor, size: Size, matrix: np.ndarray, shift: np.ndarray) -> Tensor:
    """A MetaTensor whose affine says where the new voxels lie."""
    if not isinstance(old, MetaTensor):
        return new
    dims = len(size)
    change = np.eye(len(old.affine))
    change[:dims, :dims] = matrix
    change[:dims, -1] = shift - matrix @ ((np.array(size) - 1) / 2)
    moved: Any = MetaTensor(new, meta=old.meta)
    moved.affine = old.affine @ torch.from_numpy(change).to(old.affine)
    found: Tensor = moved
    return found


def rotation(angles: Sequence[float], plane: tuple[int, int] | None) -> np.ndarray:
    """Rotation matrix for angles in radians: one in 2D or in a plane of 3D, else one about each axis, the first one first."""
    if len(angles) == 1:
        dims = 2 if plane is None else 3
        return _turn(dims, plane or (0, 1), angles[0])
    first, second, third = (_turn(3, pair, angle) for pair, angle in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True))
    matrix: np.ndarray = third @ second @ first
    return matrix


def _turn(dims: int, plane: tuple[int, int], angle: float) -> np.ndarray:
    matrix = np.eye(dims)
    a, b = plane
    matrix[a, a] = matrix[b, b] = math.cos(angle)
    matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


class RandRotateScaled(Resampled):
    """Rotation and scaling, each with a chance of its own, in one resampling; nnU-Net's SpatialTransform without elastic part.

    Args:
        keys: image, and mask where there is one.
        rotate_deg: largest angle about each axis, in degrees; "auto": 30 in 3D, 180 in 2D, and 15 where the plane in which
            images are turned is longer than 1.5 times its other side.
        prob_rotate: chance of a rotation.
        scale: range of the factor, the same for all axes; above 1 things become smaller.
        prob_scale: chance of a scaling.
        in_plane: rotate and scale only in the plane of the two longest sides of the crop; "auto": where the longest side is
            more than 3 times the shortest.
        masks: keys that are masks.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rotate_deg: float | str = "auto",
        prob_rotate: float = 0.2,
        scale: Sequence[float] = (0.7, 1.4),
        prob_scale: float = 0.2,
        in_plane: bool | str = "auto",
        masks: KeysCollection = ("mask",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, masks=masks, allow_missing_keys=allow_missing_keys)
        self.rotate_deg = rotate_deg if rotate_deg == "auto" else number(rotate_deg, "rotate_deg", 0, 180)
        self.in_plane = in_plane if in_plane == "auto" else bool(in_plane)
        self.scale = span(scale, "scale", low=1e-3)
        self.prob_rotate, self.prob_scale = chance(prob_rotate, "prob_rotate"), chance(prob_scale, "prob_scale")

    def draw(self, size: Size) -> tuple[np.ndarray, np.ndarray] | None:
        """See `Resampled.draw`."""
        rotate, scaled = self.R.random_sample() < self.prob_rotate, self.R.random_sample() < self.prob_scale
        dims = len(size)
        flat = dims == 3 and (max(size) > 3 * min(size) if self.in_plane == "auto" else bool(self.in_plane))
        plane = _plane(size) if flat else None
        turns = 3 if dims == 3 and not flat else 1
        largest = math.radians(self._largest([size[a] for a in plane] if plane else size))
        angles = self.R.uniform(-largest, largest, turns)
        factor = self.R.uniform(*self.scale)
        if not rotate and not scaled:
            return None
        matrix = rotation(angles, plane) if rotate else np.eye(dims)
        factors = [factor if scaled and (plane is None or axis in plane) else 1.0 for axis in range(dims)]
        return matrix * np.array(factors), np.zeros(dims)

    def _largest(self, turned: Sequence[int]) -> float:
        if self.rotate_deg != "auto":
            return float(self.rotate_deg)
        if len(turned) == 3:
            return 30.0
        return 15.0 if max(turned) > 1.5 * min(turned) else 180.0


def _plane(size: Size) -> tuple[int, int]:
    """The two longest axes in ascending order; of equal ones the first."""
    short = max(range(len(size)), key=lambda axis: (-size[axis], axis))
    first, second = [axis for axis in range(len(size)) if axis != short]
    return first, second


class RandCropRotated(Resampled):
    """A random part of a 2D or 3D crop at its full size, turned a little: area, aspect, place and angle in one resampling.

    Args:
        keys: image, and mask where there is one.
        area: range of the part's share of the area (in 3D of the volume).
        aspect: range of the ratio of two neighbouring sides, log-uniform.
        rotate_deg: largest angle in the plane of the two longest sides, in degrees.
        prob: chance of a change.
        masks: keys that are masks.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        area: Sequence[float] = (0.35, 1.0),
        aspect: Sequence[float] = (3 / 4, 4 / 3),
        rotate_deg: float = 0.0,
        prob: float = 1.0,
        masks: KeysCollection = ("mask",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, masks=masks, allow_missing_keys=allow_missing_keys)
        self.area, self.aspect = span(area, "area", low=1e-3, high=1), span(aspect, "aspect", low=1e-3)
        self.rotate_deg, self.prob = number(rotate_deg, "rotate_deg", 0, 180), chance(prob, "prob")

    def draw(self, size: Size) -> tuple[np.ndarray, np.ndarray] | None:
        """See `Resampled.draw`."""
        dims = len(size)
        change = self.R.random_sample() < self.prob
        share, angle = self.R.uniform(*self.area), self.R.uniform(-self.rotate_deg, self.rotate_deg)
        ratios = np.exp(self.R.uniform(*np.log(self.aspect), dims - 1) / 2)
        place = self.R.uniform(-1, 1, dims)
        if not change:
            return None
        sides = np.full(dims, share ** (1 / dims))
        for axis, ratio in enumerate(ratios):
            sides[axis] *= ratio
            sides[axis + 1] /= ratio
        sides = np.minimum(sides, 1.0)
        room = (1 - sides) * np.array(size) / 2  # the part lies within the crop before it is turned
        turn = rotation([math.radians(angle)], None if dims == 2 else _plane(size))
        return turn * sides, place * room
