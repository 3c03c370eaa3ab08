"""Raw values -> 16-bit codes of the unit interval: what the cache holds, whatever the source."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from datamodules.formats.grids import Array
from ssl_med.spec import Intensity, SslMedError

TOP = 65535  # code of 1.0; one HU of a 2000 HU window is 33 codes, so whole HU stay apart


def code_of(value: float, intensity: Intensity) -> int:
    """Code of one raw value under a window."""
    unit = (value - intensity.low) / (intensity.high - intensity.low)
    return round(min(max(unit, 0.0), 1.0) * TOP)


@dataclass(frozen=True)
class Scale:
    """Raw values -> uint16 codes: clipped to [low, high], scaled; with `keep_zero` zeros become 0 wherever the limits lie.

    With `mark_zero` zeros become 0 and nothing else does: other values are 1 at least, a 65,535th of the range.

    Each code depends on its own value only, so that a crop gets the codes that it has in the whole volume.
    """

    low: float
    high: float
    keep_zero: bool = False
    mark_zero: bool = False

    def __call__(self, array: Array) -> Array:
        """Any numeric array -> codes of the same shape."""
        if is_small(array.dtype):
            # a table of all possible values: no floating-point copy of the volume
            return self.table(array.dtype)[bits(array)]
        unit = (array.astype(np.float64) - self.low) / (self.high - self.low)
        codes: Array = np.rint(np.clip(unit, 0.0, 1.0) * TOP).astype(np.uint16)
        if self.mark_zero:
            codes = np.maximum(codes, np.uint16(1))
        if self.keep_zero or self.mark_zero:
            codes[array == 0] = 0  # background stays background when the units go below 0
        return codes

    def table(self, dtype: np.dtype[np.generic]) -> Array:
        """Codes of all values of an integer type of one or two bytes, by their bits."""
        return _table(self, np.dtype(dtype).str)


@lru_cache(maxsize=256)
def _table(scale: Scale, dtype: str) -> Array:
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    values = np.arange(np.iinfo(unsigned).max + 1, dtype=unsigned).view(dtype)
    return scale(values.astype(np.float64))


def is_small(dtype: np.dtype[np.generic]) -> bool:
    """Whole numbers of one or two bytes."""
    return dtype.kind in "iu" and dtype.itemsize <= 2


def bits(array: Array) -> Array:
    """The same bytes as unsigned numbers of the same width."""
    return array.view(f"u{array.dtype.itemsize}")


def encode(array: Array, intensity: Intensity, *, source: str) -> Array:
    """Clips and scales as `Intensity` says; any numeric array -> uint16 codes of the same shape.

    Raises:
        SslMedError: percentiles of a volume without a non-zero voxel; `source` names it.
    """
    if intensity.kind == "window":
        return window_scale(intensity)(array)
    if is_small(array.dtype):
        return scale_of_counts(*histogram(array), intensity, source=source)(array)
    return scale_of_values(array, intensity, source=source)(array)


def window_scale(intensity: Intensity) -> Scale:
    """Of a window, whose limits are the same for all images."""
    return Scale(intensity.low, intensity.high, mark_zero=marks_zero(intensity))


def marks_zero(intensity: Intensity) -> bool:
    """Whether codes have to tell zeros from other dark voxels."""
    return intensity.normalisation == "zscore_nonzero"


def histogram(array: Array) -> tuple[Array, Array]:
    """Distinct values, ascending, and how often each occurs; whole numbers of one or two bytes."""
    counts = np.zeros(1 << 8 * array.dtype.itemsize, np.int64)
    # slice by slice, because counting widens its input to eight bytes
    for part in np.moveaxis(array, int(np.argmax(np.abs(array.strides))), 0):
        counts += np.bincount(bits(part.ravel(order="K")), minlength=counts.size)
    found = np.flatnonzero(counts)
    values = found.astype(f"u{array.dtype.itemsize}").view(array.dtype)
    order = np.argsort(values)
    return values[order], counts[found[order]]


def scale_of_counts(values: Array, counts: Array, intensity: Intensity, *, source: str) -> Scale:
    """Limits of a percentile intensity from a histogram."""
    values, counts = values[values != 0], counts[values != 0]
    ends = np.cumsum(counts)
    count = int(ends[-1]) if ends.size else 0
    return _percentile_scale(intensity, count, lambda k: float(values[np.searchsorted(ends, k, "right")]), source)


def scale_of_values(array: Array, intensity: Intensity, *, source: str) -> Scale:
    """Limits of a percentile intensity from all values."""
    values = array[array != 0]
    places = {k for q in (intensity.low, intensity.high) for k in _neighbours(q, values.size)}
    if places:
        values = np.partition(values, sorted(places))
    return _percentile_scale(intensity, values.size, lambda k: float(values[k]), source)


def _percentile_scale(intensity: Intensity, count: int, rank: Callable[[int], float], source: str) -> Scale:
    if count == 0:
        raise SslMedError(f"{source}: every voxel is 0; remove the case or repair the file")
    low, high = (_percentile(q, count, rank) for q in (intensity.low, intensity.high))
    return percentile_scale(low, high, intensity)


def percentile_scale(low: float, high: float, intensity: Intensity) -> Scale:
    """Of an image whose percentiles are low and high."""
    if intensity.normalisation == "zscore" and (intensity.low, intensity.high) == (0, 100):
        return Scale(min(low, 0.0), max(high, 0.0))  # nothing is to be clipped: a zero is a value like others
    return Scale(low, high if high > low else low + 1.0, keep_zero=True, mark_zero=marks_zero(intensity))


def _neighbours(q: float, count: int) -> tuple[int, ...]:
    place = math.floor((count - 1) * (q / 100))
    return (place, min(place + 1, count - 1)) if count else ()


def _percentile(q: float, count: int, rank: Callable[[int], float]) -> float:
    """Linear between the two nearest of `count` ordered values, `rank(k)` the k-th; to the last bit as numpy does it."""
    below, above = (rank(k) for k in _neighbours(q, count))
    place = (count - 1) * (q / 100)
    t = place - math.floor(place)
    return below + (above - below) * t if t < 0.5 else above - (above - below) * (1 - t)


def decode(codes: Array, norm: Norm | None = None) -> torch.Tensor:
    """uint16 codes (C, *S) -> float32 tensor: in [0, 1], or as `norm` standardises it."""
    unit = codes.astype(np.float32)
    unit *= np.float32(1.0 / TOP)
    return standardise(torch.from_numpy(unit), norm)


@dataclass(frozen=True)
class Norm:
    """How values in [0, 1] become what the network sees: less the mean and over the deviation of their channel.

    `zeros`: what is exactly 0 stays 0.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    zeros: bool = False


