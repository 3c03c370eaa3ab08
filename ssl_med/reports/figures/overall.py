"""Figures of a comparison besides its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from ssl_med.reports.escape import drawn
from ssl_med.reports.numbers.published import Published
from ssl_med.reports.numbers.ranking import Ranking
from ssl_med.reports.style import INK, RC, SIZE, Style, panel


def rank_plot(ranking: Ranking, looks: Mapping[str, Style]) -> Figure:
    """Mean ranks, best on top, each with a bar of one critical difference: rows whose bars overlap are not told apart."""
    with mpl.rc_context(RC):
        figure, axes = panel("Mean rank; 1 is best", height=1.1 + 0.27 * len(ranking.ranks))
        for place, (row, value) in enumerate(ranking.ranks.items()):
            look, half = looks[row], ranking.critical / 2
            axes.plot([value - half, value + half], [place, place], color=look.color, linewidth=5, alpha=0.25)
            axes.plot([value], [place], color=look.color, marker=look.marker, markersize=7, linestyle="none")
        axes.set_yticks(range(len(ranking.ranks)), [drawn(row) for row in ranking.ranks])
        axes.invert_yaxis()
        axes.set_xlim(0.7, len(ranking.ranks) + 0.3)
        axes.set_xlabel("mean rank; bar: one critical difference")
        return figure


def scatter(points: Sequence[Published], looks: Mapping[str, Style]) -> Figure:
    """Our mean against the paper's number, with the line of equality."""
    with mpl.rc_context(RC):
        figure, axes = panel("Published against ours", height=SIZE[1] + 0.8)
        seen: set[str] = set()
        for point in points:
            look = looks[point.row]
            axes.plot(
                [point.published], [point.scale * point.ours.mean], color=look.color, marker=look.marker, linestyle="none",
                label=None if point.row in seen else drawn(point.row),
            )  # fmt: skip
            seen.add(point.row)
        values = [x for point in points for x in (point.published, point.scale * point.ours.mean)]
        pad = 0.06 * (max(values) - min(values) or 1.0)
        ends = [min(values) - pad, max(values) + pad]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.set(xlim=ends, ylim=ends, xlabel="published", ylabel="ours", aspect="equal")
        figure.legend(loc="outside lower center", ncols=3, fontsize=8.5)
        return figure
