"""The paper's numbers: beside ours where both measure the same, apart where they do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ssl_med.reports.figures.overall import scatter
from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.numbers.published import Published, published, unlike_the_paper
from ssl_med.reports.numbers.wording import PUBLISHED_P, p_text
from ssl_med.reports.render.blocks import Beside, Block, Field, Grid, Note, Plots, Section


def section(comparison: Comparison) -> list[Section]:
    """Nothing where none is declared."""
    found = published(comparison)
    if not found:
        return []
    source = f"Published: {comparison.design.source or 'as declared'}."
    if why := unlike_the_paper(comparison):
        note = (
            f"{source} They stand apart, in no cell and no figure of ours, because {why}; the two cannot be compared."
        )
        return [Section("published", "Published numbers", [_grid(comparison, found, ours=False), Note(note)])]
    blocks: list[Block] = [_grid(comparison, found)]
    shown = [x for x in found if x.ours.n and not math.isnan(x.published)]
    if shown:
        figure = ("Published against ours", "published", scatter(shown, comparison.styles))
        blocks = [Beside(blocks, [Plots([figure])])]
    note = f"{source} On the line: equal."
    if any(x.scale > 1 for x in found):
        note += " Ours in percent, as in the paper."
    if any(not math.isnan(x.p) for x in found):
        note += f" {PUBLISHED_P} Ours: against {comparison.design.baseline}, corrected over {comparison.family_text()}."
    return [Section("published", "Published and ours", [*blocks, Note(note)])]


def _grid(comparison: Comparison, found: Sequence[Published], *, ours: bool = True) -> Grid:
    stated = any(not math.isnan(x.p) for x in found)
    rows: list[list[Field | str]] = []
    for x in found:
        digits = 1 if x.scale > 1 else 3
        mean = f"{x.scale * x.ours.mean:.{digits}f}" if x.ours.n else "missing"
        spread = f"± {x.scale * x.ours.sd:.{digits}f}" if x.ours.n > 1 else ""
        place = f"{x.column.replace('_', ' ')}, {percent(x.fraction)}"
        own = comparison.differences.get((x.column, x.fraction, x.row))
        p = EMPTY if own is None else p_text(own.outcome).removeprefix("p ")
        line: list[Field | str] = [x.row, place, EMPTY if math.isnan(x.published) else f"{x.published:g}"]
        line += [Field(mean, spread)] if ours else []
        line += [EMPTY if math.isnan(x.p) else f"{x.p:g}"] if stated else []
        rows.append([*line, *([p] if stated and ours else [])])
    head = ["", "column", "published", *(["ours"] if ours else []), *(["published p"] if stated else [])]
    return Grid([*head, *(["our p"] if stated and ours else [])], rows, text=(0, 1))
