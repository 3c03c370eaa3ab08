"""Who trains, who validates, who tests: by subject, never by image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssl_med.reading import UnreadableError, mismatch, read_json
from ssl_med.spec import SslMedError

PARTS = ("train", "val", "test")
Split = dict[str, list[str]]


def random_split(subjects: Iterable[str], *, ratios: Sequence[float], seed: int) -> Split:
    """Seeded split by subject: floor, floor, rest (131 subjects at 70/10/20 -> 91/13/27); without a test share the rest trains.

    With three subjects or more, validation gets at least one when its ratio is above 0, since weights are chosen on it.

    Args:
        subjects: their ids; order and repetitions do not matter.
        ratios: of train, val and test; they sum to 1.
        seed: of the shuffle.
    """
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6 or ratios[0] == 0:
        raise SslMedError(f"data.split_ratios {list(ratios)} must be three shares of train, val, test that sum to 1")
    if seed < 0:
        raise SslMedError(f"data.split_seed is {seed}; it must be 0 or more")
    names = np.array(sorted(set(subjects)))
    names = names[np.random.default_rng([seed, 0x5EED]).permutation(len(names))]
    n = len(names)
    train, val = math.floor(ratios[0] * n + 1e-9), math.floor(ratios[1] * n + 1e-9)
    if n >= 3 and ratios[1] > 0:
        val = max(val, 1)
    train = max(1, min(train, n - val - (1 if n > 1 else 0))) if ratios[2] > 0 else n - val
    parts = np.split(names, [train, train + val])
    return {part: sorted(map(str, members)) for part, members in zip(PARTS, parts, strict=True)}


def file_split(spelled: str, *, known: Iterable[str], test_is_val: bool) -> Split:
    """`FILE.json` or `FILE.json:key`, an object with lists of subject ids under train, val and test.

    Raises:
        SslMedError: unreadable file, missing list, unknown id; without a test list unless `test_is_val`, or with both.
    """
    path, _, key = spelled.partition(":")
    try:
        tree = read_json(Path(path))
    except UnreadableError as error:
        raise SslMedError(f"data.split_file {path}: {error}; give a JSON file with lists of subject ids") from None
    if key:
        if not isinstance(tree, Mapping) or key not in tree:
            raise SslMedError(f"data.split_file {path}: has no key '{key}'")
        tree = tree[key]
    if not isinstance(tree, Mapping) or not isinstance(tree.get("train"), list):
        raise SslMedError(f"data.split_file {spelled}: needs lists of subject ids under train, val and test")
    for part in PARTS:
        if wrong := mismatch(list[str | int], tree.get(part, []), part):
            raise SslMedError(f"data.split_file {spelled}: {wrong}; a part is a list of subject ids")
    split = {part: [str(name) for name in tree.get(part, [])] for part in PARTS}
    if "test" in tree and test_is_val:
        raise SslMedError(
            f"data.split_file {spelled}: has a 'test' list; data.test_is_val=true is for files without one, leave it out"
        )
    if "test" not in tree:
        if not test_is_val:
            raise SslMedError(
                f"data.split_file {spelled}: has no 'test' list; add one, or set data.test_is_val=true to test on 'val'"
            )
        split["test"], split["val"] = split["val"], []
    available = set(known)
    for part, members in split.items():
        missing = [name for name in members if name not in available]
        if missing:
            raise SslMedError(
                f"data.split_file {spelled}: '{missing[0]}' in '{part}' is not below data.root ({len(missing)} in all)"
            )
    return split


def check_split(split: Split, *, source: str) -> Split:
    """Refuses a subject that is in two parts, or twice in one."""
    seen: dict[str, str] = {}
    for part in PARTS:
        for name in split.get(part, []):
            if seen.get(name) == part:
                raise SslMedError(f"{source}: subject '{name}' is listed twice in '{part}'; keep it once")
            if name in seen:
                raise SslMedError(
                    f"{source}: subject '{name}' is in both '{seen[name]}' and '{part}'; keep it in one part"
                )
            seen[name] = part
    return {part: list(split.get(part, [])) for part in PARTS}


def share_split(groups: Mapping[str, Iterable[str]], *, share: float, seed: int) -> tuple[list[str], list[str]]:
    """Training members for pretraining and for labels: PCRL's 9:1 is a share of 0.9.

    Args:
        groups: members by group; each group is divided separately.
        share: of the first part; the second keeps at least one member of a group, and the first too where there are two.
        seed: of the shuffle; a larger share holds the smaller one.

    Returns:
        The first and the second part, sorted.
    """
    if not 0 < share < 1:
        raise SslMedError(f"data.pretrain_share is {share:g}; it must lie in (0, 1), or be 0 to switch it off")
    first: list[str] = []
    second: list[str] = []
    for group in sorted(groups):
        names = np.array(sorted(set(groups[group])))
        names = names[np.random.default_rng([seed, 0x5E31]).permutation(len(names))]
        count = min(max(1, math.floor(share * len(names) + 1e-9)), len(names) - 1)
        first += map(str, names[:count])
        second += map(str, names[count:])
    return sorted(first), sorted(second)


def label_budget(
    signatures: Mapping[str, str], *, fraction: float = 1.0, shots: int = 0, seed: int, lead: str = ""
) -> list[str]:
    """The labelled training subjects of a budget: nested over budgets of one seed, stratified by signature.

    Each stratum is shuffled and its members are spread evenly over (0, 1); a share is a prefix of the merged order, so
    every prefix holds the strata in proportion. Shots are a prefix of each stratum.

    Args:
        signatures: subject -> stratum, e.g. which classes it has.
        fraction: in (0, 1]; at least one subject is kept.
        shots: subjects of each stratum, all of a smaller one; 0: by `fraction`.
        seed: of the shuffle.
        lead: stratum whose first member comes before all others, so that the smallest budget holds one.
    """
    if not 0 < fraction <= 1:
        raise SslMedError(f"labels.fraction is {fraction:g}; it must be above 0 and at most 1")
    strata: dict[str, list[str]] = {}
    for name in sorted(signatures):
        strata.setdefault(signatures[name], []).append(name)
    places: list[tuple[float, str]] = []
    few: list[str] = []
    for stratum in sorted(strata):
        members = strata[stratum]
        rng = np.random.default_rng([seed, 0x1ABE1, *stratum.encode()])
        offset = rng.random()
        order = rng.permutation(members)
        few += map(str, order[:shots])
        for rank, member in enumerate(order):
            place = (rank + offset) / len(members)
            places.append((-1.0 if rank == 0 and stratum == lead else place, str(member)))
    if shots:
        return sorted(few)
    count = max(1, round(fraction * len(places)))
    return sorted(name for _, name in sorted(places)[:count])
