"""Tables of a comparison for a paper: booktabs, one of all columns, and for each the results and the differences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.wording import missing_lines
from ssl_med.reports.render.blocks import MARKED, Field, Grid
from ssl_med.reports.sections.overall import overview, overview_note
from ssl_med.reports.sections.results import difference_grid, difference_notes, results, results_caption

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "—": "--", "–": "--",
    "·": r"$\cdot$", "×": r"$\times$",
}  # fmt: skip


def tex(comparison: Comparison) -> str:
    """Text of table.tex."""
    lines = ["% needs \\usepackage{booktabs}"]
    if len(comparison.design.columns) > 1:
        caption = f"{comparison.design.title}. {overview_note(comparison)}"
        lines += _table(comparison, "all", "columns", overview(comparison), caption)
    for column in comparison.design.columns:
        if column.label not in comparison.tables:
            lines.append(f"% {column.label}: no run of this column has finished")
            continue
        absent = missing_lines(e for e in comparison.missing if e.role == "final" and e.column == column.label)
        notes = [f"Not there: {line}." for line in absent]
        caption = " ".join([f"{comparison.design.title}.", results_caption(comparison, column), *notes])
        lines += _table(comparison, column.label, "results", results(comparison, column), caption)
        if comparison.challengers:
            base, title = comparison.design.baseline, comparison.tables[column.label].title
            what = f"{title}: difference in test {comparison.metric(column.label)} to {base}."
            caption = " ".join([f"{comparison.design.title}.", what, *difference_notes(comparison, column)])
            lines += _table(comparison, column.label, "differences", difference_grid(comparison, column), caption)
    return "\n".join(lines) + "\n"


def _table(comparison: Comparison, column: str, what: str, grid: Grid, caption: str) -> list[str]:
    label = f"tab:{comparison.design.name}-{column}-{what}".replace("_", "-")
    return [
        "",
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(grid.head) - 1)}}}",
        r"\toprule",
        _line(grid.head),
        r"\midrule",
        *(_line(row) for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _line(cells: Sequence[Field | str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(cell: Field | str) -> str:
    cell = cell if isinstance(cell, Field) else Field(cell)
    text, aside = (re.sub(r"(?<!\w)-(?=\d)", "$-$", escape(part)) for part in (cell.text, cell.aside))
    text = rf"\textbf{{{text}}}" if cell.mark in MARKED else text
    return rf"{text} {{\scriptsize {aside}}}" if aside else text


def escape(text: str) -> str:
    """Plain text as TeX."""
    return "".join(_TEX.get(letter, letter) for letter in text)
