"""How a split is used: parts put away for tuning, training subjects shared with the pretraining, and the label budget.

All of it works on subjects and cases as the splits do (`splits.py`); each function also says in words what it did, for the
notes of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from datamodules.core.splits import PARTS, Split, label_budget, random_split, share_split
from ssl_med.spec import SslMedError

GroupOf = Callable[[Any], str]


def grouped(cases: Iterable[Any], group_of: GroupOf) -> dict[str, set[str]]:
    """Subjects of each group, in the order in which the groups are met."""
    groups: dict[str, set[str]] = {}
    for case in cases:
        groups.setdefault(group_of(case), set()).add(case.subject)
    return groups


def random_parts(cases: Iterable[Any], group_of: GroupOf, *, ratios: Sequence[float], seed: int) -> Split:
    """A random split of each group of subjects by itself."""
    parts = [random_split(group, ratios=ratios, seed=seed) for group in grouped(cases, group_of).values()]
    return {part: sorted(name for split in parts for name in split[part]) for part in PARTS}


def for_tuning(split: Split, cases: Sequence[Any], group_of: GroupOf, *, share: float, seed: int) -> tuple[Split, str]:
    """The split without its test part: validation subjects, or a share of the training, take its place."""
    if split["val"]:
        moved = {"train": split["train"], "val": [], "test": split["val"]}
        return moved, "tuning: tested on the validation part; the test part is put away"
    training = set(split["train"])
    groups = grouped((case for case in cases if case.subject in training), group_of)
    held, kept = share_split(groups, share=share, seed=seed)
    note = f"tuning: tested on {len(held)} of the {len(held) + len(kept)} training subjects; the test part is put away"
    return {"train": kept, "val": [], "test": held}, note


def other_side(
    train: Sequence[Any], group_of: GroupOf, *, labelled: bool, share: float, by: str, seed: int
) -> tuple[set[str], str]:
    """Names of the training cases that data.pretrain_share gives to the other command.

    Args:
        train: all training cases.
        group_of: group of a case; where one is called "labelled", only that one is divided.
        labelled: whether this command is the one with labels, or the pretraining.
        share: of the pretraining.
        by: "subject", or "image", which lets a subject be on both sides.
        seed: of the shuffle.
    """
    by_image = by == "image"
    groups: dict[str, list[str]] = {}
    for case in train:
        groups.setdefault(group_of(case), []).append(case.name if by_image else case.subject)
    if "labelled" in groups:  # what has no labels is for pretraining anyway
        groups = {"labelled": groups["labelled"]}
    sides = share_split(groups, share=share, seed=seed)
    other = set(sides[0] if labelled else sides[1])
    names = {case.name for case in train if (case.name if by_image else case.subject) in other}
    mine = {case.subject for case in train if case.name not in names}
    both = mine & {case.subject for case in train if case.name in names}
    note = f"pretraining has {share:g} of the training {by}s, labels the rest"
    if by_image:
        note += f"; LEAK: {len(both)} of the {len(mine)} subjects here are on the other side too"
    return names, note


def budget_words(*, fraction: float, shots: int) -> str:
    """The label budget as the user spells it."""
    return f"labels.shots={shots}" if shots else f"labels.fraction={fraction:g}"


def within_budget(
    strata: Mapping[str, str],
    *,
    fraction: float,
    shots: int,
    seed: int,
    lead: str,
    strict: bool,
    name_of: Callable[[str], str],
) -> tuple[set[str], list[str]]:
    """Training subjects whose labels are used, and notes on strata that are smaller than the shots.

    Args:
        strata: subject -> stratum.
        fraction: share of the subjects, where `shots` is 0.
        shots: subjects of each stratum.
        seed: of the order; a larger budget holds the smaller one.
        lead: stratum that the smallest budget must hold.
        strict: refuse shots that a stratum does not have; of scans with candidates (`lead`) only the stratum with a
            positive must be as large.
        name_of: a stratum as the user knows it.

    Raises:
        SslMedError: a stratum has fewer subjects than shots, and `strict`.
    """
    chosen = set(label_budget(strata, fraction=fraction, shots=shots, seed=seed, lead=lead))
    notes = []
    for stratum, count in sorted(Counter(strata.values()).items()) if shots else ():
        if count >= shots:
            continue
        if strict and (stratum == lead or not lead):
            kind = f" of class '{name_of(stratum)}'" if stratum else ""
            raise SslMedError(f"labels.shots={shots}: there are {count} training subjects{kind}; take fewer shots")
        words = budget_words(fraction=fraction, shots=shots)
        notes.append(f"{words}: '{name_of(stratum)}' has {count} training subjects, all are used")
    return chosen, notes
