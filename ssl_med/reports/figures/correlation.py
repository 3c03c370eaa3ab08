"""A number of feature analysis against a transfer score, a point for each network."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from ssl_med.reports.escape import drawn
from ssl_med.reports.numbers.correlation import Correlation
from ssl_med.reports.style import RC, panel, styles


def scatter(found: Correlation) -> Figure:
    """Networks as points that a legend names beside the axes, so that near ones do not hide each other's names."""
    with mpl.rc_context(RC):
        figure, axes = panel(f"Spearman {found.spearman.estimate:.2f}, {len(found.x)} networks")
        looks = styles({name: name for name in found.networks})
        for name, x, y in zip(found.networks, found.x, found.y, strict=True):
            look = looks[name]
            label = drawn(name, longest=22)
            axes.plot(x, y, look.marker, color=look.color, markerfacecolor=look.face, markersize=7, label=label)
        axes.margins(0.08)
        axes.set(xlabel=drawn(found.number, longest=60), ylabel=drawn(found.score, longest=50))
        figure.legend(loc="outside right center", fontsize=8)
    return figure
