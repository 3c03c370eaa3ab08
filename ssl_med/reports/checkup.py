"""The data doctor's findings -> report.html (one file, no network, no script) and report.md; ids only, no path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssl_med.files import write_text
from ssl_med.reports.escape import html as escape
from ssl_med.reports.escape import markdown as plain
from ssl_med.reports.numbers.wording import duration
from ssl_med.reports.render import html_parts as p

MOST_ROWS = 200  # of one class; report.json holds all
Picture = tuple[str, bytes]  # caption and PNG


def write_checkup(out: Path, report: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> Path:
    """Writes both pages.

    Args:
        out: folder.
        report: content of report.json: data, files, cases, subjects, seconds, with, kinds and findings.
        pictures: thumbnails by kind of finding.

    Returns:
        Path of report.html.
    """
    write_text(out / "report.md", _markdown(report))
    page = out / "report.html"
    write_text(page, p.page(f"ssl_med check: {report['data']}", _body(report, pictures)))
    return page


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    files = report["files"]
    return [
        ("data", str(report["data"])),
        ("read", f"{files['images']} images, {files['masks']} masks, in {duration(report['seconds'])}"),
        ("cases", f"{report['cases']} of {report['subjects']} subjects"),
        ("usable", f"{report['usable']} of {report['of']} cases, to {report['use']}"),
        ("compared with", ", ".join(report["with"]) or "no other data set"),
    ]


def _rows(report: Mapping[str, Any], kind: str) -> list[list[str]]:
    rows = []
    for finding in report["findings"]:
        if finding["kind"] == kind:
            other = f"{finding['other']} of {finding['also_in']}" if finding["also_in"] else finding["other"]
            rows.append([finding["id"], finding["detail"], other])
    return rows


def _body(report: Mapping[str, Any], pictures: Mapping[str, Sequence[Picture]]) -> str:
    kinds = report["kinds"]
    head = ["finding", "weight", "files", "what to do"]
    table = [
        [
            f'<a href="#{kind}">{escape(about["title"])}</a>',
            about["severity"],
            str(about["count"]),
            escape(about["remedy"]),
        ]
        for kind, about in kinds.items()
    ]
    errors = sum(about["count"] for about in kinds.values() if about["severity"] == "error")
    outcome = f"{errors} errors" if errors else "No error"
    text = (
        f"<header><h1>Data check: {escape(str(report['data']))}</h1>"
        f'<p class="lead">{outcome}. Files are named as their data set published them, else by a salted hash; '
        "quarantine.txt says which file that is.</p></header>"
        f"{p.facts(_facts(report))}"
    )
    text += p.table(head, table, css="wide", text=(0, 1, 3)) if table else ""
    for kind, about in kinds.items():
        rows = _rows(report, kind)
        text += f'<section><h2 id="{kind}">{escape(about["title"])}</h2><p class="note">{escape(about["remedy"])}</p>'
        figures = [p.png_figure(png, alt=caption, caption=escape(caption)) for caption, png in pictures.get(kind, ())]
        text += f'<div class="thumbs">{"".join(figures)}</div>' if figures else ""
        lines = [[escape(cell) for cell in row] for row in rows[:MOST_ROWS]]
        text += p.table(["file", "what was seen", "together with"], lines, text=(0, 1, 2))
        if len(rows) > MOST_ROWS:
            text += f'<p class="note">{len(rows) - MOST_ROWS} more are in report.json.</p>'
        text += "</section>"
    return text + "<footer>Made by ssl_med from local files; this page loads nothing and sends nothing.</footer>"


def _markdown(report: Mapping[str, Any]) -> str:
    facts = [f"- {name}: {plain(value)}" for name, value in _facts(report)]
    lines = [f"# Data check: {plain(str(report['data']))}", "", *facts, ""]
    if report["kinds"]:
        lines += ["| finding | weight | files | what to do |", "| --- | --- | ---: | --- |"]
        for about in report["kinds"].values():
            title, remedy = plain(about["title"]), plain(about["remedy"])
            lines.append(f"| {title} | {about['severity']} | {about['count']} | {remedy} |")
        lines.append("")
    for kind, about in report["kinds"].items():
        rows = _rows(report, kind)
        lines += [f"## {plain(about['title'])}", ""]
        for name, detail, other in ([plain(cell) for cell in row] for row in rows[:MOST_ROWS]):
            lines.append(f"- {name}" + (f": {detail}" if detail else "") + (f" (with {other})" if other else ""))
        if len(rows) > MOST_ROWS:
            lines.append(f"- {len(rows) - MOST_ROWS} more are in report.json")
        lines.append("")
    return "\n".join(lines)
