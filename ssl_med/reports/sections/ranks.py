"""Ranks over all columns and budgets: Friedman's test and the critical difference."""

from __future__ import annotations

from ssl_med.reports.figures.overall import rank_plot
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.ranking import ranking
from ssl_med.reports.numbers.wording import count
from ssl_med.reports.render.blocks import Block, Grid, Note, Plots, Section


def section(comparison: Comparison) -> list[Section]:
    """Loose runs, for which nobody planned to rank, say nothing where no test is possible."""
    found, absent = ranking(comparison)
    if found.reason and not comparison.design.planned:
        return []
    blocks: list[Block] = []
    if found.ranks and not found.reason:
        blocks.append(Plots([("Mean rank; 1 is best", "ranks", rank_plot(found, comparison.styles))]))
    elif found.ranks:
        blocks.append(Grid(["", "mean rank"], [(row, f"{value:.2f}") for row, value in found.ranks.items()]))
    if found.reason:
        blocks.append(Note(f"No test of ranks: {found.reason}."))
    else:
        tied = " The test does not tell the rows apart, so their order means nothing." if found.p >= 0.05 else ""
        p = f"p {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
        blocks += [
            Note(
                f"Mean rank of the {len(found.ranks)} rows over columns and label budgets by mean test metric. Bars are one "
                "critical difference long: two rows whose bars overlap are not told apart."
            ),
            Note(
                f"Friedman's test: {p}. Critical difference of two mean ranks (Nemenyi, 5 %): {found.critical:.2f}.{tied}"
            ),
        ]
        data = len({column.task for column in comparison.design.columns})
        if data < found.blocks:
            blocks.append(Note(
                f"The {found.blocks} blocks come from {count(data, 'task')} and share test subjects and pretrainings; the "
                "test takes them as independent, so its p is too small. Read it as a summary."
            ))  # fmt: skip
    if absent:
        blocks.append(Note(f"Left out, without any result: {', '.join(absent)}."))
    return [Section("ranks", "Ranks over all columns and budgets", blocks)]
