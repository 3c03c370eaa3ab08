"""What rows of one table do not share: a comparison is only as good as what was kept equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ssl_med.reports.run_folder import Run

# Settings that do not decide a result, or that a table varies on purpose.
_FREE = (
    "seed", "out", "init", "family", "resume", "hash", "kind", "name", "method", "labels", "tracking", "transfer",
    "backbone", "trainer.progress", "trainer.num_workers", "trainer.threads", "trainer.log_every",
    "trainer.checkpoint_every_steps", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "trainer.strategy", "trainer.channels_last", "data.allow_overlap", "data.quarantine_budget", "task.pictures",
    "external.trained",
)  # fmt: skip
# The optimiser belongs to a pretraining method as its loss does; the budget does not.
_FREE_IN_PRETRAINING = ("optim",)

Label = Callable[[Run], str]
Settings = dict[str, str]


def leak_warnings(runs: Sequence[Run], label: Label) -> list[str]:
    """One line for each row whose pretraining saw, or may have seen, what the row is tested on."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for leakage in run.leaks:
            status, by = leakage.get("status"), leakage.get("by", "pretraining")
            if status == "allowed":
                subjects, volumes = leakage.get("subjects") or {}, leakage.get("volumes") or {}
                parts = [
                    f"{subjects.get(part, 0)} subjects and {volumes.get(part, 0)} files of the {part} part"
                    for part in {**subjects, **volumes}
                    if subjects.get(part) or volumes.get(part)
                ]
                line = f"LEAK: {by} saw {' and '.join(parts)} (data.allow_overlap=true)"
            elif status == "none":
                continue
            else:
                why = leakage.get("why") or "the run did not record it"
                line = f"it is not known whether {by} saw the test subjects: {why}"
            found.setdefault(line, {})[label(run)] = None
    return [f"{', '.join(rows)}: {line}" for line, rows in found.items()]


def finetune_warnings(runs: Sequence[Run], label: Label) -> list[str]:
    """One line for each leak, for each setting that differs between rows at equal label fraction, and for test cases."""
    found: dict[str, list[float]] = {}
    for fraction in sorted({run.fraction for run in runs}):
        column = [run for run in runs if run.fraction == fraction]
        lines = [*_differences(column, finetune_settings, label), *_seeds(column, label)]
        for line in lines:
            found.setdefault(line, []).append(fraction)
    fractions = {run.fraction for run in runs}
    warnings = [
        line if len(at) == len(fractions) else f"{line} (at {', '.join(percent(x) for x in at)} labels)"
        for line, at in found.items()
    ]
    further = [*_test_cases(runs, label), *_differences(runs, _card_settings, label), *_unknown(runs)]
    return [*leak_warnings(runs, label), *warnings, *further]


def pretrain_warnings(runs: Sequence[Run]) -> list[str]:
    """One line for each setting besides method and optimiser that differs between pretrainings."""
    return [*_differences(runs, pretrain_settings, lambda run: run.method), *_unknown(runs)]


def finetune_settings(run: Run) -> Settings:
    """Everything that decides a fine-tuning, flat, as text; the backbone is the one in use."""
    settings = _without(flatten(run.config), _FREE)
    settings |= {f"backbone.{key}": value for key, value in flatten(run.summary.get("backbone") or {}).items()}
    if not run.config:
        settings["steps"] = str(run.summary.get("steps"))
    return settings


def pretrain_settings(run: Run) -> Settings:
    """Everything that decides a pretraining apart from method and optimiser, flat, as text."""
    return _without(finetune_settings(run), _FREE_IN_PRETRAINING)


def _card_settings(run: Run) -> Settings:
    if not run.card:
        return {}
    spec = run.card.get("spec") or {}
    kept = {key: spec.get(key) for key in ("name", "patch_size", "spacing_mm", "intensity")}
    settings = {f"pretraining data.{key}": value for key, value in flatten(kept).items()}
    settings["pretraining steps"] = str(run.card.get("steps"))
    subjects = run.card.get("subjects")
    if subjects is not None:
        settings["number of pretraining subjects"] = str(len(set(subjects)))
    return settings


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Settings:
    """{"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: Settings = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = f"{value:g}" if isinstance(value, float) else str(value)
    return flat


def percent(fraction: float) -> str:
    """0.15 -> '15 %'."""
    return f"{100 * fraction:g} %"


def _without(settings: Settings, names: Iterable[str]) -> Settings:
    names = tuple(names)
    return {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in names)
    }


def _differences(runs: Sequence[Run], settings: Callable[[Run], Settings], label: Label) -> list[str]:
    found = [(label(run), settings(run)) for run in runs]
    found = [(name, values) for name, values in found if values]
    lines = []
    for key in dict.fromkeys(key for _, values in found for key in values):
        groups: dict[str, list[str]] = {}
        for name, values in found:
            if key.startswith("backbone.") and key not in values:
                continue  # a setting of another network
            groups.setdefault(values.get(key, "not set"), []).append(name)
        if len(groups) > 1:
            sides = [f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in groups.items()]
            lines.append(f"{key} differs: {'; '.join(sides)}")
    return lines


def _seeds(runs: Sequence[Run], label: Label) -> list[str]:
    seeds: dict[str, list[int]] = {}
    twice: dict[str, list[int]] = {}
    seen: set[tuple[str, int, Any]] = set()
    for run in runs:
        key = (label(run), run.seed, run.card.get("seed"))
        if key in seen:
            twice.setdefault(label(run), []).append(run.seed)
        seen.add(key)
        seeds.setdefault(label(run), []).append(run.seed)
    lines = [
        f"{name} has seed {', '.join(map(str, sorted(set(again))))} more than once; its mean counts all"
        for name, again in twice.items()
    ]
    if len({tuple(sorted(set(values))) for values in seeds.values()}) > 1:
        sides = [f"{name} {', '.join(map(str, sorted(set(values))))}" for name, values in seeds.items()]
        lines.append(f"seeds differ: {'; '.join(sides)}")
    return lines


def _test_cases(runs: Sequence[Run], label: Label) -> list[str]:
    groups: dict[frozenset[str], list[str]] = {}
    for run in runs:
        if run.cases:
            groups.setdefault(frozenset(str(row["case"]) for row in run.cases), []).append(label(run))
    if len(groups) < 2:
        return []
    sides = [f"{len(cases)} cases ({', '.join(dict.fromkeys(names))})" for cases, names in groups.items()]
    return [f"the test cases are not the same: {'; '.join(sides)}"]


def _unknown(runs: Sequence[Run]) -> list[str]:
    blind = sum(not run.config for run in runs)
    return [f"settings of {blind} runs are not recorded in summary.json and were not compared"] if blind else []