def standardise(unit: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """(C, *S) in [0, 1] -> standardised by channel; None changes nothing."""
    if norm is None:
        return unit
    shape = (-1, *[1] * (unit.ndim - 1))
    mean, sd = (torch.tensor(values, dtype=torch.float32).view(shape) for values in (norm.mean, norm.sd))
    found = (unit - mean) / sd
    return found.masked_fill_(unit == 0, 0) if norm.zeros else found


def norm_of(codes: Array, intensity: Intensity) -> Norm | None:
    """What standardises an image (C, *S) of codes, before anything was padded to it; None: values stay in [0, 1]."""
    if intensity.normalisation in ("unit", "dataset"):
        return norm_of_counts(np.zeros((len(codes), 0)), intensity)
    return norm_of_counts(np.stack([code_counts(channel) for channel in codes]), intensity)


def code_counts(codes: Array) -> Array:
    """How often each code occurs, (65536,); slice by slice, because counting widens its input to eight bytes."""
    counts = np.zeros(TOP + 1, np.int64)
    for part in codes:
        counts += np.bincount(part.ravel(), minlength=TOP + 1)
    return counts


def norm_of_counts(counts: Array, intensity: Intensity) -> Norm | None:
    """As `norm_of`, from how often each code occurs in each channel, (C, 65536).

    An image of one value becomes 0: its deviation is taken as the whole range. The deviation is that of all voxels, not an
    estimate from a sample.
    """
    if intensity.normalisation == "unit":
        return None
    if intensity.normalisation == "dataset":
        width = intensity.high - intensity.low
        mean, sd = (intensity.mean - intensity.low) / width, intensity.sd / width
        return Norm((mean,) * len(counts), (sd,) * len(counts))
    zeros = marks_zero(intensity)
    means, deviations = [], []
    for one in counts:
        present = np.flatnonzero(one[1:]) + 1 if zeros else np.flatnonzero(one)
        number = one[present].astype(np.float64)
        total = max(number.sum(), 1.0)
        mean = float((present * number).sum() / total)
        sd = math.sqrt(float((number * (present - mean) ** 2).sum() / total))
        means.append(mean / TOP)
        deviations.append(sd / TOP if sd > 0 else 1.0)
    return Norm(tuple(means), tuple(deviations), zeros)
