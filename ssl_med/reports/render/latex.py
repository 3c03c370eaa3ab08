"""The tables of a report for a paper, in booktabs' style: those whose grid has a key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ssl_med.reports.escape import latex as escape
from ssl_med.reports.escape import latex_label, one_line
from ssl_med.reports.render.blocks import MARKED, Beside, Block, Field, Fold, Grid, Section


def text(name: str, title: str, sections: Sequence[Section], *, doubt: str = "") -> str:
    """Text of table.tex.

    Args:
        name: of the comparison, for the labels.
        title: begins every caption.
        sections: of the report.
        doubt: sentence that every caption must end with.
    """
    lines = ["% needs \\usepackage{booktabs}", *([f"% {one_line(doubt)}"] if doubt else [])]
    for section in sections:
        for grid in _grids(section.blocks):
            words = [_sentence(title), *grid.caption, *(f"Not there: {line}." for line in grid.missing), doubt]
            if grid.rows:
                lines += _table(latex_label(f"tab:{name}-{grid.key}"), grid, " ".join(filter(None, words)))
            else:
                lines.append(one_line(f"% {grid.key}: {' '.join(grid.caption)}"))
    return "\n".join(lines) + "\n"


def _grids(blocks: Sequence[Block]) -> Iterator[Grid]:
    for block in blocks:
        match block:
            case Grid(key=key) if key:
                yield block
            case Fold(blocks=inner):
                yield from _grids(inner)
            case Beside(left, right):
                yield from _grids([*left, *right])


def _table(label: str, grid: Grid, caption: str) -> list[str]:
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


def _sentence(title: str) -> str:
    return title if title.endswith((".", "?", "!")) else f"{title}."


def _line(cells: Sequence[Field | str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(cell: Field | str) -> str:
    cell = cell if isinstance(cell, Field) else Field(cell)
    text, aside = (re.sub(r"(?<!\w)-(?=\d)", "$-$", escape(part)) for part in (cell.text, cell.aside))
    text = rf"\textbf{{{text}}}" if cell.mark in MARKED else text
    return rf"{text} {{\scriptsize {aside}}}" if aside else text
