"""What was run: settings, versions, notes and conventions of many runs, each said once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from ssl_med.reports.numbers.fairness import finetune_settings, percent, pretrain_settings
from ssl_med.reports.numbers.tables import EMPTY
from ssl_med.reports.render import parts as p
from ssl_med.reports.run_folder import Run


def provenance(runs: Sequence[Run], *, judged: Sequence[Run] | None = None) -> str:
    """Hardware, software, every run, and every setting with its values, as HTML; leaks of `judged`, or of all runs."""
    told: dict[str, set[str]] = {"hardware": set(), "software": set(), "code": set()}
    for run in runs:
        told["hardware"].add(_hardware(run))
        told["software"].add(_versions(run))
        told["code"].add(_git(run))
    facts = [(name, "; ".join(sorted(values - {""})) or "not recorded") for name, values in told.items()]
    text = p.facts([*facts, ("leaks", leak_status(runs if judged is None else judged))])
    head = ["run", "status", "method", "data", "task", "labels", "seed", "steps", "time", "metric", "value", "weights"]
    text += p.fold(
        "All runs", f"{len(runs)} folders", p.table(head, map(_row, runs), css="oneline", text=(0, 1, 2, 3, 4, 9, 11))
    )
    for kind, settings, title in (
        ("finetune", finetune_settings, "Settings of fine-tuning"),
        ("probe", finetune_settings, "Settings of probes"),
        ("external", finetune_settings, "Settings of external tests"),
        ("pretrain", pretrain_settings, "Settings of pretraining"),
    ):
        found = [settings(run) for run in runs if run.kind == kind and not run.problem]
        shared, varying = _split_settings(found)
        lines = [[f"<code>{escape(key)}</code>", escape(value)] for key, value in [*varying.items(), *shared.items()]]
        if lines:
            aside = f"{len(shared)} equal in all runs, {len(varying)} not"
            text += p.fold(title, aside, p.table(["setting", "value"], lines, text=(0, 1)))
    return text


def mixed(runs: Sequence[Run]) -> list[str]:
    """One line for each of code, versions and hardware that is not the same for all runs."""
    lines = []
    for name, tell in (("code", _git), ("versions", _versions), ("hardware", _hardware)):
        found = Counter(tell(run) or "not recorded" for run in runs)
        if len(found) > 1:
            lines.append(f"{name} differs: " + "; ".join(f"{value} ({count} runs)" for value, count in found.items()))
    return lines


def leak_status(runs: Sequence[Run]) -> str:
    """How many fine-tunings from pretrained weights were compared with the pretraining's subjects, and the outcome."""
    found = Counter(str(run.leakage.get("status", "unknown")) for run in runs if run.tested and run.card)
    if not found:
        return "no fine-tuning from pretrained weights"
    words = {"none": "without overlap", "allowed": "with overlap, as allowed", "unknown": "not checked"}
    return "pretraining and test: " + ", ".join(f"{found[key]} {text}" for key, text in words.items() if found[key])


def _row(run: Run) -> list[str]:
    get, tuned = run.summary.get, run.scored
    status = "done" if not run.problem else str(get("status") or "broken")
    value = f"{run.value:.3f}" if tuned and not math.isnan(run.value) else ""
    low, high = run.interval
    value += "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    cells: list[object] = [
        status,
        run.method if run.kind else "",
        run.data,
        run.task,
        percent(run.fraction) if tuned else "",
    ]
    cells += [get("seed"), get("steps"), duration(get("seconds")), run.metric, value, get("weights")]
    return [
        f"<code>{escape(str(run.folder))}</code>",
        *(EMPTY if cell is None or cell == "" else escape(str(cell)) for cell in cells),
    ]


def _split_settings(found: Sequence[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    shared, varying = {}, {}
    for key in dict.fromkeys(key for settings in found for key in settings):
        values = list(dict.fromkeys(settings.get(key, "not set") for settings in found))
        if len(values) == 1:
            shared[key] = values[0]
        else:
            varying[key] = "differs: " + "; ".join(values)
    return shared, varying


def _git(run: Run) -> str:
    return str(run.summary.get("git") or "")


def _hardware(run: Run) -> str:
    return str(run.summary.get("hardware") or "")


def _versions(run: Run) -> str:
    versions = run.summary.get("versions") or {}
    return ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))


def duration(seconds: object) -> str:
    """75 -> '1 min 15 s'."""
    if not isinstance(seconds, int | float):
        return EMPTY
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def noted(runs: Sequence[Run]) -> list[str]:
    """Every note once, with the run that left it or their number."""
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
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


def notes_section(runs: Sequence[Run]) -> str:
    """Notes of the runs and conventions of the metrics, as HTML."""
    notes, metrics = noted(runs), conventions(runs)
    text = p.items(notes) if notes else '<p class="note">No run left a note.</p>'
    text += f"<h3>Metrics</h3>{p.items(metrics)}" if metrics else ""
    return text
