"""Changes of an image by one parameter: what an encoder may be invariant to. All act on whole batches, in 2D and 3D.

The ranges are those of Anton et al. 2022 (official code), brought to the size of the image, where the paper has the change;
gamma, noise, slice thickness and shift of intensities are ours. Places outside the image show its border (in the paper black,
cut away later), and shear goes to 40 degrees (in the paper to 160, beyond the point where an image is a line).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ssl_med.transforms import colour, intensity, spatial

Parameters = Callable[[int, Sequence[int]], list[tuple[float, ...]]]
Apply = Callable[[Tensor, tuple[float, ...], Tensor], Tensor]

_SHIFT = 1 / 14  # of a side, the paper's 16 of 224 pixels
_BLUR = 20 / 224  # of the shortest side, standard deviation
_SHEAR = 40.0  # degrees
_ZOOMS = (0.5, 1.0)  # side of a crop, share of the image's
_THICKEST = 4.0  # slices


@dataclass(frozen=True)
class Change:
    """One kind of change.

    * unit: of the parameter, where it is one number that can stand on an axis.
    * parameters: how many, shape of the image -> parameters; the identity may be among them.
    * identity: where all numbers of a parameter are this, nothing changes; None: no parameter of the list changes nothing.
    * apply: images (B, C, *S), a parameter, standard normal noise like the images -> changed images.
    * dims: of images that it exists for. * channels: that it needs, 0 for any.
    * values: whether it works on intensities in [0, 1].
    """

    unit: str
    parameters: Parameters
    identity: float | None
    apply: Apply
    dims: tuple[int, ...] = (2, 3)
    channels: int = 0
    values: bool = False

    def steps(self, count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
        """The parameters without the identity."""
        found = self.parameters(count, shape)
        if self.identity is None:
            return found
        return [one for one in found if max(abs(number - self.identity) for number in one) > 1e-6]

    def __call__(self, x: Tensor, parameter: tuple[float, ...], normal: Tensor) -> Tensor:
        """The changed images; standardised ones are brought to [0, 1] by their own extremes and back where that is needed."""
        if not self.values or (x.min() >= 0 and x.max() <= 1):
            return self.apply(x, parameter, normal)
        flat = x.flatten(1)
        low = flat.min(1).values.view(-1, *[1] * (x.ndim - 1))
        span = (flat.max(1).values.view_as(low) - low).clamp_min(1e-12)
        return self.apply((x - low) / span, parameter, normal) * span + low


def _line(low: float, high: float, *, ring: bool = False) -> Parameters:
    """Evenly spaced from low to high; on a ring the end is the beginning."""

    def parameters(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
        step = (high - low) / (count if ring else max(1, count - 1))
        return [(low + k * step,) for k in range(count)]

    return parameters


def _grid(reach: float, axes: int) -> Parameters:
    """A cubic grid of about as many points within plus and minus reach; axes 0: as many as the image has."""

    def parameters(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
        dims = axes or len(shape)
        side = max(2, round(count ** (1 / dims)))
        return list(product(*[[reach * (2 * k / (side - 1) - 1) for k in range(side)]] * dims))

    return parameters


def _once(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
    return [(1.0,)]


def _crops(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
    """Side of a box as a share of the image's, then its place along each axis, 0 first and 1 last."""
    side = max(2, round(count ** (1 / (len(shape) + 1))))
    zooms = [_ZOOMS[0] + (_ZOOMS[1] - _ZOOMS[0]) * k / side for k in range(side)]
    places = [k / (side - 1) for k in range(side)]
    return [(zoom, *place) for zoom in zooms for place in product(places, repeat=len(shape))]


def _full(x: Tensor, value: float) -> Tensor:
    return torch.full((len(x),), value, device=x.device)


def _box(x: Tensor, corner: Sequence[float], side: Sequence[float]) -> Tensor:
    """The image inside a box, both as shares of its sides, at the image's size."""
    rows = [torch.tensor(values, device=x.device).expand(len(x), -1) for values in (corner, side)]
    return spatial.apply_crop(x, spatial.Crop(*rows))


