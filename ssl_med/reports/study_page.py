"""A study -> report.html (one file, no network, no script), report.md, results.csv and table.tex."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssl_med.reports import _page as p
from ssl_med.reports import _study_tex
from ssl_med.reports._blocks import Heading, Listing, OnPage, Section, html, markdown
from ssl_med.reports._provenance import duration
from ssl_med.reports.html import case_pictures
from ssl_med.reports.study import Study
from ssl_med.reports.study_derived import seconds
from ssl_med.reports.study_fairness import fairness_section, runs_section, warnings
from ssl_med.reports.study_overall import cost_section, in_short, overview_section, published_section, rank_section
from ssl_med.reports.study_sections import column_section
from ssl_med.reports.tables import EMPTY, results_csv


def write_study(study: Study, out: Path) -> Path:
    """Writes the report of a study, complete or not, into a folder; returns the page."""
    out.mkdir(parents=True, exist_ok=True)
    sections = _sections(study)
    entries = study.entries
    first: dict[str, Sequence[Any]] = {
        "role": [entry.role for entry in entries],
        "row": [entry.row for entry in entries],
        "column": [entry.column for entry in entries],
        "fraction": [f"{entry.fraction:g}" for entry in entries],
        "table_seed": [entry.seed for entry in entries],
        "setting": [entry.chosen for entry in entries],
        "missing_because": [entry.why for entry in entries],
    }
    (out / "results.csv").write_text(results_csv([entry.run for entry in entries], first=first), encoding="utf-8")
    (out / "table.tex").write_text(_study_tex.tex(study), encoding="utf-8")
    (out / "report.md").write_text(_markdown(study, sections, out), encoding="utf-8")
    page = out / "report.html"
    page.write_text(p.page(study.declared.title or study.declared.name, _body(study, sections)), encoding="utf-8")
    return page


def _sections(study: Study) -> list[Section]:
    first = overview_section(study)
    found = [*([first] if first else []), *(column_section(study, k) for k in range(len(study.declared.columns)))]
    found += [rank_section(study), cost_section(study)]
    cited = published_section(study)
    if cited is not None:
        found.append(cited)
    pictures = "".join(case_pictures(table) for table in study.tables.values())
    if pictures:
        found.append(Section("pictures", "Predictions", [OnPage(pictures)]))
    return [*found, fairness_section(study), runs_section(study)]


def _body(study: Study, sections: list[Section]) -> str:
    links = "".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in sections)
    short = html(Section("short", "In short", [Listing(in_short(study))]))
    return (
        f"<header><h1>{escape(study.declared.title or study.declared.name)}</h1>"
        f'<p class="lead">{escape(_lead(study))}</p></header>{_tiles(study)}{short}'
        f"{p.warning('Missing or in doubt:', warnings(study))}<nav>{links}</nav>{''.join(map(html, sections))}"
        "<footer>Made by ssl_med from local files; this page loads nothing and sends nothing.</footer>"
    )


def _markdown(study: Study, sections: list[Section], out: Path) -> str:
    lines = [f"# {study.declared.title or study.declared.name}", "", _lead(study), ""]
    top = [Section("short", "In short", [Listing(in_short(study))])]
    if doubt := warnings(study):
        top.append(Section("doubt", "Missing or in doubt", [Listing(doubt)]))
    for section in (*top, *sections):
        if any(not isinstance(block, OnPage | Heading) for block in section.blocks):
            lines += markdown(section, out)
    return "\n".join(lines)


def _lead(study: Study) -> str:
    declared = study.declared
    what = (
        f"{len(declared.rows)} ways to start, {len(declared.columns)} column{'' if len(declared.columns) == 1 else 's'}"
    )
    return (
        f"Table {declared.name}: {what}, {len(declared.seeds)} seeds. "
        f"All rows are compared with {declared.baseline}; every number is read from a run folder listed at the end."
    )


def _tiles(study: Study) -> str:
    finals = study.of("final")
    runs = [entry.run for entry in study.entries if not entry.why]
    shares = sorted({x for column in study.declared.columns for x in column.fractions})
    tiles = [
        (f"{sum(not entry.why for entry in finals)} of {len(finals)}", "runs behind the cells"),
        (str(len(study.declared.seeds)), "seeds"),
        (" · ".join(f"{100 * x:.3g}" for x in shares), "% of labels"),
        (" · ".join(dict.fromkeys(table.n_test for table in study.tables.values())) or EMPTY, "test cases"),
        (str(study.family), "comparisons, one Holm family"),
        (duration(sum(map(seconds, runs))), "computing in all"),
    ]
    inner = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<div class="tiles">{inner}</div>'
