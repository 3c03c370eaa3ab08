"""What a comparison says over all its columns: in short, ranks, cost, and the paper's numbers beside ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from ssl_med.evaluation.statistics import Refusal
from ssl_med.reports.figures.curves import traces
from ssl_med.reports.figures.overall import rank_plot, scatter
from ssl_med.reports.numbers.comparison import Comparison, significant
from ssl_med.reports.numbers.derived import CPU_WATTS, GPU_WATTS, Published, costs, published, ranking, series_traces
from ssl_med.reports.numbers.differences import Difference
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.provenance import duration
from ssl_med.reports.numbers.tables import EMPTY
from ssl_med.reports.numbers.wording import INTERVALS, PUBLISHED_P, listed, mark_of, p_text
from ssl_med.reports.render.blocks import Beside, Block, Field, Grid, Note, Plots, Section
from ssl_med.reports.writing import file_stem

WIDEST = 7  # columns of numbers in the overview


def in_short(comparison: Comparison) -> list[str]:
    """The outcome in a few sentences."""
    finals = comparison.of("final")
    done = sum(not entry.why for entry in finals)
    lines = [f"{done} of {len(finals)} runs behind the cells are done."]
    tested = [(key, x) for key, x in comparison.differences.items() if not math.isnan(x.outcome.effect)]
    base = comparison.design.baseline
    if tested:
        refused = sum(isinstance(x.outcome, Refusal) for _, x in tested)
        sure = [(key, x) for key, x in tested if significant(x.outcome)]
        for word, chosen in (("better", [s for s in sure if _direction(comparison, s) == "better"]),
                             ("worse", [s for s in sure if _direction(comparison, s) == "worse"])):  # fmt: skip
            if chosen:
                lines.append(
                    f"{word.capitalize()} than {base} at the end, with corrected p below 0.05: {_told(chosen)}."
                )
        if not sure and refused < len(tested):
            lines.append(f"No row differs from {base} at the end with corrected p below 0.05.")
        if refused:
            lines.append(f"For {refused} of {len(tested)} differences there is no p-value; the tables say why.")
    early = [(key, x) for key, x in comparison.early_differences.items() if significant(x)]
    if comparison.early_differences:
        found = [
            f"{key[2]} at step {key[3]} with {percent(key[1])} of the labels ({x.effect:+.3f})" for key, x in early
        ]
        lines.append(f"Earlier, against {base}, corrected p below 0.05: {listed(found)}." if found else
                     f"At no earlier step does a row differ from {base} with corrected p below 0.05.")  # fmt: skip
    return lines


def _direction(comparison: Comparison, found: tuple[tuple[str, float, str], Difference]) -> str:
    return mark_of(found[1].outcome, comparison.metric(found[0][0]))


def _told(chosen: Sequence[tuple[tuple[str, float, str], Difference]]) -> str:
    words = []
    for (column, row), members in groupby(
        sorted(chosen, key=lambda x: (x[0][0], x[0][2])), lambda x: (x[0][0], x[0][2])
    ):
        shares = ", ".join(f"{percent(key[1])} {x.outcome.effect:+.3f}" for key, x in members)
        words.append(f"{row} in {column.replace('_', ' ')} ({shares})")
    return "; ".join(words)


def overview_section(comparison: Comparison) -> Section | None:
    """All columns in one table; None where there is only one."""
    if len(comparison.design.columns) < 2:
        return None
    return Section(
        "overview", "All columns", [overview(comparison), Note(overview_note(comparison)), *_series(comparison)]
    )


def _series(comparison: Comparison) -> list[Block]:
    """A figure for each series of columns."""
    figures = []
    for series in filter(None, dict.fromkeys(column.series for column in comparison.design.columns)):
        names, lines = series_traces(comparison, series)
        if lines:
            first = next(column.label for column in comparison.design.columns if column.series == series)
            title = f"Test {comparison.metric(first)} by column: {series.replace('_', ' ')}"
            figure = traces(lines, title=title, below="column, at its largest label budget", names=names)
            figures.append((title, f"series-{file_stem(series)}", figure))
    return [Plots(figures, INTERVALS)] if figures else []


def overview(comparison: Comparison) -> Grid:
    """Rows x columns: mean over seeds, and the difference to the baseline with its p."""
    keys = _shown(comparison)
    head: list[Field | str] = [""]
    for column, fraction in keys:
        words = (
            [comparison.metric(column), percent(fraction)] if _budgets(comparison) > 1 else [comparison.metric(column)]
        )
        head.append(Field(column.replace("_", " "), " · ".join(filter(None, words))))
    rows: list[list[Field | str]] = []
    for row in comparison.design.rows:
        cells = [_overview_cell(comparison, column, fraction, row) for column, fraction in keys]
        rows.append([Field(row, color=comparison.styles[row].color), *cells])
    return Grid(head, rows, css="headline wide sticky")


def overview_note(comparison: Comparison) -> str:
    """What the numbers of the overview are."""
    base = comparison.design.baseline
    every = len(_shown(comparison)) == sum(len(column.fractions) for column in comparison.design.columns)
    budgets = "" if every else " Of each column its largest label budget; the others stand below."
    return (
        f"Test metric, mean over seeds; below it the difference to {base} and its p ({comparison.test_name} over seeds, "
        f"corrected by Holm over all {comparison.family} comparisons of this report), for {base} the standard deviation. "
        f"Marked: corrected p below 0.05.{budgets} Numbers of seeds, intervals and what is missing stand with each column."
    )


def _shown(comparison: Comparison) -> list[tuple[str, float]]:
    """Every column and budget, or where that is too wide the largest budget of each."""
    every = [(column.label, x) for column in comparison.design.columns for x in column.fractions]
    return every if len(every) <= WIDEST else [(c.label, max(c.fractions)) for c in comparison.design.columns]


def _budgets(comparison: Comparison) -> int:
    return len({x for column in comparison.design.columns for x in column.fractions})


def _overview_cell(comparison: Comparison, column: str, fraction: float, row: str) -> Field:
    cell = comparison.cell(column, fraction, row)
    if not cell.n:
        return Field("missing", mark="missing")
    if row == comparison.design.baseline:
        return Field(f"{cell.mean:.3f}", f"± {cell.sd:.3f}" if cell.n > 1 else "")
    outcome = comparison.differences[column, fraction, row].outcome
    if math.isnan(outcome.effect):
        return Field(f"{cell.mean:.3f}")
    return Field(
        f"{cell.mean:.3f}", f"{outcome.effect:+.3f}, {p_text(outcome)}", mark_of(outcome, comparison.metric(column))
    )


def rank_section(comparison: Comparison) -> Section:
    """Friedman's test and the critical difference."""
    found, absent = ranking(comparison)
    data = len({column.task for column in comparison.design.columns})
    blocks: list[Block] = []
    if found.ranks and not found.reason:
        title = "Mean rank; 1 is best"
        blocks.append(Plots([(title, "ranks", rank_plot(found, comparison.styles))]))
    elif found.ranks:
        blocks.append(Grid(["", "mean rank"], [(row, f"{value:.2f}") for row, value in found.ranks.items()]))
    blocks.append(
        Note(_rank_words(comparison, len(found.ranks)) if not found.reason else f"No test of ranks: {found.reason}.")
    )
    if not found.reason:
        tied = " The test does not tell the rows apart, so their order means nothing." if found.p >= 0.05 else ""
        p = f"p {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
        blocks.append(
            Note(
                f"Friedman's test: {p}. Critical difference of two mean ranks (Nemenyi, 5 %): {found.critical:.2f}.{tied}"
            )
        )
        if data < found.blocks:
            blocks.append(
                Note(f"The {found.blocks} blocks come from {data} task{'' if data == 1 else 's'} and share test subjects and "
                     "pretrainings; the test takes them as independent, so its p is too small. Read it as a summary.")
            )  # fmt: skip
    if absent:
        blocks.append(Note(f"Left out, without any result: {', '.join(absent)}."))
    return Section("ranks", "Ranks over all columns and budgets", blocks)


