"""Where foreign weights come from, as the card keeps it and as people are told: paper, licence, data they saw, file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_med.checkpoint import Card
from ssl_med.weights.core.family import Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.find import Match

# of the card of weights from elsewhere: what stays true after a training that starts from them
ORIGIN = ("family", "citation", "licence", "commercial", "source", "saw", "file", "sha256", "allowed")
_TRADE = {
    True: "",
    False: "not for commercial use",
    None: "whether it allows commercial use is not known, ask the authors",
}


def trade(commercial: bool | None) -> str:
    """What is said behind a licence; "" where it allows commercial use."""
    return _TRADE[commercial]


def licence_text(licence: str, commercial: bool | None) -> str:
    """A licence and whether it allows commercial use."""
    return "; ".join(part for part in (licence, trade(commercial)) if part)


def about(match: Match) -> dict[str, Any]:
    """What the card and every report say of the origin."""
    name, family, file = match
    return {
        "family": name,
        "citation": family.citation,
        "licence": family.licence,
        "commercial": family.commercial,
        "source": family.source,
        "saw": list(family.seen(file)),
        "file": file.path.name,
        "sha256": digest(file),
        "container": file.container,
    }


def digest(file: ForeignFile) -> str:
    """SHA-256 of a file; of a folder that of the lines which `sha256sum` prints for the files that were read, by name."""
    if not file.files:
        return _sha256(file.path)
    lines = [f"{_sha256(one)}  {one.name}\n" for one in sorted(file.files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def origin_line(name: str, family: Family) -> str:
    """Family, citation and licence."""
    return f"family: {name} ({family.citation}); licence: {licence_text(family.licence, family.commercial)}"


def starts_of(card: Card, *, subjects: str) -> tuple[dict[str, Any], ...]:
    """What the card of a pretraining keeps of the weights that it started from, and of what those started from.

    Args:
        card: of these weights.
        subjects: what became of the subjects that their card names.
    """
    about = card.method_config
    held = {key: about[key] for key in ORIGIN if key in about} if "family" in about else {}
    data = {"data": card.data_spec().name} if not held else {}
    return ({"method": card.method, "steps": card.steps, "subjects": subjects, **data, **held}, *card.starts)


def elsewhere(about: Mapping[str, Any], starts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The origin of weights from elsewhere that a network is, or began with; empty where all of it was trained here.

    Args:
        about: `method_config` of its card.
        starts: `starts` of its card.
    """
    return next((held for held in (about, *starts) if "family" in held), {})


def origin_of(card: Card) -> str:
    """Family, licence and exceptions of weights from elsewhere that a network is or began with, in a line; "" without such."""
    held = elsewhere(card.method_config, card.starts)
    if not held:
        return ""
    allowed = held.get("allowed", ())
    excepted = f"; allowed to differ: {', '.join(map(str, allowed))}" if allowed else ""
    licence = licence_text(held["licence"], held.get("commercial"))
    return f"family: {held['family']} ({held['citation']}); licence: {licence}{excepted}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
