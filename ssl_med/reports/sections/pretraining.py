"""Losses and online probes of the pretrainings, and what they do not share."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.curves import loss_curves, probe_curves
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.fairness import pretrain_warnings
from ssl_med.reports.numbers.wording import duration
from ssl_med.reports.render.blocks import Block, Grid, Heading, Listing, Note, Picture, Pictures, Plots, Section
from ssl_med.reports.run_folder import Run


def section(comparison: Comparison) -> list[Section]:
    """One part for each data set that was pretrained on."""
    done = [entry.run for entry in comparison.of("pretrain") if not entry.why]
    blocks: list[Block] = []
    for data in sorted({run.data for run in done}):
        runs = [run for run in done if run.data == data]
        figures = [*loss_curves(runs), *probe_curves(runs)]
        blocks += [
            Heading(f"on {data}"),
            _rows(runs),
            Plots([
                (figure.axes[0].get_title(loc="left"), f"pretraining-{file_stem(data)}-{k}", figure)
                for k, figure in enumerate(figures)
            ]),
            *(_restorations(run) for run in runs if run.drawings),
            Listing(pretrain_warnings(runs), "Pretrainings differ in more than method and optimiser:", warning=True),
        ]  # fmt: skip
    if not blocks:
        return []
    note = Note(
        "Losses of different methods have no common scale; look at their shape. Pale: as logged; strong: smoothed."
    )
    return [Section("pretraining", "Pretraining", [note, *blocks])]


def _rows(runs: Sequence[Run]) -> Grid:
    """Steps and time of each run, and how well those that restore images do it on validation images."""
    heads, rows = ["run", "method", "steps", "time"], []
    restored = any(run.summary.get("restoration") for run in runs)
    for run in runs:
        row = [run.name, run.method, str(run.summary.get("steps")), duration(run.summary.get("seconds"))]
        if restored:
            found = run.summary.get("restoration") or {}
            row += [
                f"{found[key]:.{digits}f}" if found.get(key) is not None else "–" for key, digits in _SCORES.items()
            ]
        rows.append(tuple(row))
    names = ["PSNR, dB", "of corrupted", "SSIM", "of corrupted"] if restored else []
    return Grid([*heads, *names], rows, text=(0, 1))


_SCORES = {"psnr": 2, "corrupted/psnr": 2, "ssim": 3, "corrupted/ssim": 3}


def _restorations(run: Run) -> Pictures:
    """What a method that restores images makes of those of validation at its end."""
    return Pictures([
        Picture(path, title, f"pretraining-{file_stem(run.name)}-{path.stem}", run.name, caption, broad=True)
        for title, caption, path in run.drawings
    ])  # fmt: skip
