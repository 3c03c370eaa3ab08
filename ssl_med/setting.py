"""What a setting is good for, said at its field: what it changes, what it was before it existed, how a hash names it.

A field without `setting(...)` changes the result of a run. From these marks come the hash of a run and the keys of stores and
of files of features (`ssl_med.config.keyed`): there is no list in which a new setting could be forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Affects = Literal["store", "sample", "result", "nothing"]
"""What a setting changes, from much to nothing; who changes the store changes samples and results too.

* store: what `ssl-med prepare` derives. * sample: what the sample of a case is, and so its features.
* result: the numbers of a run. * nothing: where it is written, how fast it is, how it is watched.
"""
LEVELS: tuple[Affects, ...] = ("store", "sample", "result", "nothing")
MARK = "ssl_med"
Needs = Mapping[str, Any]
"""Setting -> the values with which another one has an effect: a tuple of them, empty for none, or `Other(...)`. A name without
a dot is of the same section, one of `FACTS` is what a run is about."""
FACTS = {
    "run": "ssl-med {} does not use it",
    "dims": "the data are {}",
    "labels": "the labels are {}",
    "colours": "the images are {}",
    "validation": "the split has no validation part",
}
"""run: its command. dims: 2D or 3D. labels: classes, findings, masks or none. colours: grey or coloured. validation: whether
there is such a part."""
ALWAYS = object()  # no plain value is equal to it: the setting existed from the beginning


@dataclass(frozen=True)
class Mark:
    """The promise of a field; `before` and `named` as in `setting`."""

    affects: Affects | None = None
    before: Any = ALWAYS
    named: Callable[[Any], Any] | None = None
    path: bool = False
    needs: tuple[Needs, ...] = ()


class Other:
    """What another setting must not be.

    Args:
        values: that it must not be; none: it must be set, that is neither 0 nor empty nor false.
    """

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __contains__(self, value: Any) -> bool:
        return value not in self.values if self.values else bool(value)


SET = Other()


def setting(
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    affects: Affects | None = None,
    before: Any = ALWAYS,
    named: Callable[[Any], Any] | None = None,
    path: bool = False,
    needs: Needs | tuple[Needs, ...] = (),
) -> Any:
    """A dataclass field with its promise.

    Args:
        default: its value.
        default_factory: makes its value, in place of `default`.
        affects: what it changes; None: what the fields of this dataclass change (its `AFFECTS`), mostly the result.
        before: what runs did before the setting existed, as its plain value; with it, a run keeps the hash that it had.
        named: what replaces the value in a hash, such as a digest of the file that it names.
        path: whether it names a file or folder, which is not shown to others.
        needs: with what it has an effect: all of a mapping, any of several. Where it has none, a command line that sets it is
            refused.
    """
    mark = Mark(affects, before, named, path, (needs,) if isinstance(needs, Mapping) else needs)
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={MARK: mark})
    return dataclasses.field(default=default, metadata={MARK: mark})


@cache
def marks(schema: Any) -> dict[str, Mark]:
    """The promise of each field of a dataclass, with `affects` decided; a subclass that changes a default keeps it."""
    found = {}
    for field in dataclasses.fields(schema):
        known = (getattr(base, "__dataclass_fields__", {}).get(field.name) for base in schema.__mro__)
        mark = next((one.metadata[MARK] for one in known if one is not None and MARK in one.metadata), Mark())
        found[field.name] = dataclasses.replace(mark, affects=mark.affects or getattr(schema, "AFFECTS", "result"))
    return found
