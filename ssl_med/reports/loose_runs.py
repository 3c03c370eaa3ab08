"""Run folders that nobody planned together, as the comparison that they make.

Rows are where the weights come from, columns task x data x metric x protocol, budgets and seeds those of the summaries.
Rows of one method are named by the settings that differ between them in one column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.column_runs import title
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.design import Column, Design, Entry
from ssl_med.reports.numbers.provenance import pretraining
from ssl_med.reports.run_folder import SCRATCH, Run


def comparison_of_runs(runs: Iterable[Run]) -> Comparison:
    """Every run as an entry: those with a problem as 'unused'; the baseline is scratch where a run starts from it."""
    runs = list(runs)
    entries = [Entry("pretrain", run.method, "", 1.0, run.seed, run) for run in runs if _is(run, "pretrain")]
    first = {entry.run.folder.resolve(): entry.run.folder for entry in entries}
    columns: list[Column] = []
    rows: set[str] = set()
    for key, members in _groups(runs).items():
        label = _unique(title(members[0]), members[0].metric, {column.label for column in columns})
        fractions = tuple(sorted({run.fraction for run in members}))
        columns.append(Column(label, key[1], members[0].protocol, fractions, tests=members[0].trained_on))
        names = _labels(members)
        rows |= set(names.values())
        for run in sorted(members, key=lambda run: (run.fraction, names[run.folder], run.seed, run.name)):
            row, starts = names[run.folder], _starts(run, first)
            entries.append(Entry("final", row, label, run.fraction, run.seed, run, starts=starts))
    looked_at = [run for run in runs if _is(run, "features")]
    names = _labels([run for run in looked_at if not run.summary.get("networks")])  # others relate several networks
    entries += [Entry("features", names.get(run.folder, ""), "", 1.0, run.seed, run) for run in looked_at]
    analyses = sum(entry.role == "features" for entry in entries)
    entries += [Entry("unused", "", "", 1.0, run.seed, run, run.problem) for run in runs if run.problem]
    finals = [entry.run for entry in entries if entry.role == "final"]
    design = Design(
        name="report",
        title="What did pretraining bring?" if len(entries) > analyses else "What have the networks learned?",
        rows=tuple(sorted(rows, key=lambda name: (name != SCRATCH, name))),
        columns=tuple(columns),
        baseline=SCRATCH if SCRATCH in rows else "",
        test="sign_flip",
        seeds=tuple(sorted({run.seed for run in finals})),
        pretrain_seeds=tuple(sorted({int(run.card.get("seed") or 0) for run in finals if run.card})) or (0,),
        planned=False,
    )
    return Comparison(design, tuple(entries))


def _is(run: Run, kind: str) -> bool:
    return run.kind == kind and not run.problem


def _groups(runs: Sequence[Run]) -> Mapping[tuple[str, ...], list[Run]]:
    """Runs that can share one column, tests of other data sets last."""
    found: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        if run.scored and not run.problem:
            parts = [json.dumps(run.summary.get(key) or {}, sort_keys=True) for key in ("map", "tested_on")]
            key = (
                run.trained_on,
                run.task,
                run.data,
                run.metric,
                run.protocol,
                run.recipe,
                *(parts if run.external else ()),
            )
            found.setdefault(key, []).append(run)
    return {key: found[key] for key in sorted(found, key=lambda key: (bool(key[0]), key))}


def _unique(label: str, metric: str, taken: set[str]) -> str:
    for candidate in (label, f"{label}, {metric}", *(f"{label}, {metric} ({k})" for k in range(2, len(taken) + 3))):
        if candidate not in taken:
            return candidate
    raise AssertionError("more names than columns")


def _starts(run: Run, pretrained: Mapping[Path, Path]) -> Path | None:
    """Pretraining that a run started from: its folder where it is among the runs, else where the run says it was."""
    if not run.card:
        return None
    path = Path(str((run.summary.get("init") or {}).get("path") or f"{run.method}, seed {run.card.get('seed')}"))
    return pretrained.get(path.resolve()) or pretrained.get(path.resolve().parent) or path


def _labels(runs: Sequence[Run]) -> dict[Path, str]:
    """Row of each run: its method and, where that was pretrained in several ways, what tells them apart."""
    facts = {run.folder: pretraining(run) for run in runs}
    labels = {}
    for run in runs:
        others = [facts[other.folder] for other in runs if other.method == run.method]
        keys = dict.fromkeys(key for other in others for key in other)
        differing = [key for key in keys if len({other.get(key) for other in others}) > 1]
        suffix = ", ".join(f"{key} {facts[run.folder].get(key, EMPTY)}" for key in differing)
        labels[run.folder] = f"{run.method} ({suffix})" if suffix else run.method
    return labels
