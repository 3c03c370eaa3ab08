"""Ranges of numeric settings, declared as the types of their fields and checked where a value becomes that type.

    temperature: Positive = 0.07
    crop_scale: tuple[PositiveShare, PositiveShare] = (0.2, 1.0)
    thumbnail: Annotated[int, Range(16, 1024)] = 32

Nothing else is to be written: `values.convert` refuses what lies outside in one line, help and the page of settings say the
range, and `check_ranges` does the same for a config that was made in Python. NaN and infinity lie in no range.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from ssl_med.spec import SslMedError

_REACH = 10**6  # bounds beyond it are no part of a setting's meaning, and not spelled out


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    * above: excluded lower end, in place of `low`. * below: excluded upper end, in place of `high`. NaN is never inside.
    * special: values outside that mean something else, such as -1 for "no limit".
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    special: tuple[float, ...] = ()

    def complaint(self, value: float) -> str:
        """What a value must be that it is not: "at least 1"; empty for a number inside."""
        if value in self.special or self._holds(value):
            return ""
        finite = isinstance(value, int) or math.isfinite(value)  # a whole number may be too long for a float
        low, high = self._ends()
        if finite and value >= min(self.high, self.below):
            return high
        if finite and not self.special:
            return low
        return " or ".join([*map(_number, self.special), self.words() or "a finite number"])

    def words(self) -> str:
        """Both ends, but an upper one that only keeps numbers in reach: "at least 1 and at most 1024"."""
        low, high = self._ends()
        return " and ".join(filter(None, (low, high if min(self.high, self.below) < _REACH else "")))

    def notation(self) -> str:
        """The same as the page of settings writes it: ">= 1", "in [0, 1)"."""
        low, high = max(self.low, self.above), min(self.high, self.below)
        left, right = "(" if self.above >= self.low else "[", ")" if self.below <= self.high else "]"
        if high < _REACH:
            text = f"in {left}{_number(low)}, {_number(high)}{right}"
        else:
            text = f"{'>' if left == '(' else '>='} {_number(low)}" if low > -_REACH else ""
        return " or ".join(filter(None, [*map(_number, self.special), text]))

    def _holds(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def _ends(self) -> tuple[str, str]:
        """The lower and the upper end in words; '' for none."""
        low = f"above {_number(self.above)}" if self.above >= self.low else f"at least {_number(self.low)}"
        high = f"below {_number(self.below)}" if self.below <= self.high else f"at most {_number(self.high)}"
        lowest, highest = max(self.low, self.above), min(self.high, self.below)
        return low if math.isfinite(lowest) else "", high if math.isfinite(highest) else ""


def _number(value: float) -> str:
    """2147483647 as a whole number, 1e-06 as it is typed."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else f"{value:g}"


def range_of(hint: Any) -> tuple[Any, Range | None]:
    """Type of a field without its range, and the range; None: it declares none."""
    if typing.get_origin(hint) is not Annotated:
        return hint, None
    base, *marks = typing.get_args(hint)
    return base, next((mark for mark in marks if isinstance(mark, Range)), None)


def check_ranges(config: Any, prefix: str) -> None:
    """Refuses numbers outside the ranges of their fields in a config made in Python; building one from layers does it anyway.

    Raises:
        SslMedError: names the key, `prefix`.KEY.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, where = getattr(config, field.name), f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, where)
            continue
        for number, allowed in _bounded(hints[field.name], value):
            complaint = allowed.complaint(number)
            if complaint:
                raise SslMedError(f"{where} is {value}; {'it' if number is value else 'each'} must be {complaint}")


def _bounded(hint: Any, value: Any) -> Iterator[tuple[float, Range]]:
    """The numbers in a value, each with its range; what is of another type is a type checker's."""
    kind, allowed = range_of(hint)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        for one in arguments:
            yield from _bounded(one, value)
    elif allowed is not None and isinstance(value, int | float) and not isinstance(value, bool):
        yield value, allowed
    elif isinstance(value, list | tuple) and arguments:
        alike = Ellipsis in arguments or typing.get_origin(kind) is list
        for one, item in zip([arguments[0]] * len(value) if alike else arguments, value, strict=False):
            yield from _bounded(one, item)


LARGEST = 2**31 - 1  # of a whole number, so that products of two fit into 64 bits

Count = Annotated[int, Range(1, LARGEST)]
Natural = Annotated[int, Range(0, LARGEST)]
Limit = Annotated[int, Range(1, LARGEST, special=(-1,))]
"""A number that something ends at; -1: it does not."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Width = Annotated[int, Range(1, 2**20)]
"""Of a layer."""
Processes = Annotated[int, Range(0, 1024)]
"""Processes or threads; 0 has a meaning of its own."""
Side = Annotated[int, Range(1, 2**14)]
"""Of an image, a crop or a patch, in pixels or voxels."""
Level = Annotated[int, Range(-64, 63)]
"""Of a pyramid, counted from the finest, negative ones from the last."""

Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(above=0, high=1)]
BelowOne = Annotated[float, Range(0, below=1)]
Positive = Annotated[float, Range(above=0, high=1e6)]
NonNegative = Annotated[float, Range(0, 1e6)]
StoredValue = Annotated[float, Range(-1e9, 1e9)]
"""A stored value, such as HU."""
Degrees = Annotated[float, Range(0, 180)]
Millimetres = Annotated[float, Range(above=0, high=1e4)]