def _rank_words(comparison: Comparison, count: int) -> str:
    return (
        f"Mean rank of the {count} rows over columns and label budgets by mean test metric. Bars are one critical difference "
        "long: two rows whose bars overlap are not told apart."
    )


def cost_section(comparison: Comparison) -> Section:
    """Time, energy, memory and size."""
    columns = [column.label for column in comparison.design.columns]
    runs = [Field("one run", column.replace("_", " ")) for column in columns]
    head: list[Field | str] = [
        "",
        "one pretraining",
        *runs,
        "all its runs",
        "kWh",
        "peak memory",
        Field("weights", "pretrained"),
    ]
    rows: list[list[Field | str]] = []
    found = costs(comparison)
    for row, cost in found.items():
        peak = f"{cost.peak_mb / 1024:.1f} GB" if not math.isnan(cost.peak_mb) else EMPTY
        size = f"{cost.parameters / 1e6:.2f} M" if cost.parameters else EMPTY
        times = [
            EMPTY if math.isnan(x) else duration(x) for x in (cost.pretraining, *(cost.finals[c] for c in columns))
        ]
        total = [f"{cost.hours:.2f} h", f"{cost.kwh:.3f}"]
        rows.append([Field(row, color=comparison.styles[row].color), *times, *total, peak, size])
    note = (
        "Wall-clock time as the runs recorded it, tests along the way included; 'all its runs' counts pretrainings, trials and "
        "final runs. Weights: parameters of the pretrained file, encoder and decoder. kWh is an estimate: "
        f"{CPU_WATTS:g} W per processor thread, {GPU_WATTS:g} W per GPU, host included."
    )
    measured = any(not math.isnan(cost.peak_mb) for cost in found.values())
    note += (
        " Peak memory: of the largest run, on its GPU, else of its process."
        if measured
        else " Peak memory was not recorded."
    )
    return Section("cost", "Cost", [Grid(head, rows, css="sticky wide"), Note(note)])


