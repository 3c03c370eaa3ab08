"""What makes the rows of a comparison comparable, and what does not: protocol, tuning, settings, leaks, versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_med.reports.numbers.comparison import Column, Comparison, Entry
from ssl_med.reports.numbers.fairness import leak_warnings, percent, pretrain_warnings
from ssl_med.reports.numbers.provenance import conventions, leak_status, mixed, noted, provenance
from ssl_med.reports.numbers.wording import missing_lines
from ssl_med.reports.render.blocks import Block, Field, Grid, Heading, Listing, Note, OnPage, Section


def fairness_section(comparison: Comparison) -> Section:
    """Protocol, seeds, what differs, every configuration tried, leaks."""
    design = comparison.design
    blocks: list[Block] = []
    if design.protocol:
        blocks += [Heading("Protocol"), Note(design.protocol, strong=True)]
    if design.source:
        blocks.append(Note(f"After: {design.source}."))
    seeds = ", ".join(map(str, design.seeds))
    blocks.append(Listing([
        f"Baseline: {design.baseline}. Seeds of the runs behind each cell: {seeds}.",
        f"Test over seeds: {comparison.test_name}, two-sided, Holm over all {comparison.family} comparisons of this report; "
        "interval over test subjects: 95 % bootstrap, paired; a comparison that n cannot support has no p.",
        *_pretrained(comparison),
        f"Leaks: {leak_status([e.run for e in comparison.of('final')])}.",
        *_fallen(comparison),
    ]))  # fmt: skip
    for column in design.columns:
        blocks += _unequal(comparison, column)
    pretrained = [entry.run for entry in comparison.of("pretrain") if not entry.why]
    blocks.append(_boxed("Pretrainings differ in more than method and optimiser:", pretrain_warnings(pretrained)))
    ran = [entry.run for entry in comparison.entries if not entry.why]
    blocks.append(_boxed("Not all runs were made alike:", mixed(ran)))
    blocks += [block for column in design.columns for block in tuning(comparison, column)]
    return Section("fairness", "How the comparison was made", blocks)


def runs_section(comparison: Comparison) -> Section:
    """Every run, its settings, versions and notes."""
    runs = [entry.run for entry in comparison.entries if not entry.why]
    missing = missing_lines(entry for entry in comparison.entries if entry.why)
    blocks: list[Block] = [Listing(missing, "Not there:")] if missing else []
    # a trial calls the part that chooses its test part, so its notes on leaks would be read wrongly here
    judged = [entry.run for entry in comparison.entries if not entry.why and entry.role != "tune"]
    blocks += [OnPage(provenance(runs, judged=judged)), Heading("Notes of the runs"), Listing(noted(judged))]
    blocks.append(Heading("Metrics"))
    return Section("runs", "What was run", [*blocks, Listing(conventions(runs))])


def warnings(comparison: Comparison) -> list[str]:
    """What has to stand at the very top: missing runs and leaks."""
    lines = missing_lines(comparison.missing)
    for column in comparison.tables.values():
        lines += [f"{column.title}: {line}" for line in leak_warnings(column.runs, column.label)]
    return lines


def tuning(comparison: Comparison, column: Column) -> list[Block]:
    """Every configuration tried with its results over trial seeds, and which was taken."""
    trials = [entry for entry in comparison.of("tune") if entry.column == column.label]
    if not trials:
        return []
    tried = list(dict.fromkeys(entry.chosen for entry in trials))
    metric = next((entry.run.metric for entry in trials if not entry.why), "metric")
    taken = {
        entry.row: entry.chosen for entry in comparison.of("final") if entry.column == column.label and entry.choice
    }
    rows: list[list[Field | str]] = []
    for row in comparison.design.rows:
        cells = [
            _tried([e for e in trials if e.row == row and e.chosen == label], label == taken.get(row))
            for label in tried
        ]
        rows.append([Field(row, color=comparison.styles[row].color), *cells])
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(entry.seed for entry in trials))
    note = (
        f"Mean {metric} on the part that chooses (never the test part; a pretraining may have seen it without labels), "
        f"below it each trial; seeds {seeds}, at "
        f"{percent(comparison.design.tune_fraction)} of the labels. Marked: taken for all budgets of the column. "
        f"All {len(trials)} trials are listed."
    )
    edge = edges(comparison, column, taken)
    return [
        Heading(f"Settings chosen: {column.label.replace('_', ' ')}"),
        Grid(["", *tried], rows),
        Note(note),
        *([Note(edge)] if edge else []),
    ]


def edges(comparison: Comparison, column: Column, taken: dict[str, str]) -> str:
    """Which rows took the first or last value of a grid: a better one may lie outside."""
    chosen = {e.row: dict(e.choice) for e in comparison.of("final") if e.column == column.label and e.row in taken}
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


def _pretrained(comparison: Comparison) -> list[str]:
    used = {e.run.folder for e in comparison.of("pretrain")}
    count, seeds = len(comparison.design.pretrain_seeds), len(comparison.design.seeds)
    if not used or count >= seeds:
        return []
    word, these = (
        ("one pretraining", "this pretraining") if count == 1 else (f"{count} pretrainings", "these pretrainings")
    )
    return [
        f"{seeds} seeds share {word} of each row: p-values speak of {these} with other heads, label subsets and orders, "
        "not of the method pretrained anew."
    ]


def _fallen(comparison: Comparison) -> list[str]:
    if not comparison.design.collapsed_below:
        return []
    cells = [
        f"{row} in {column.label.replace('_', ' ')} at {percent(x)}: {count} of {comparison.cell(column.label, x, row).n}"
        for column in comparison.design.columns
        for x in column.fractions
        for row in comparison.design.rows
        if (count := comparison.collapsed(column.label, x, row))
    ]
    rule = f"Collapsed runs (metric below {comparison.design.collapsed_below:g} at the end; they stay in)"
    return [f"{rule}: {'; '.join(cells) if cells else 'none'}."]


def _unequal(comparison: Comparison, column: Column) -> list[Block]:
    table = comparison.tables.get(column.label)
    if table is None:
        return []
    return [_boxed(f"Rows of {column.label.replace('_', ' ')} differ in more than their weights:", table.warnings)]


def _boxed(title: str, lines: Sequence[str]) -> Block:
    return Listing(list(lines), title, warning=True)
