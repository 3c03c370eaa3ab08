"""Arguments of transforms that come from a list: numbers in their range, or one line that names the argument."""

from __future__ import annotations

import math
from typing import Any

from ssl_med.spec import SslMedError

Pair = tuple[float, float]


def number(value: Any, name: str, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SslMedError(f"argument '{name}' is {value!r}; it must be a number from {low:g} to {high:g}")
    return float(value)


def chance(value: Any, name: str) -> float:
    """A probability."""
    return number(value, name, 0, 1)


def span(value: Any, name: str, *, low: float, high: float = math.inf) -> Pair:
    """The two ends of a range within [low, high]."""
    plain = isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, int | float) for one in value)
    if not plain or not low <= value[0] <= value[1] <= high:
        raise SslMedError(f"argument '{name}' is {value!r}; it must be [low, high]")
    return float(value[0]), float(value[1])
