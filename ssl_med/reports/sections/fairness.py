"""How the comparison was made: protocol, seeds, test, leaks, what differs between runs, and every setting that was tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.design import Column, Entry
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.provenance import leak_status, mixed
from ssl_med.reports.render.blocks import Block, Field, Grid, Heading, Listing, Note, Section


def section(comparison: Comparison) -> list[Section]:
    """Nothing where no run was tested."""
    design, finals = comparison.design, comparison.of("final")
    if not finals:
        return []
    blocks: list[Block] = []
    if design.protocol:
        blocks += [Heading("Protocol"), Note(design.protocol, strong=True)]
    if design.source:
        blocks.append(Note(f"After: {design.source}."))
    seeds = ", ".join(map(str, design.seeds))
    baseline = f"Baseline: {design.baseline}. " if design.baseline else ""
    planned = [] if design.planned else [
        "Nobody planned this comparison: its rows, columns and seeds are those of the run folders that were given. Runs "
        "that were left out, or tried until one was good, do not show."
    ]  # fmt: skip
    blocks.append(Listing([
        *planned,
        f"{baseline}Seeds of the runs behind {'each cell' if design.planned else 'the cells'}: {seeds}.",
        f"Test over seeds: {comparison.test_name}, two-sided, Holm over {comparison.family_text()}; "
        "interval over test subjects: 95 % bootstrap, paired; a comparison that n cannot support has no p.",
        *_recipes(comparison),
        *_pretrained(comparison),
        f"Leaks: {leak_status([entry.run for entry in finals])}.",
        *_fallen(comparison),
    ]))  # fmt: skip
    ran = [entry.run for entry in comparison.entries if not entry.why]
    blocks.append(Listing(mixed(ran), "Not all runs were made alike:", warning=True))
    blocks += [block for column in design.columns for block in tuning(comparison, column)]
    return [Section("fairness", "How the comparison was made", blocks)]


def _recipes(comparison: Comparison) -> list[str]:
    """Which recipe the fine-tunings followed, where it is not that of their tasks alone."""
    found = sorted({entry.run.recipe for entry in comparison.of("final") if entry.run.recipe})
    return [] if found in ([], ["paper"]) else [f"Recipe of the fine-tunings (conf/recipe): {', '.join(found)}."]


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
    pretrainings, seeds = len(comparison.design.pretrain_seeds), len(comparison.design.seeds)
    if not comparison.of("pretrain") or pretrainings >= seeds:
        return []
    word, these = (
        ("one pretraining", "this pretraining")
        if pretrainings == 1
        else (f"{pretrainings} pretrainings", "these pretrainings")
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
    known = {
        c.label: comparison.metric(c.label) for c in comparison.design.columns
    }  # '' before a column's first result
    lower = [label for label, metric in known.items() if metric and not metric_of(metric).higher_is_better]
    aside = f" Where lower is better nothing is judged: {', '.join(lower)}." if lower else ""
    return [f"{rule}: {'; '.join(cells) if cells else 'none'}.{aside}"]
