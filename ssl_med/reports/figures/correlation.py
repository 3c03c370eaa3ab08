"""A number of feature analysis against a transfer score, a point for each network."""

from __future__ import annotations

from matplotlib.figure import Figure

from ssl_med.reports.escape import drawn
from ssl_med.reports.numbers.correlation import Correlation
from ssl_med.reports.style import INK, panel, styles


def scatter(found: Correlation) -> Figure:
    """Networks as named points."""
    figure, axes = panel(f"Spearman {found.spearman.estimate:.2f}, {len(found.x)} networks")
    looks = styles({name: name for name in found.networks})
    for name, x, y in zip(found.networks, found.x, found.y, strict=True):
        look = looks[name]
        axes.plot(x, y, look.marker, color=look.color, markersize=7)
        axes.annotate(drawn(name, longest=20), (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8, color=INK)
    axes.margins(x=0.15, y=0.1)
    axes.set(xlabel=drawn(found.number, longest=60), ylabel=drawn(found.score, longest=50))
    return figure
