"""Tables of a study for a paper: booktabs, one of all columns, and for each the results and the differences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssl_med.reports._blocks import MARKED, Field, Grid
from ssl_med.reports._study_words import missing_lines
from ssl_med.reports.study import Study
from ssl_med.reports.study_overall import overview, overview_note
from ssl_med.reports.study_sections import difference_grid, difference_notes, results, results_caption

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "—": "--", "–": "--",
    "·": r"$\cdot$", "×": r"$\times$",
}  # fmt: skip


def tex(study: Study) -> str:
    """Text of table.tex."""
    lines = ["% needs \\usepackage{booktabs}"]
    if len(study.declared.columns) > 1:
        caption = f"{study.declared.title}. {overview_note(study)}"
        lines += _table(study, "all", "columns", overview(study), caption)
    for column in study.declared.columns:
        if column.label not in study.tables:
            lines.append(f"% {column.label}: no run of this column has finished")
            continue
        absent = missing_lines(e for e in study.missing if e.role == "final" and e.column == column.label)
        notes = [f"Not there: {line}." for line in absent]
        caption = " ".join([f"{study.declared.title}.", results_caption(study, column), *notes])
        lines += _table(study, column.label, "results", results(study, column), caption)
        if study.challengers:
            base, title = study.declared.baseline, study.tables[column.label].title
            what = f"{title}: difference in test {study.metric(column.label)} to {base}."
            caption = " ".join([f"{study.declared.title}.", what, *difference_notes(study, column)])
            lines += _table(study, column.label, "differences", difference_grid(study, column), caption)
    return "\n".join(lines) + "\n"


def _table(study: Study, column: str, what: str, grid: Grid, caption: str) -> list[str]:
    label = f"tab:{study.declared.name}-{column}-{what}".replace("_", "-")
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
