"""The report as Markdown, for issues, pull requests and papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_med.reports.figures.curves import label_efficiency, loss_curves, probe_curves
from ssl_med.reports.figures.pictures import save
from ssl_med.reports.numbers.differences import difference_lines, difference_notes, differences
from ssl_med.reports.numbers.external import external_lines, external_notes
from ssl_med.reports.numbers.provenance import conventions, duration, leak_status, noted
from ssl_med.reports.numbers.tables import Table, caption, markdown
from ssl_med.reports.run_folder import Run
from ssl_med.reports.sections.errors import markdown_errors, markdown_table
from ssl_med.reports.writing import file_stem

TITLE = "What did pretraining bring?"


def markdown_report(
    tables: Sequence[Table], outside: Sequence[Table], pretrained: Sequence[Run], runs: Sequence[Run], out: Path
) -> str:
    """Text of report.md; its figures are written as PNG into `out`/figures."""
    lines = [f"# {TITLE}", ""]
    for k, table in enumerate(tables):
        lines += [f"## {table.title}", "", markdown(table), "", caption(table), ""]
        found = differences(table)
        compared = difference_lines(table, found)
        if compared:
            lines += markdown_table(compared)
            lines += ["", *difference_notes(table, found), ""]
        picture = save(label_efficiency(table), out / "figures" / f"label-efficiency-{k}-{file_stem(table.task)}.png")
        lines += [f"![Test {table.metric} against label fraction]({picture.relative_to(out).as_posix()})", ""]
        if table.warnings:
            lines += ["**The rows are not equal in everything:**", "", *(f"- {w}" for w in table.warnings), ""]
    if outside:
        lines += ["## In and out of domain", ""]
    for table in outside:
        lines += [f"### {table.title}", "", *markdown_table(external_lines(table)), "", *external_notes(table), ""]
        if table.warnings:
            lines += ["**The rows are not equal in everything:**", "", *(f"- {w}" for w in table.warnings), ""]
    for table in [*tables, *outside]:
        lines += markdown_errors(table, out)
    if pretrained:
        lines += ["## Pretraining", "", "| run | data | steps | time |", "| --- | --- | ---: | ---: |"]
        for run in pretrained:
            time = duration(run.summary.get("seconds"))
            lines.append(f"| {run.name} | {run.data} | {run.summary.get('steps')} | {time} |")
        lines.append("")
        for k, figure in enumerate([*loss_curves(pretrained), *probe_curves(pretrained)]):
            picture = save(figure, out / "figures" / f"pretraining-{k}.png")
            lines += [f"![{figure.axes[0].get_title(loc='left')}]({picture.relative_to(out).as_posix()})", ""]
    broken = [f"- {run.folder}: {run.problem}" for run in runs if run.problem]
    if broken:
        lines += ["## These runs could not be used", "", *broken, ""]
    further = [f"Leaks: {leak_status(runs)}", *noted(runs), *conventions(runs)]
    lines += ["## Notes and conventions", "", *(f"- {line}" for line in further), ""]
    return "\n".join(lines)
