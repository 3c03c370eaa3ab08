"""A list of transforms as the user wrote it; what it means is for `pipeline`, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ssl_med.spec import DataSpec


@dataclass(frozen=True)
class TransformList:
    """Mappings with `_target_` and arguments, and what their words mean.

    * label: how the user names the list, for messages.
    * allow: packages besides MONAI and ssl_med whose transforms may be named.
    * variables: what `${NAME}` stands for. * random: False: random entries are left out.
    """

    entries: tuple[Mapping[str, Any], ...] = ()
    label: str = "the list of transforms"
    allow: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    random: bool = True

    def __bool__(self) -> bool:
        return bool(self.entries)


NOTHING = TransformList()


def variables_of(spec: DataSpec, mirror: tuple[int, ...] | None = None) -> dict[str, Any]:
    """`patch_size`, and for fine-tuning `mirror_axes`: the axes whose sides may be exchanged."""
    found: dict[str, Any] = {"patch_size": list(spec.patch_size)}
    return found if mirror is None else {**found, "mirror_axes": list(mirror)}
