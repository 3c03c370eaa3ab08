"""A comparison -> report.html (one file, no network, no script), report.md, results.csv and table.tex."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from ssl_med.reports.html import case_pictures
from ssl_med.reports.numbers.comparison import Comparison, Entry
from ssl_med.reports.numbers.derived import Published, published, seconds
from ssl_med.reports.numbers.provenance import duration
from ssl_med.reports.numbers.tables import EMPTY, results_csv
from ssl_med.reports.render import latex
from ssl_med.reports.render import parts as p
from ssl_med.reports.render.blocks import Heading, Listing, OnPage, Section, html, markdown
from ssl_med.reports.sections.fairness import fairness_section, runs_section, warnings
from ssl_med.reports.sections.overall import cost_section, in_short, overview_section, published_section, rank_section
from ssl_med.reports.sections.results import column_section


def write_report(comparison: Comparison, out: Path) -> Path:
    """Writes the report of a comparison, complete or not, into a folder; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    sections = _sections(comparison)
    entries = comparison.entries
    cited = {(x.row, x.column, x.fraction): x for x in published(comparison)}
    first: dict[str, Sequence[Any]] = {
        "role": [entry.role for entry in entries],
        "row": [entry.row for entry in entries],
        "column": [entry.column for entry in entries],
        "fraction": [f"{entry.fraction:g}" for entry in entries],
        "table_seed": [entry.seed for entry in entries],
        "setting": [entry.chosen for entry in entries],
        "missing_because": [entry.why for entry in entries],
        "published": [_cited(cited, entry, "published") for entry in entries],
        "published_p": [_cited(cited, entry, "p") for entry in entries],
    }
    (out / "results.csv").write_text(results_csv([entry.run for entry in entries], first=first), encoding="utf-8")
    (out / "table.tex").write_text(latex.tex(comparison), encoding="utf-8")
    (out / "report.md").write_text(_markdown(comparison, sections, out), encoding="utf-8")
    page = out / "report.html"
    page.write_text(
        p.page(comparison.design.title or comparison.design.name, _body(comparison, sections)), encoding="utf-8"
    )
    return page


def _cited(numbers: Mapping[tuple[str, str, float], Published], entry: Entry, what: Literal["published", "p"]) -> str:
    """The paper's number or p beside a run of its cell; '' where there is none."""
    found = numbers.get((entry.row, entry.column, entry.fraction)) if entry.role == "final" else None
    value = math.nan if found is None else float(getattr(found, what))
    return "" if math.isnan(value) else f"{value:g}"


def _sections(comparison: Comparison) -> list[Section]:
    first = overview_section(comparison)
    found = [
        *([first] if first else []),
        *(column_section(comparison, k) for k in range(len(comparison.design.columns))),
    ]
    found += [rank_section(comparison), cost_section(comparison)]
    cited = published_section(comparison)
    if cited is not None:
        found.append(cited)
    pictures = "".join(case_pictures(table) for table in comparison.tables.values())
    if pictures:
        found.append(Section("pictures", "Predictions", [OnPage(pictures)]))
    return [*found, fairness_section(comparison), runs_section(comparison)]


def _body(comparison: Comparison, sections: list[Section]) -> str:
    links = "".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in sections)
    short = html(Section("short", "In short", [Listing(in_short(comparison))]))
    return (
        f"<header><h1>{escape(comparison.design.title or comparison.design.name)}</h1>"
        f'<p class="lead">{escape(_lead(comparison))}</p></header>{_tiles(comparison)}{short}'
        f"{p.warning('Missing or in doubt:', warnings(comparison))}<nav>{links}</nav>{''.join(map(html, sections))}"
        "<footer>Made by ssl_med from local files; this page loads nothing and sends nothing.</footer>"
    )


def _markdown(comparison: Comparison, sections: list[Section], out: Path) -> str:
    lines = [f"# {comparison.design.title or comparison.design.name}", "", _lead(comparison), ""]
    top = [Section("short", "In short", [Listing(in_short(comparison))])]
    if doubt := warnings(comparison):
        top.append(Section("doubt", "Missing or in doubt", [Listing(doubt)]))
    for section in (*top, *sections):
        if any(not isinstance(block, OnPage | Heading) for block in section.blocks):
            lines += markdown(section, out)
    return "\n".join(lines)


def _lead(comparison: Comparison) -> str:
    design = comparison.design
    what = f"{len(design.rows)} ways to start, {len(design.columns)} column{'' if len(design.columns) == 1 else 's'}"
    return (
        f"Table {design.name}: {what}, {len(design.seeds)} seeds. "
        f"All rows are compared with {design.baseline}; every number is read from a run folder listed at the end."
    )


def _tiles(comparison: Comparison) -> str:
    finals = comparison.of("final")
    runs = [entry.run for entry in comparison.entries if not entry.why]
    shares = sorted({x for column in comparison.design.columns for x in column.fractions})
    tiles = [
        (f"{sum(not entry.why for entry in finals)} of {len(finals)}", "runs behind the cells"),
        (str(len(comparison.design.seeds)), "seeds"),
        (" · ".join(f"{100 * x:.3g}" for x in shares), "% of labels"),
        (" · ".join(dict.fromkeys(table.n_test for table in comparison.tables.values())) or EMPTY, "test cases"),
        (str(comparison.family), "comparisons, one Holm family"),
        (duration(sum(map(seconds, runs))), "computing in all"),
    ]
    inner = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<div class="tiles">{inner}</div>'
