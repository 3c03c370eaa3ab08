"""What was run: machines, versions, every run and every setting; notes of the runs and conventions of the metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import finetune_settings, percent, pretrain_settings
from ssl_med.reports.numbers.provenance import (
    conventions,
    git,
    hardware,
    leak_status,
    noted,
    split_settings,
    versions,
)
from ssl_med.reports.numbers.wording import duration, missing_lines
from ssl_med.reports.render.blocks import Block, Facts, Fold, Grid, Heading, Listing, Note, Section
from ssl_med.reports.run_folder import Run


def section(comparison: Comparison) -> list[Section]:
    """Always there: a number without its provenance is none."""
    entries = [entry for entry in comparison.entries if not entry.why]
    # a trial calls the part that chooses its test part, so its notes on leaks would be read wrongly here
    judged = [entry.run for entry in entries if entry.role != "tune"]
    every = [*(entry.run for entry in entries), *(entry.run for entry in comparison.of("unused"))]
    runs = [entry.run for entry in entries]
    notes = noted(judged)
    return [
        Section(
            "runs",
            "What was run",
            [
                Listing(missing_lines(comparison.missing), "Not there:"),
                _facts(runs, judged),
                Fold("All runs", f"{len(every)} folders", [_all_runs(every)], page_only=True),
                *_settings(runs),
                Heading("Notes of the runs"),
                Listing(notes) if notes else Note("No run left a note."),
                Heading("Metrics"),
                Listing(conventions(runs)),
            ],
        )
    ]


def _facts(runs: Sequence[Run], judged: Sequence[Run]) -> Facts:
    machines = {"hardware": hardware, "software": versions, "code": git}
    facts = [
        (name, "; ".join(sorted({tell(run) for run in runs} - {""})) or "not recorded")
        for name, tell in machines.items()
    ]
    return Facts([*facts, ("leaks", leak_status(judged))])


def _all_runs(runs: Sequence[Run]) -> Grid:
    head = ["run", "status", "method", "data", "task", "labels", "seed", "steps", "time", "metric", "value", "weights"]
    return Grid(head, [_row(run) for run in runs], css="oneline code", text=(0, 1, 2, 3, 4, 9, 11))


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
    return [str(run.folder), *(EMPTY if cell is None or cell == "" else str(cell) for cell in cells)]


def _settings(runs: Sequence[Run]) -> list[Block]:
    blocks: list[Block] = []
    for kind, settings, title in (
        ("finetune", finetune_settings, "Settings of fine-tuning"),
        ("probe", finetune_settings, "Settings of probes"),
        ("external", finetune_settings, "Settings of external tests"),
        ("pretrain", pretrain_settings, "Settings of pretraining"),
    ):
        shared, varying = split_settings([settings(run) for run in runs if run.kind == kind])
        lines = [*varying.items(), *shared.items()]
        if lines:
            aside = f"{len(shared)} equal in all runs, {len(varying)} not"
            blocks.append(
                Fold(title, aside, [Grid(["setting", "value"], lines, css="code", text=(0, 1))], page_only=True)
            )
    return blocks
