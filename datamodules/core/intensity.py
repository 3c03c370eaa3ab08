"""Raw values -> 16-bit codes of the unit interval: what the cache holds, whatever the source."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.core.readers import Array
from ssl_med.spec import Intensity, SslMedError

TOP = 65535  # code of 1.0; one HU of a 2000 HU window is 33 codes, so whole HU stay apart


def code_of(value: float, intensity: Intensity) -> int:
    """Code of one raw value under a window."""
    unit = (value - intensity.low) / (intensity.high - intensity.low)
    return round(min(max(unit, 0.0), 1.0) * TOP)


def encode(array: Array, intensity: Intensity, *, source: str) -> Array:
    """Clips and scales as `Intensity` says; any numeric array -> uint16 codes of the same shape.

    Raises:
        SslMedError: percentiles of a volume without a non-zero voxel; `source` names it.
    """
    if intensity.kind == "window":
        return _scale(array, intensity.low, intensity.high)
    values = array[array != 0]
    if values.size == 0:
        raise SslMedError(f"{source}: every voxel is 0; remove the case or repair the file")
    low, high = np.percentile(values, [intensity.low, intensity.high])
    codes = _scale(array, float(low), float(high) if high > low else float(low) + 1.0)
    codes[array == 0] = 0  # background stays background when the units go below 0
    return codes


def _scale(array: Array, low: float, high: float) -> Array:
    if array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        # a table of all possible values: no floating-point copy of the volume
        info = np.iinfo(array.dtype)
        table = _scale(np.arange(info.min, info.max + 1, dtype=np.float64), low, high)
        return table[array.astype(np.int32) - info.min]
    unit = (array.astype(np.float64) - low) / (high - low)
    codes: Array = np.rint(np.clip(unit, 0.0, 1.0) * TOP).astype(np.uint16)
    return codes


def decode(codes: Array) -> torch.Tensor:
    """uint16 codes -> float32 tensor in [0, 1]."""
    return torch.from_numpy(codes.astype(np.float32) * np.float32(1.0 / TOP))
