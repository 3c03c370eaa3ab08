"""The account of an import: where every tensor of the file went, and where every tensor of the network came from."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_med.weights.core.rules import Renamed


@dataclass(frozen=True)
class Account:
    """Where the tensors went.

    Those of the file: `used`, `dropped`, `unexplained`, `mismatched`. Those of the network: `used`, `kept`, `missing`,
    `mismatched`.

    * used: (foreign key, our key). * dropped: foreign key -> reason. * kept: our key -> why it stays as the network is built.
    * unexplained: foreign keys that fill nothing. * missing: our keys that nothing fills.
    * mismatched: our keys whose tensor has another shape, with both.
    * allowed: what the user excepted of the last three: they do not refuse the import, and stand in the card.
    """

    used: tuple[tuple[str, str], ...] = ()
    dropped: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    unexplained: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Nothing is unexplained, missing or mismatched besides what was allowed."""
        return not (self.unexplained or self.missing or self.mismatched)

    @property
    def renamed(self) -> int:
        """Tensors that have another name here."""
        return sum(theirs != ours for theirs, ours in self.used)

    def __str__(self) -> str:
        parts = [f"used {len(self.used)} ({self.renamed} renamed)", f"dropped on purpose {len(self.dropped)}"]
        parts += [f"kept as built {len(self.kept)}"] if self.kept else []
        parts += [_counted(name, getattr(self, name)) for name in ("missing", "mismatched", "unexplained")]
        return "; ".join(parts + ([_counted("allowed", self.allowed)] if self.allowed else []))

    def table(self, *, most: int = 8) -> list[str]:
        """Lines for people: counts, reasons, and up to `most` names of what is wrong."""
        lines = [f"used         {len(self.used):5}  {self.renamed} of them renamed"]
        for name, found in (("dropped", self.dropped), ("kept", self.kept)):
            lines.append(
                f"{name:12} {len(found):5}  {'on purpose' if name == 'dropped' else 'as the network is built'}"
            )
            lines += [f"  {count:16}  {reason}" for reason, count in _reasons(found).items()]
        for name in ("missing", "mismatched", "unexplained", "allowed"):
            keys = getattr(self, name)
            lines.append(f"{name:12} {len(keys):5}")
            lines += [f"  {key}" for key in keys[:most]] + (
                [f"  … and {len(keys) - most} more"] if len(keys) > most else []
            )
        return lines

    def summary(self) -> dict[str, Any]:
        """Counts and reasons, as the card keeps them."""
        return {
            "used": len(self.used),
            "renamed": self.renamed,
            "dropped": _reasons(self.dropped),
            "kept": _reasons(self.kept),
            "allowed": list(self.allowed),
        }


def account(
    found: Renamed,
    wanted: Mapping[str, Tensor],
    *,
    kept: Mapping[str, str],
    allow: Sequence[str] = (),
) -> tuple[Account, dict[str, Tensor]]:
    """Compares what the rules made of a file with what the network wants.

    Args:
        found: tensors by our name.
        wanted: the network's.
        kept: our keys that the file need not hold, with the reason.
        allow: foreign or our keys, or patterns with * and ?, that may be unexplained, missing or mismatched.

    Returns:
        The account, and the tensors that fill the network.
    """
    used, mismatched, filling, allowed = [], {}, {}, []
    unexplained = [f"{key} ({why})" for key, why in found.clashes.items()]
    for ours, tensor in found.tensors.items():
        theirs = found.origin.get(ours, ())  # none where the family's `adjust` made it
        if ours not in wanted:
            unexplained += [key for key in theirs if key not in unexplained]
        elif wanted[ours].shape != tensor.shape:
            mismatched[ours] = f"{ours} {list(tensor.shape)} for {list(wanted[ours].shape)}"
        else:
            used += [(key, ours) for key in theirs]
            filling[ours] = tensor
    absent = [key for key in wanted if key not in filling and key not in mismatched]
    missing = [key for key in absent if key not in kept]

    def excepted(key: str) -> bool:
        fits = any(key == one or fnmatch.fnmatchcase(key, one) for one in allow)
        if fits and key not in allowed:
            allowed.append(key)
        return fits

    return (
        Account(
            used=tuple(used),
            dropped=found.dropped,
            kept={key: kept[key] for key in absent if key in kept},
            unexplained=tuple(key for key in unexplained if not excepted(key.partition(" (")[0])),
            missing=tuple(key for key in missing if not excepted(key)),
            mismatched=tuple(text for key, text in mismatched.items() if not excepted(key)),
            allowed=tuple(allowed),
        ),
        filling,
    )


def _counted(name: str, keys: Sequence[str]) -> str:
    shown = f": {', '.join(keys[:4])}{', …' if len(keys) > 4 else ''}" if keys else ""
    return f"{name} {len(keys)}{shown}"


def _reasons(found: Mapping[str, str]) -> dict[str, int]:
    """Reason -> number of tensors; "second name of x" counts as one reason whatever x is."""
    return dict(
        Counter(
            "second name of another tensor" if text.startswith("second name of") else text for text in found.values()
        )
    )
