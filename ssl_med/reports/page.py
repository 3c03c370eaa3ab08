"""A comparison -> report.html (one file, no network, no script), report.md, results.csv and table.tex."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ssl_med.files import write_text
from ssl_med.reports.loose_runs import comparison_of_runs
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.render import csv, html, latex, markdown
from ssl_med.reports.render.blocks import Section
from ssl_med.reports.run_folder import find_runs
from ssl_med.reports.sections import (
    cases,
    cost,
    error_analysis,
    fairness,
    features,
    overview,
    predictions,
    pretraining,
    published,
    ranks,
    results,
    runs,
    short,
)
from ssl_med.reports.sections.head import head, lead, phantoms
from ssl_med.spec import SslMedError

SECTIONS: tuple[Callable[[Comparison], Sequence[Section]], ...] = (
    short.section,
    overview.section,
    results.section,
    ranks.section,
    cost.section,
    published.section,
    pretraining.section,
    features.section,
    predictions.section,
    error_analysis.section,
    cases.section,
    fairness.section,
    runs.section,
)
"""The report, in its order. A section is a function of a comparison in a file of its own; [] where it has nothing to say."""


def write_report(comparison: Comparison, out: Path) -> Path:
    """Writes the report of a comparison, complete or not, into a folder; returns the page."""
    sections = sections_of(comparison)
    title, top = comparison.design.title or comparison.design.name, head(comparison)
    write_text(out / "results.csv", csv.text(comparison))
    tables = latex.text(comparison.design.name, title, sections, doubt=phantoms(comparison))
    write_text(out / "table.tex", tables)
    write_text(out / "report.md", markdown.text(title, lead(comparison), top, sections, out))
    page = out / "report.html"
    write_text(page, html.page(title, lead(comparison), top, sections))
    return page


def sections_of(comparison: Comparison) -> list[Section]:
    """Every section that has something to say, in the order of `SECTIONS`."""
    return [section for build in SECTIONS for section in build(comparison)]


def report_runs(folders: Sequence[Path], out: Path) -> Path:
    """Reads every run at or below the given folders and writes the report of the comparison that they make.

    Args:
        folders: run folders, or folders that hold some at any depth.
        out: folder of report.html, report.md, table.tex, results.csv and figures/ (PNG, for slides and print).

    Returns:
        Path of report.html.

    Raises:
        SslMedError: a folder is absent, or no run was found.
    """
    found = find_runs(folders)
    if not found:
        raise SslMedError(f"{', '.join(map(str, folders))}: no run found; a run folder holds a summary.json")
    return write_report(comparison_of_runs(found), out)
