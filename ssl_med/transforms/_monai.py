"""What all transforms of `ssl_med.transforms.monai` share: MONAI's contract around our batched functions.

A transform draws two numbers from MONAI's random state: whether it acts, and the seed of the generator that the batched
function gets. So one seed means one result, in the array form, in the dictionary form and in a batch of one, and all keys of
a dictionary meet the same draws.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import to_affine_nd
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple, ensure_tuple_rep
from torch import Tensor

from ssl_med.ranges import Share, Side, check_ranges
from ssl_med.spec import SslMedError

Sides = tuple[Side, ...] | Side
Mode = Literal["bilinear", "nearest"]
_TOLERANCE = 1e-4  # by which interpolation may leave [0, 1]


@dataclasses.dataclass(eq=False, kw_only=True)
class Rand(RandomizableTransform):  # type: ignore[misc]
    """One batched function `(x, generator, **settings)` as a MONAI transform of one image.

    A subclass names the function and declares its settings under the function's own names. Input: array, tensor or MetaTensor
    (C, H, W) or (C, H, W, D), never changed in place. Output: a tensor of the same shape, a MetaTensor with the same affine
    where MONAI tracks meta data.

    Raises:
        SslMedError: a setting outside its range, an image of other dimensions, or intensities outside [0, 1] where they matter.
    """

    offers: ClassVar[Callable[..., Any]]
    """the function of `ssl_med.transforms`"""
    in_unit_range: ClassVar[bool] = True
    """whether it assumes intensities in [0, 1]; false where values only change places"""
    moves: ClassVar[bool] = False
    """whether voxels come to lie elsewhere in the world of the image, so that a mask has to follow"""
    backend: ClassVar[list[str]] = [TransformBackends.TORCH]

    prob: Share = 1.0
    """probability that the transform acts"""

    def __post_init__(self) -> None:
        check_ranges(self, type(self).__name__)
        RandomizableTransform.__init__(self, prob=self.prob)
        self._seed = 0

    def randomize(self, data: Any = None) -> None:
        """Draws from `self.R` whether the transform acts, and the seed of everything else."""
        super().randomize(None)
        self._seed = int(self.R.randint(np.iinfo(np.int64).max, dtype=np.int64))

    def __call__(self, img: Any, /, randomize: bool = True) -> Any:
        """(C, *S) -> (C, *S); with `randomize` false the latest draws are used again."""
        if randomize:
            self.randomize(img)
        return self.transformed(img, 0)

    def transformed(self, img: Any, number: int) -> Tensor:
        """The image of key `number` with the latest draws."""
        image: Tensor = convert_to_tensor(img, track_meta=get_track_meta())
        if image.ndim not in (3, 4):
            raise SslMedError(
                f"{type(self).__name__} takes an image (C, H, W) or (C, H, W, D), this one is {tuple(image.shape)}: put "
                "EnsureChannelFirst before it"
            )
        if not self._do_transform:
            return self.left_alone(image)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        result = self.apply(self._checked(plain)[None], self._generator(plain), number)[0]
        if not isinstance(image, MetaTensor):
            return result
        tracked: Any = MetaTensor(result).copy_meta_from(image)
        source = self.source(tuple(plain.shape[1:]), self._generator(plain))
        if source is not None:
            affine: Tensor = image.affine
            tracked.affine = affine @ to_affine_nd(len(affine) - 1, source.cpu()).to(affine)
        kept: Tensor = tracked
        return kept

    def left_alone(self, image: Tensor) -> Tensor:
        """What an image becomes when the transform does not act: itself."""
        return image

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """The function on a batch of one, (1, C, *S)."""
        result: Tensor = type(self).offers(x, generator, **self._settings(x.ndim - 2))
        return result

    def source(self, shape: Sequence[int], generator: torch.Generator) -> Tensor | None:
        """(D + 1, D + 1): maps voxels of the result to those of the input; None: both have the same grid."""
        return None

    def _generator(self, like: Tensor) -> torch.Generator:
        return torch.Generator(like.device).manual_seed(self._seed)

    def _settings(self, dims: int) -> dict[str, Any]:
        """Arguments of the function: our fields of the same names, sides repeated for each axis; it acts for sure."""
        taken = inspect.signature(type(self).offers).parameters
        values: dict[str, Any] = {name: getattr(self, name) for name in taken if hasattr(self, name)}
        for name in {"side", "patch"} & values.keys():
            values[name] = ensure_tuple_rep(values[name], dims)
        return {**values, "p": 1.0} if "p" in taken else values

    def _checked(self, x: Tensor) -> Tensor:
        if not self.in_unit_range:
            return x
        x = x if x.is_floating_point() else x.float()
        low, high = (float(end) for end in x.aminmax()) if x.numel() else (0.0, 1.0)
        if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):
            raise SslMedError(
                f"{type(self).__name__} needs intensities in [0, 1], this image has {low:g} to {high:g}: put "
                "ScaleIntensityRange(..., b_min=0, b_max=1, clip=True) before it"
            )
        return x


@dataclasses.dataclass(eq=False, kw_only=True)
class Interpolating(Rand):
    """A transform that interpolates: images linearly, label maps by their nearest voxel."""

    in_unit_range: ClassVar[bool] = False
    moves: ClassVar[bool] = True

    mode: Mode | Sequence[Mode] = "bilinear"
    """"bilinear", or "nearest" for a label map; the dictionary form takes one for all keys or one each"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._modes = ensure_tuple_rep(self.mode, len(getattr(self, "keys", (0,))))
        wrong = [mode for mode in self._modes if mode not in ("bilinear", "nearest")]
        if wrong:
            raise SslMedError(f"{type(self).__name__}.mode is {wrong[0]!r}; it must be 'bilinear' or 'nearest'")

    def apply(self, x: Tensor, generator: torch.Generator, number: int) -> Tensor:
        """Linear, or the voxel next to where linear interpolation would look."""
        if self._modes[number] == "bilinear":
            return self.interpolate(x if x.is_floating_point() else x.float(), generator)
        shape = x.shape[2:]
        axes = [torch.arange(side, device=x.device, dtype=torch.float32) for side in shape]
        # interpolating the voxels' own coordinates says where each voxel of the result comes from
        place = self.interpolate(torch.stack(torch.meshgrid(*axes, indexing="ij"))[None], generator)[0].round().long()
        at = [position.clamp(0, side - 1) for position, side in zip(place, shape, strict=True)]
        return x[(slice(None), slice(None), *at)]

    def interpolate(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The function on a batch of floating point images."""
        return super().apply(x, generator, 0)


class Labelled(Rand):
    """A pretext task: what was done is the label that a network predicts; the dictionary form writes it under `label_key`."""

    moves: ClassVar[bool] = True

    label: int = 0
    """of the latest image"""


@dataclasses.dataclass(eq=False)
class Keyed(MapTransform):  # type: ignore[misc]
    """Dictionary form of the `Rand` that stands behind it among the bases: `class RandXd(Keyed, RandX)`.

    All keys share the draws, and so must share the spatial shape; keys with draws of their own take one transform each.

    Raises:
        ValueError: no keys.
        KeyError: a key that the data lack.
        SslMedError: keys of different spatial shapes.
    """

    keys: KeysCollection
    """images to transform, alike"""
    allow_missing_keys: bool = dataclasses.field(default=False, kw_only=True)
    """whether data may lack some of the keys"""

    def __post_init__(self) -> None:
        self.keys: tuple[Hashable, ...] = ensure_tuple(self.keys)
        if not self.keys:
            raise ValueError("keys must be non empty.")
        super().__post_init__()

    def __call__(self, data: Mapping[Hashable, Any], /, randomize: bool = True) -> dict[Hashable, Any]:
        """A new dictionary, in which the images of `keys` are replaced."""
        d = dict(data)
        if randomize:
            self.randomize(None)
        present = list(self._present(d))
        shapes = {key: tuple(d[key].shape[1:]) for key, _ in present}
        if len(set(shapes.values())) > 1:
            raise SslMedError(
                f"{type(self).__name__} does the same to all its keys, but their shapes differ: {shapes}; give each key a "
                f"{type(self).__name__} of its own, or resample them to one grid before"
            )
        for key, number in present:
            d[key] = self.transformed(d[key], number)
        if present and isinstance(self, Labelled):
            d[self.label_key] = self.label
        return d

    def _present(self, d: Mapping[Hashable, Any]) -> Iterator[tuple[Hashable, int]]:
        found: Iterator[tuple[Hashable, int]] = self.key_iterator(d, range(len(self.keys)))
        return found