def published_section(comparison: Comparison) -> Section | None:
    """The paper's numbers beside ours; None where none is declared."""
    found = published(comparison)
    if not found:
        return None
    rows: list[list[Field | str]] = []
    stated = any(not math.isnan(x.p) for x in found)
    for x in found:
        ours = f"{x.scale * x.ours.mean:.{1 if x.scale > 1 else 3}f}" if x.ours.n else "missing"
        spread = f"± {x.scale * x.ours.sd:.{1 if x.scale > 1 else 3}f}" if x.ours.n > 1 else ""
        cited = EMPTY if math.isnan(x.published) else f"{x.published:g}"
        line: list[Field | str] = [
            x.row,
            f"{x.column.replace('_', ' ')}, {percent(x.fraction)}",
            cited,
            Field(ours, spread),
        ]
        rows.append([*line, *(_published_p(comparison, x) if stated else [])])
    head = ["", "column", "published", "ours", *(["published p", "our p"] if stated else [])]
    blocks: list[Block] = [Grid(head, rows, text=(0, 1))]
    shown = [x for x in found if x.ours.n and not math.isnan(x.published)]
    if shown:
        figure = ("Published against ours", "published", scatter(shown, comparison.styles))
        blocks = [Beside(blocks, [Plots([figure])])]
    note = f"Published: {comparison.design.source or 'as declared'}. On the line: equal."
    if any(x.scale > 1 for x in found):
        note += " Ours in percent, as in the paper."
    if stated:
        note += (
            f" {PUBLISHED_P} Ours: against {comparison.design.baseline}, corrected over all comparisons of this report."
        )
    return Section("published", "Published and ours", [*blocks, Note(note)])


def _published_p(comparison: Comparison, x: Published) -> list[str]:
    """The paper's p of a row, and ours of its difference to the baseline."""
    own = comparison.differences.get((x.column, x.fraction, x.row))
    cited = EMPTY if math.isnan(x.p) else f"{x.p:g}"
    return [cited, EMPTY if own is None else p_text(own.outcome).removeprefix("p ")]
