"""Settings, versions, notes and conventions of many runs, each said once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ssl_med.reports.numbers.fairness import flatten
from ssl_med.reports.run_folder import METRICS, Run


def mixed(runs: Sequence[Run]) -> list[str]:
    """One line for each of code, versions and hardware that is not the same for all runs."""
    lines = []
    for name, tell in (("code", git), ("versions", versions), ("hardware", hardware)):
        found = Counter(tell(run) or "not recorded" for run in runs)
        if len(found) > 1:
            lines.append(f"{name} differs: " + "; ".join(f"{value} ({count} runs)" for value, count in found.items()))
    return lines


def pretraining(run: Run) -> dict[str, str]:
    """What tells how the weights of a run were pretrained, by name; empty for random weights.

    The pretraining's seed is left out: runs over it belong into one cell.
    """
    card = run.card
    if not card:
        return {}
    facts = {"data": str((card.get("spec") or {}).get("name")), "steps": str(card.get("steps"))}
    began = [str(one.get("family") or one.get("method")) for one in card.get("starts") or ()]
    facts |= {"started from": ", ".join(began)} if began else {}
    return facts | flatten(card.get("method_config") or {})


def leak_status(runs: Sequence[Run]) -> str:
    """How many fine-tunings from pretrained weights were compared with the pretraining's subjects, and the outcome."""
    found = Counter(str(run.leakage.get("status", "unknown")) for run in runs if run.tested and run.card)
    if not found:
        return "no fine-tuning from pretrained weights"
    words = {"none": "without overlap", "allowed": "with overlap, as allowed", "unknown": "not checked"}
    return "pretraining and test: " + ", ".join(f"{found[key]} {text}" for key, text in words.items() if found[key])


def split_settings(found: Sequence[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Settings that all runs share, and those that differ, with their values."""
    shared, varying = {}, {}
    for key in dict.fromkeys(key for settings in found for key in settings):
        values = list(dict.fromkeys(settings.get(key, "not set") for settings in found))
        if len(values) == 1:
            shared[key] = values[0]
        else:
            varying[key] = "differs: " + "; ".join(values)
    return shared, varying


def git(run: Run) -> str:
    """Commit of the code that ran; '' where it is not recorded."""
    return str(run.summary.get("git") or "")


def hardware(run: Run) -> str:
    """Machine that a run recorded."""
    return str(run.summary.get("hardware") or "")


def versions(run: Run) -> str:
    """Versions of the software that a run recorded."""
    found = run.summary.get("versions") or {}
    return ", ".join(f"{name} {number}" for name, number in sorted(found.items()))


def noted(runs: Sequence[Run]) -> list[str]:
    """Every note once, with the run that left it or their number."""
    notes: dict[str, list[str]] = {}
    for run in runs:
        lost = (
            f"{METRICS}: {run.lost_lines} damaged lines are left out; a killed run leaves one" if run.lost_lines else ""
        )
        for note in (*run.notes, *([lost] if lost else [])):
            notes.setdefault(note, []).append(run.name)
    return [
        f"{note} ({len(names)} runs)" if len(names) > 1 else f"{note} ({names[0]})" for note, names in notes.items()
    ]


def conventions(runs: Sequence[Run]) -> list[str]:
    """What each metric means where it is not defined, once."""
    found: dict[str, None] = {}
    for run in runs:
        for metric, text in (run.summary.get("conventions") or {}).items():
            found[f"{metric}: {text}"] = None
    return list(found)
