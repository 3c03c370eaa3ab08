"""Losses and online probes of the pretrainings, and what they do not share."""

from __future__ import annotations

from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.curves import loss_curves, probe_curves
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import pretrain_warnings
from ssl_med.reports.numbers.wording import duration
from ssl_med.reports.render.blocks import Block, Grid, Heading, Listing, Note, Plots, Section


def section(comparison: Comparison) -> list[Section]:
    """One part for each data set that was pretrained on."""
    done = [entry.run for entry in comparison.of("pretrain") if not entry.why]
    blocks: list[Block] = []
    for data in sorted({run.data for run in done}):
        runs = [run for run in done if run.data == data]
        figures = [*loss_curves(runs), *probe_curves(runs)]
        rows = [
            (run.name, run.method, str(run.summary.get("steps")), duration(run.summary.get("seconds"))) for run in runs
        ]
        blocks += [
            Heading(f"on {data}"),
            Grid(["run", "method", "steps", "time"], rows, text=(0, 1)),
            Plots([
                (figure.axes[0].get_title(loc="left"), f"pretraining-{file_stem(data)}-{k}", figure)
                for k, figure in enumerate(figures)
            ]),
            Listing(pretrain_warnings(runs), "Pretrainings differ in more than method and optimiser:", warning=True),
        ]  # fmt: skip
    if not blocks:
        return []
    note = Note(
        "Losses of different methods have no common scale; look at their shape. Pale: as logged; strong: smoothed."
    )
    return [Section("pretraining", "Pretraining", [note, *blocks])]