def _rotate(plane: tuple[int, int]) -> Apply:
    def apply(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
        others = [axis for axis in range(x.ndim - 2) if axis not in plane]
        order = [0, 1, *(2 + axis for axis in (*plane, *others))]
        turned = spatial.apply_rotation(x.permute(order), _full(x, math.radians(p[0])))
        return turned.permute([order.index(axis) for axis in range(x.ndim)]).contiguous()

    return apply


def _flip(axes: dict[int, int]) -> Apply:
    def apply(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
        return x.flip(2 + axes[x.ndim - 2])

    return apply


def _translate(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    return _box(x, p, [1.0] * len(p))


def _scale(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    dims = x.ndim - 2
    return _box(x, [(1 - 1 / p[0]) / 2] * dims, [1 / p[0]] * dims)


def _crop(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    return _box(x, [place * (1 - p[0]) for place in p[1:]], [p[0]] * (x.ndim - 2))


def _shear(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) - (n - 1) / 2 for n in x.shape[2:4])
    slopes = [math.tan(math.radians(angle)) for angle in p]
    shift = torch.stack(
        [(slopes[0] * columns).expand(len(rows), -1), (slopes[1] * rows)[:, None].expand(-1, len(columns))]
    )
    shift = shift.view(1, *shift.shape, *[1] * (x.ndim - 4)).expand(len(x), 2, *x.shape[2:])
    return spatial.apply_displacement(x, shift)


def _blur(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    sigma = p[0] * min(x.shape[2:])
    return intensity.apply_blur(x, _full(x, sigma), math.ceil(3 * sigma))


def _thick(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    """Slices of p voxels each, back on the grid of the image by linear interpolation."""
    whole = spatial.Crop(torch.zeros(len(x), 3, device=x.device), torch.ones(len(x), 3, device=x.device))
    thin = x.shape[2:]
    thick = (*thin[:2], max(1, round(thin[2] / p[0])))
    return spatial.apply_crop(spatial.apply_crop(x, whole, size=thick), whole, size=thin)


def _thicknesses(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
    """Each number of slices that remains, from all to a quarter of them, at most `count`."""
    left = {round(shape[2] / (1 + (_THICKEST - 1) * k / count)) for k in range(1, count + 1)} - {0, shape[2]}
    return [(shape[2] / number,) for number in sorted(left, reverse=True)]


def _factor(change: Callable[[Tensor, Tensor], Tensor]) -> Apply:
    return lambda x, p, normal: change(x, _full(x, p[0]))


def _always(change: Callable[[Tensor, Tensor], Tensor]) -> Apply:
    return lambda x, p, normal: change(x, torch.ones(len(x), dtype=torch.bool, device=x.device))


def _brightness(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    return intensity.apply_brightness_contrast(x, _full(x, p[0]), _full(x, 1.0))


def _contrast(x: Tensor, p: tuple[float, ...], normal: Tensor) -> Tensor:
    return intensity.apply_brightness_contrast(x, _full(x, 1.0), _full(x, p[0]))


def _powers(count: int, shape: Sequence[int]) -> list[tuple[float, ...]]:
    return [(math.exp(power),) for (power,) in _line(-math.log(3), math.log(3))(count, shape)]


_TURN = _line(0, 360, ring=True)

CHANGES: dict[str, Change] = {
    "rotation": Change("degrees", _TURN, 0.0, _rotate((0, 1)), dims=(2,)),
    "rotation_x": Change("degrees", _TURN, 0.0, _rotate((1, 2)), dims=(3,)),
    "rotation_y": Change("degrees", _TURN, 0.0, _rotate((0, 2)), dims=(3,)),
    "rotation_z": Change("degrees", _TURN, 0.0, _rotate((0, 1)), dims=(3,)),
    # left and right: columns of an image, x of a volume; up and down, or front and back: rows, y
    "hflip": Change("", _once, None, _flip({2: 1, 3: 0})),
    "vflip": Change("", _once, None, _flip({2: 0, 3: 1})),
    "zflip": Change("", _once, None, _flip({3: 2}), dims=(3,)),
    "translation": Change("", _grid(_SHIFT, 0), 0.0, _translate),
    "scale": Change("factor", _line(0.25, 2), 1.0, _scale),
    "shear": Change("", _grid(_SHEAR, 2), 0.0, _shear),
    "crop": Change("", _crops, None, _crop),
    "blur": Change("share of the side", _line(0, _BLUR), 0.0, _blur),
    "thickness": Change("slices", _thicknesses, 1.0, _thick, dims=(3,)),
    "brightness": Change("factor", _line(0.25, 5), 1.0, _brightness, values=True),
    "contrast": Change("factor", _line(0.25, 5), 1.0, _contrast, values=True),
    "gamma": Change("exponent", _powers, 1.0, _factor(intensity.apply_gamma), values=True),
    "intensity_shift": Change(
        "share of the window",
        _line(-0.1, 0.1),
        0.0,
        lambda x, p, normal: (x + p[0]).clamp(0, 1),
        dims=(3,),
        values=True,
    ),
    "noise": Change(
        "standard deviation",
        _line(0, 0.2),
        0.0,
        lambda x, p, normal: intensity.apply_noise(x, _full(x, p[0]), normal),
        values=True,
    ),
    "invert": Change("", _once, None, lambda x, p, normal: 1 - x, values=True),
    "sharpness": Change("factor", _line(1, 30), 1.0, _factor(colour.apply_sharpness), dims=(2,), values=True),
    "equalize": Change("", _once, None, _always(colour.apply_equalize), dims=(2,), values=True),
    "hue": Change("turns", _line(-0.5, 0.5), 0.0, _factor(colour.apply_hue), dims=(2,), channels=3, values=True),
    "saturation": Change(
        "factor", _line(0.25, 5), 1.0, _factor(colour.apply_saturation), dims=(2,), channels=3, values=True
    ),
    "grayscale": Change("", _once, None, _always(colour.apply_greyscale), dims=(2,), channels=3, values=True),
}


def changes_for(dims: int, channels: int) -> tuple[str, ...]:
    """Names of the changes that images of these dimensions and channels can have."""
    return tuple(name for name, change in CHANGES.items() if dims in change.dims and change.channels in (0, channels))
