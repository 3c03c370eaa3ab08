"""What each row cost: time, energy, memory and size."""

from __future__ import annotations

import math

from ssl_med.reports.numbers.cells import EMPTY
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.costs import CPU_WATTS, GPU_WATTS, costs
from ssl_med.reports.numbers.wording import duration
from ssl_med.reports.render.blocks import Field, Grid, Note, Section


def section(comparison: Comparison) -> list[Section]:
    """One line a row."""
    found = costs(comparison)
    if not found:
        return []
    columns = [column.label for column in comparison.design.columns]
    each = [Field("one run", column.replace("_", " ")) for column in columns]
    head: list[Field | str] = [
        "",
        "one pretraining",
        *each,
        "all its runs",
        "kWh",
        "peak memory",
        Field("weights", "pretrained"),
    ]
    rows: list[list[Field | str]] = []
    for row, cost in found.items():
        peak = f"{cost.peak_mb / 1024:.1f} GB" if not math.isnan(cost.peak_mb) else EMPTY
        size = f"{cost.parameters / 1e6:.2f} M" if cost.parameters else EMPTY
        times = [
            EMPTY if math.isnan(x) else duration(x) for x in (cost.pretraining, *(cost.finals[c] for c in columns))
        ]
        total = [f"{cost.hours:.2f} h", f"{cost.kwh:.3f}"]
        rows.append([Field(row, color=comparison.styles[row].color), *times, *total, peak, size])
    measured = any(not math.isnan(cost.peak_mb) for cost in found.values())
    memory = (
        " Peak memory: of the largest run, on its GPU, else of its process."
        if measured
        else " Peak memory was not recorded."
    )
    note = (
        "Wall-clock time as the runs recorded it, tests along the way included; 'all its runs' counts pretrainings, trials and "
        "final runs. Weights: parameters of the pretrained file, encoder and decoder. kWh is an estimate: "
        f"{CPU_WATTS:g} W per processor thread, {GPU_WATTS:g} W per GPU, host included.{memory}"
    )
    return [Section("cost", "Cost", [Grid(head, rows, css="sticky wide"), Note(note)])]
