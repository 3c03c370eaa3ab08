"""What makes the rows of a study comparable, and what does not: protocol, tuning, settings, leaks, versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_med.reports._blocks import Block, Field, Grid, Heading, Listing, Note, OnPage, Section
from ssl_med.reports._provenance import conventions, leak_status, mixed, noted, provenance
from ssl_med.reports._study_words import missing_lines
from ssl_med.reports.fairness import leak_warnings, percent, pretrain_warnings
from ssl_med.reports.study import Column, Entry, Study


def fairness_section(study: Study) -> Section:
    """Protocol, seeds, what differs, every configuration tried, leaks."""
    declared = study.declared
    blocks: list[Block] = []
    if declared.protocol:
        blocks += [Heading("Protocol"), Note(declared.protocol, strong=True)]
    if declared.source:
        blocks.append(Note(f"After: {declared.source}."))
    seeds = ", ".join(map(str, declared.seeds))
    blocks.append(Listing([
        f"Baseline: {declared.baseline}. Seeds of the runs behind each cell: {seeds}.",
        f"Test over seeds: {study.test_name}, two-sided, Holm over all {study.family} comparisons of this report; "
        "interval over test subjects: 95 % bootstrap, paired; a comparison that n cannot support has no p.",
        *_pretrained(study),
        f"Leaks: {leak_status([e.run for e in study.of('final')])}.",
        *_fallen(study),
    ]))  # fmt: skip
    for column in declared.columns:
        blocks += _unequal(study, column)
    pretrained = [entry.run for entry in study.of("pretrain") if not entry.why]
    blocks.append(_boxed("Pretrainings differ in more than method and optimiser:", pretrain_warnings(pretrained)))
    ran = [entry.run for entry in study.entries if not entry.why]
    blocks.append(_boxed("Not all runs were made alike:", mixed(ran)))
    blocks += [block for column in declared.columns for block in tuning(study, column)]
    return Section("fairness", "How the comparison was made", blocks)


def runs_section(study: Study) -> Section:
    """Every run, its settings, versions and notes."""
    runs = [entry.run for entry in study.entries if not entry.why]
    missing = missing_lines(entry for entry in study.entries if entry.why)
    blocks: list[Block] = [Listing(missing, "Not there:")] if missing else []
    # a trial calls the part that chooses its test part, so its notes on leaks would be read wrongly here
    judged = [entry.run for entry in study.entries if not entry.why and entry.role != "tune"]
    blocks += [OnPage(provenance(runs, judged=judged)), Heading("Notes of the runs"), Listing(noted(judged))]
    blocks.append(Heading("Metrics"))
    return Section("runs", "What was run", [*blocks, Listing(conventions(runs))])


def warnings(study: Study) -> list[str]:
    """What has to stand at the very top: missing runs and leaks."""
    lines = missing_lines(study.missing)
    for column in study.tables.values():
        lines += [f"{column.title}: {line}" for line in leak_warnings(column.runs, column.label)]
    return lines


def tuning(study: Study, column: Column) -> list[Block]:
    """Every configuration tried with its results over trial seeds, and which was taken."""
    trials = [entry for entry in study.of("tune") if entry.column == column.label]
    if not trials:
        return []
    tried = list(dict.fromkeys(entry.chosen for entry in trials))
    metric = next((entry.run.metric for entry in trials if not entry.why), "metric")
    taken = {entry.row: entry.chosen for entry in study.of("final") if entry.column == column.label and entry.choice}
    rows: list[list[Field | str]] = []
    for row in study.declared.rows:
        cells = [
            _tried([e for e in trials if e.row == row and e.chosen == label], label == taken.get(row))
            for label in tried
        ]
        rows.append([Field(row, color=study.styles[row].color), *cells])
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(entry.seed for entry in trials))
    note = (
        f"Mean {metric} on the part that chooses (never the test part; a pretraining may have seen it without labels), "
        f"below it each trial; seeds {seeds}, at "
        f"{percent(study.declared.tune_fraction)} of the labels. Marked: taken for all budgets of the column. "
        f"All {len(trials)} trials are listed."
    )
    edge = edges(study, column, taken)
    return [
        Heading(f"Settings chosen: {column.label.replace('_', ' ')}"),
        Grid(["", *tried], rows),
        Note(note),
        *([Note(edge)] if edge else []),
    ]


def edges(study: Study, column: Column, taken: dict[str, str]) -> str:
    """Which rows took the first or last value of a grid: a better one may lie outside."""
    chosen = {e.row: dict(e.choice) for e in study.of("final") if e.column == column.label and e.row in taken}
    found = [
        f"{row} ({key} {values[k]:g})"
        for row, choice in chosen.items()
        for key, values in column.grid.items()
        for k in (0, -1)
        if len(values) > 1 and choice.get(key) == values[k] and isinstance(values[k], int | float)
    ]
    return f"At an end of the grid, where a better value may lie outside: {', '.join(found)}." if found else ""


def _tried(trials: Sequence[Entry], taken: bool) -> Field:
    values = [entry.run.value for entry in trials if not entry.why]
    if not values:
        return Field("missing", mark="missing")
    each = " · ".join(f"{value:.3f}" for value in values) if len(values) > 1 else ""
    return Field(f"{np.mean(values):.3f}", each, "best" if taken else "")


def _pretrained(study: Study) -> list[str]:
    used = {e.run.folder for e in study.of("pretrain")}
    count, seeds = len(study.declared.pretrain_seeds), len(study.declared.seeds)
    if not used or count >= seeds:
        return []
    word, these = (
        ("one pretraining", "this pretraining") if count == 1 else (f"{count} pretrainings", "these pretrainings")
    )
    return [
        f"{seeds} seeds share {word} of each row: p-values speak of {these} with other heads, label subsets and orders, "
        "not of the method pretrained anew."
    ]


def _fallen(study: Study) -> list[str]:
    if not study.declared.collapsed_below:
        return []
    cells = [
        f"{row} in {column.label.replace('_', ' ')} at {percent(x)}: {count} of {study.cell(column.label, x, row).n}"
        for column in study.declared.columns
        for x in column.fractions
        for row in study.declared.rows
        if (count := study.collapsed(column.label, x, row))
    ]
    rule = f"Collapsed runs (metric below {study.declared.collapsed_below:g} at the end; they stay in)"
    return [f"{rule}: {'; '.join(cells) if cells else 'none'}."]


def _unequal(study: Study, column: Column) -> list[Block]:
    table = study.tables.get(column.label)
    if table is None:
        return []
    return [_boxed(f"Rows of {column.label.replace('_', ' ')} differ in more than their weights:", table.warnings)]


def _boxed(title: str, lines: Sequence[str]) -> Block:
    return Listing(list(lines), title, warning=True)
