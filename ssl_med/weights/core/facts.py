"""Sentences about weights that leave, for the pages beside them: method, data, licence."""

from __future__ import annotations

from ssl_med.checkpoint import Card
from ssl_med.weights.core.origin import licence_text


def method_lines(card: Card) -> list[str]:
    """How the weights were trained, a sentence each."""
    about = card.method_config
    elsewhere = f"weights of {about['citation']}, imported from {about['file']}" if "family" in about else ""
    how = f"for {card.steps} steps with seed {card.seed}; code of commit {card.git or 'unknown'}."
    if "finetuned_on" in about:
        start = elsewhere or (
            about["start"] if about["start"] == "random weights" else f"a pretraining by {about['start']}"
        )
        return [f"Fine-tuned on the labels of {about['finetuned_on']}, from {start}, {how}"]
    return [f"{elsewhere[0].upper()}{elsewhere[1:]}."] if elsewhere else [f"Pretrained by {card.method} {how}"]


def data_lines(card: Card) -> list[str]:
    """Which images were seen, and what is known of a leak, a sentence each."""
    about = card.method_config
    own = card.data_spec().name
    counts = f"{len(card.subjects)} subjects and {len(card.volumes)} files"
    saw = ", ".join(map(str, about.get("saw", ())))
    before = f"The pretraining saw {saw}." if saw else "Which data the pretraining saw is not said."
    if "finetuned_on" in about:
        lines = [f"The fine-tuning saw {own}; with the pretraining, as far as it names them, {counts} took part."]
        told = [f"{str(note)[0].upper()}{str(note)[1:]}." for note in about.get("leakage", ())]
        return lines + ([before] if "family" in about else []) + told
    return [before] if "family" in about else [f"The pretraining saw {own}.", f"{counts} took part."]


def licence_line(card: Card) -> str:
    """The licence of weights from elsewhere; of ours that there is none yet."""
    about = card.method_config
    if "family" in about:
        return f"{licence_text(about['licence'], about.get('commercial'))}."
    return "None is given. Choose one that the data's terms allow before you publish these weights."
