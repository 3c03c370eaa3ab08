"""Sentences about weights that leave, for the pages beside them: method, data, licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_med.checkpoint import Card
from ssl_med.weights.core.origin import elsewhere, licence_text


def method_lines(card: Card) -> list[str]:
    """How the weights were trained, a sentence each."""
    about, origin = card.method_config, elsewhere(card.method_config, card.starts)
    imported = f"weights of {origin['citation']}, imported from {origin['file']}" if origin else ""
    how = f"for {card.steps} steps with seed {card.seed}; code of commit {card.git or 'unknown'}."
    if "finetuned_on" in about:
        start = imported or (
            about["start"] if about["start"] == "random weights" else f"a pretraining by {about['start']}"
        )
        return [f"Fine-tuned on the labels of {about['finetuned_on']}, from {start}, {how}"]
    if "family" in about:
        return [f"{imported[0].upper()}{imported[1:]}."]
    return [f"Pretrained by {card.method}{_from(card.starts)} {how}"]


def _from(starts: Sequence[Mapping[str, Any]]) -> str:
    """Of which weights a pretraining was a continuation: ", from ..., and that from ...,"."""
    said = [
        f"weights of {one['citation']}, imported from {one['file']}"
        if "family" in one
        else f"a pretraining by {one['method']} of {one['steps']} steps"
        for one in starts
    ]
    return f", from {', and that from '.join(said)}," if said else ""


def data_lines(card: Card) -> list[str]:
    """Which images were seen, and what is known of a leak, a sentence each."""
    about, origin = card.method_config, elsewhere(card.method_config, card.starts)
    own = card.data_spec().name
    counts = f"{len(card.subjects)} subjects and {len(card.volumes)} files"
    saw = ", ".join(map(str, origin.get("saw", ())))
    what = "pretraining" if "family" in about or "finetuned_on" in about else "training of weights that it began with"
    before = f"The {what} saw {saw}." if saw else f"Which data the {what} saw is not said."
    if "finetuned_on" in about:
        lines = [f"The fine-tuning saw {own}; with the pretraining, as far as it names them, {counts} took part."]
        told = [f"{str(note)[0].upper()}{str(note)[1:]}." for note in about.get("leakage", ())]
        return lines + ([before] if "family" in about else []) + told
    if "family" in about:
        return [before]
    lines = [f"The pretraining saw {own}.", *([before] if origin else [])]
    lines += [f"Before it, {one['method']} saw {one['data']}." for one in card.starts if "family" not in one]
    return [*lines, f"{counts} took part."]


def licence_line(card: Card) -> str:
    """The licence of weights from elsewhere; of ours that there is none yet."""
    origin = elsewhere(card.method_config, card.starts)
    if origin:
        return f"{licence_text(origin['licence'], origin.get('commercial'))}."
    return "None is given. Choose one that the data's terms allow before you publish these weights."
