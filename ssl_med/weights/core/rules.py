"""Rules that carry the tensors of a foreign file to our names; what is left out is left out for a named reason.

A pattern is a regular expression for the whole key. A key passes the rules from first to last: `Rename` gives it another name,
under which it meets the next rules; `Drop`, `Alias`, `Fuse` and `Split` end its way. A key that no rule ends goes by the name
that it has then.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rename:
    r"""Another name, and where it must be another form.

    Args:
        pattern: keys that it is for.
        to: the new name; `\1` is the pattern's first group.
        change: what is done to the tensor, such as a permutation of its axes.
    """

    pattern: str
    to: str
    change: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Drop:
    """Keys that have no place in an encoder, and why: "classification head", "momentum queue", "optimiser"."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Alias:
    """A second name of a tensor that the file also holds under the name `of`; left out when both are equal, else unexplained.

    `of` is a name as this rule sees it: after the renames before it.
    """

    pattern: str
    of: str


@dataclass(frozen=True)
class Fuse:
    r"""Several tensors that are one of ours, joined along the first axis in the order of `parts`.

    Args:
        pattern: with the group `(?P<part>...)`, which tells the parts apart.
        parts: what that group is for the first, the second, ... of them.
        to: our name; `\1` is the pattern's first group.
    """

    pattern: str
    parts: tuple[str, ...]
    to: str


@dataclass(frozen=True)
class Split:
    """One tensor that is several of ours: cut into equal parts along the first axis, named `to` in order."""

    pattern: str
    to: tuple[str, ...]


Rule = Rename | Drop | Alias | Fuse | Split


@dataclass
class Renamed:
    """What the rules made of a file.

    * tensors: by our name. * origin: our name -> the foreign keys that it came from. * dropped: foreign key -> reason.
    * clashes: foreign keys that a rule could not carry, each with why.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    clashes: dict[str, str] = field(default_factory=dict)


def strip(*prefixes: str) -> list[Rule]:
    """Rules that take prefixes of wrappers away wherever they stand first: `strip("module.", "backbone.")`."""
    return [Rename(re.escape(prefix) + "(.+)", r"\1") for prefix in prefixes]


def apply(rules: Sequence[Rule], state: Mapping[str, Tensor]) -> Renamed:
    """Carries every tensor of a file through the rules."""
    found, aliases = Renamed(), []
    parts: dict[str, tuple[Fuse, dict[str, tuple[str, Tensor]]]] = {}
    seen: dict[tuple[int, str], Tensor] = {}
    for theirs, tensor in state.items():
        name, ended = theirs, False
        for number, rule in enumerate(rules):
            match = re.fullmatch(rule.pattern, name)
            seen.setdefault((number, name), tensor)
            if match is None:
                continue
            if isinstance(rule, Rename):
                name = match.expand(rule.to)
                tensor = rule.change(tensor) if rule.change else tensor
                continue
            ended = True
            if isinstance(rule, Drop):
                found.dropped[theirs] = rule.reason
            elif isinstance(rule, Alias):
                aliases.append((theirs, tensor, number, match.expand(rule.of)))
            elif isinstance(rule, Fuse):
                to = match.expand(rule.to)
                parts.setdefault(to, (rule, {}))[1][match["part"]] = (theirs, tensor)
            else:
                _split(found, theirs, tensor, [match.expand(to) for to in rule.to])
            break
        if not ended:
            _put(found, name, (theirs,), tensor)
    for theirs, tensor, number, of in aliases:
        other = seen.get((number, of))
        if other is not None and other.shape == tensor.shape and torch.equal(other, tensor):
            found.dropped[theirs] = f"second name of {of}"
        else:
            found.clashes[theirs] = (
                f"is no copy of {of}" if other is not None else f"{of}, its first name, is not there"
            )
    for to, (fuse, held) in parts.items():
        _fuse(found, to, fuse, held)
    return found


def _put(found: Renamed, name: str, theirs: tuple[str, ...], tensor: Tensor) -> None:
    if name in found.tensors:
        first = ", ".join(found.origin[name])
        found.clashes.update(dict.fromkeys(theirs, f"gets the name {name}, which {first} has"))
    else:
        found.tensors[name], found.origin[name] = tensor, theirs


def _split(found: Renamed, theirs: str, tensor: Tensor, names: Iterable[str]) -> None:
    names = list(names)
    if not tensor.ndim or len(tensor) % len(names):
        found.clashes[theirs] = f"{list(tensor.shape)} cannot be cut into {len(names)}"
        return
    for name, piece in zip(names, tensor.chunk(len(names)), strict=True):
        _put(found, name, (theirs,), piece)


def _fuse(found: Renamed, to: str, fuse: Fuse, held: Mapping[str, tuple[str, Tensor]]) -> None:
    keys = tuple(held[part][0] for part in fuse.parts if part in held)
    absent = [part for part in fuse.parts if part not in held]
    shapes = {tuple(tensor.shape[1:]) for _, tensor in held.values()}
    if absent or len(shapes) > 1 or len(held) > len(fuse.parts):
        why = f"part {absent[0]} of {to} is not there" if absent else f"the parts of {to} do not fit together"
        found.clashes.update({key: why for key, _ in held.values()})
        return
    _put(found, to, keys, torch.cat([held[part][1] for part in fuse.parts]))
