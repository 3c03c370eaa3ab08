"""Run folders -> report.html (one file, no network, no script), report.md and results.csv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ssl_med.evaluation.metrics import metric_of
from ssl_med.reports._markdown import TITLE, markdown_report
from ssl_med.reports.figures.curves import label_efficiency, loss_curves, probe_curves, style, to_svg, validation_curves
from ssl_med.reports.numbers.differences import difference_lines, difference_notes, differences
from ssl_med.reports.numbers.external import external_lines, external_notes
from ssl_med.reports.numbers.fairness import percent, pretrain_warnings
from ssl_med.reports.numbers.provenance import duration, notes_section, provenance
from ssl_med.reports.numbers.tables import EMPTY, Cell, Table, caption, results_csv, tabulate, tabulate_external
from ssl_med.reports.render import parts as p
from ssl_med.reports.run_folder import Run, find_runs
from ssl_med.reports.sections.errors import html_errors
from ssl_med.reports.writing import file_stem
from ssl_med.spec import SslMedError

MOST_CASES = 200  # rows of the per-case table; test_cases.csv of each run holds all


def build_report(runs: Sequence[Path], out: Path) -> Path:
    """Reads every run below the given folders and writes the report.

    Args:
        runs: run folders, or folders that hold some at any depth.
        out: folder of report.html, report.md, results.csv and figures/ (PNG, for slides and print).

    Returns:
        Path of report.html.

    Raises:
        SslMedError: a folder is absent, or no run was found.
    """
    found = find_runs(runs)
    if not found:
        raise SslMedError(f"{', '.join(map(str, runs))}: no run found; a run folder holds a summary.json")
    tables = tabulate(found)
    outside = tabulate_external(found)
    pretrained = [run for run in found if run.kind == "pretrain" and not run.problem]
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.csv").write_text(results_csv(found), encoding="utf-8")
    (out / "report.md").write_text(markdown_report(tables, outside, pretrained, found, out), encoding="utf-8")
    page = out / "report.html"
    page.write_text(p.page("ssl_med report", _body(tables, outside, pretrained, found)), encoding="utf-8")
    return page


# --- the page ----------------------------------------------------------------------------------------------


def _body(tables: Sequence[Table], outside: Sequence[Table], pretrained: Sequence[Run], runs: Sequence[Run]) -> str:
    parts = [(f"task-{k}", f"Results: {table.title}", _results(table)) for k, table in enumerate(tables)]
    if outside:
        parts.append(("outside", "In and out of domain", "".join(_outside(table) for table in outside)))
    if pretrained:
        parts.append(("pretraining", "Pretraining", _pretraining(pretrained)))
    pictures = "".join(case_pictures(table) for table in tables)
    if pictures:
        parts.append(("pictures", "Predictions", pictures))
    errors = "".join(html_errors(table) for table in [*tables, *outside])
    if errors:
        parts.append(("errors", "Error analysis", errors))
    if tables:
        parts.append(("cases", "Results of every test case", "".join(_cases(table) for table in tables)))
    parts.append(("runs", "What was run", provenance(runs)))
    parts.append(("notes", "Notes and conventions", notes_section(runs)))
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in parts)
    sections = "".join(f'<section><h2 id="{key}">{escape(title)}</h2>{text}</section>' for key, title, text in parts)
    broken = [f"{run.folder}: {run.problem}" for run in runs if run.problem]
    return (
        f"<header><h1>{TITLE}</h1>"
        '<p class="lead">Backbones pretrained without labels, compared with training from scratch on the same task. '
        "Every number is read from a run folder named below.</p>"
        "</header>"
        f"{_tiles(tables, runs)}{p.warning('These runs could not be used:', broken)}<nav>{links}</nav>{sections}"
        "<footer>Made by ssl_med from local files; this page loads nothing and sends nothing.</footer>"
    )


def _tiles(tables: Sequence[Table], runs: Sequence[Run]) -> str:
    tuned = [run for table in tables for run in table.runs]
    methods = {run.method for run in runs if run.kind == "pretrain"} | {run.method for run in tuned if run.card}
    tiles = [
        (str(len(methods)), "pretraining methods"),
        (str(len(tuned)), "fine-tunings tested"),
        (" · ".join(f"{100 * x:g}" for x in sorted({run.fraction for run in tuned})) or EMPTY, "% of labels"),
        (str(len({run.seed for run in tuned})), "seeds"),
        (" · ".join(table.n_test for table in tables) or EMPTY, "test cases"),
        (duration(sum(float(run.summary.get("seconds") or 0) for run in runs)), "training time in all"),
    ]
    inner = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    return f'<div class="tiles">{inner}</div>'


def _results(table: Table) -> str:
    figure = p.svg_figure(
        to_svg(label_efficiency(table)),
        alt=f"Test {table.metric} against label fraction, one line per method",
        caption="Line: mean; band: ± 1 standard deviation; small points: seeds.",
    )
    left = f'{_method_table(table)}<p class="note">{escape(caption(table))}</p>'
    if any(table.cell(row, fraction).n < 3 for row in table.rows for fraction in table.fractions):
        left += '<p class="note">Where fewer than three seeds stand, differences are hints at most.</p>'
    # a wide table takes the whole width, a narrow one shares it with the curve
    css = "split" if len(table.fractions) <= 3 else "figures stacked"
    text = f'<div class="{css}"><div>{left}</div>{figure}</div>'
    found = differences(table)
    lines = [[escape(cell) for cell in line] for line in difference_lines(table, found)]
    if lines:
        text += p.table(lines[0], lines[1:], css="sticky")
        text += "".join(f'<p class="note">{escape(note)}</p>' for note in difference_notes(table, found))
    text += p.warning("The rows are not equal in everything:", table.warnings)
    if table.further_metrics:
        inner = "".join(f"<h3>{escape(key)}</h3>{_method_table(table, key)}" for key in table.further_metrics)
        text += p.fold("Further test metrics", ", ".join(table.further_metrics), inner)
    curves = _gallery(validation_curves(table), "Validation while fine-tuning")
    return text + (f"<h3>Fine-tuning</h3>{curves}" if curves else "")


def _outside(table: Table) -> str:
    lines = [[escape(cell) for cell in line] for line in external_lines(table)]
    text = f"<h3>{escape(table.title)}</h3>{p.table(lines[0], lines[1:], css='headline wide sticky')}"
    text += "".join(f'<p class="note">{escape(note)}</p>' for note in external_notes(table))
    return text + p.warning("The rows are not equal in everything:", table.warnings)


def _method_table(table: Table, metric: str = "") -> str:
    rows = []
    for row in table.rows:
        swatch = f'<span class="swatch" style="background:{style(table.method(row)).color}"></span>'
        cells = [f'<th scope="row">{swatch}{escape(row)}</th>']
        for fraction in table.fractions:
            best = not metric and row == table.best(fraction)
            cells.append(f"<td{' class=best' if best else ''}>{_cell(table.cell(row, fraction, metric))}</td>")
        rows.append(cells)
    head = []
    for fraction in table.fractions:
        share, _, patients = table.budget(fraction).partition(" (")
        head.append(share + (f"<small>{escape(patients.rstrip(')'))}</small>" if patients else ""))
    return p.table(["method", *head], rows, css="sticky" if metric else "headline wide sticky")


def _cell(cell: Cell) -> str:
    if not cell.n:
        return EMPTY
    sd = f"± {cell.sd:.3f}" if cell.n > 1 else ""
    return f'{cell.mean:.3f} <span class="sd">{sd}<span class="n">n {cell.n}</span></span>'


def _gallery(figures: Sequence[Figure], alt: str) -> str:
    inner = "".join(p.svg_figure(to_svg(figure), alt=alt) for figure in figures)
    return f'<div class="figures">{inner}</div>' if inner else ""


def _pretraining(runs: Sequence[Run]) -> str:
    text = '<p class="note">Losses of different methods have no common scale; look at their shape. '
    text += "Pale: as logged; strong: smoothed.</p>"
    for data in sorted({run.data for run in runs}):
        same = [run for run in runs if run.data == data]
        text += f"<h3>on {escape(data)}</h3>{_gallery(loss_curves(same), 'Pretraining loss')}"
        text += _gallery(probe_curves(same), "Online probe")
        text += p.warning("The pretrainings are not equal in everything:", pretrain_warnings(same))
    return text


def case_pictures(table: Table) -> str:
    """Pictured cases of every row at the smallest and the largest budget; '' where no run has pictures."""
    drawn = {run.folder: {path.stem: path for path in run.figures} for run in table.runs}
    counts = {case: sum(file_stem(case) in paths for paths in drawn.values()) for case in _by_difficulty(table)}
    # a run pictures its own worst cases too; here stand those that most runs picture
    cases = [case for case, count in counts.items() if count and count == max(counts.values())]
    chosen = [cases[k] for k in sorted({0, len(cases) // 2})] if cases else []
    text = ""
    for case in chosen:
        figures = []
        for row in table.rows:
            for fraction in dict.fromkeys((table.fractions[0], table.fractions[-1])):
                pairs = [(run, drawn[run.folder].get(file_stem(case))) for run in table.runs_of(row, fraction)]
                run, path = next(((run, path) for run, path in pairs if path), (None, None))
                if run and path:
                    words = f"{percent(fraction)} labels · seed {run.seed}"
                    shown = f"<b>{escape(row)}</b> · {words}"
                    figures.append(p.png_figure(path, alt=f"Case {case}: {row} · {words}", caption=shown))
        place = "hardest" if case == cases[0] else "middle"
        text += f"<h3>{escape(table.title)}: case {escape(case)}</h3>"
        text += f'<p class="note">The {place} one of the {len(cases)} pictured cases, by mean {table.metric} of all runs.</p>'
        text += f'<div class="figures pictures">{"".join(figures)}</div>'
    return text


def _case_means(table: Table) -> dict[str, dict[tuple[str, float], float]]:
    found: dict[str, dict[tuple[str, float], list[float]]] = {}
    for run in table.runs:
        for case in run.cases:
            value = case.get(table.metric)
            if isinstance(value, float) and not math.isnan(value):
                cells = found.setdefault(str(case["case"]), {})
                cells.setdefault((table.label(run), run.fraction), []).append(value)
    return {case: {key: float(np.mean(v)) for key, v in cells.items()} for case, cells in found.items()}


def _by_difficulty(table: Table) -> list[str]:
    means = {case: float(np.mean(list(cells.values()))) for case, cells in _case_means(table).items()}
    metric = metric_of(table.metric)
    return sorted(means, key=lambda case: (metric.goodness(means[case]), case))


def _cases(table: Table) -> str:
    means = _case_means(table)
    if not means:
        count = sum(len(run.cases) for run in table.runs[:1])
        return (
            f'<p class="note">{escape(table.title)}: {escape(table.metric)} is a property of all {count} test samples '
            "together; labels and scores of each stand in <code>test_cases.csv</code> of every run.</p>"
        )
    columns = [(row, fraction) for fraction in table.fractions for row in table.rows]
    columns = [key for key in columns if any(key in cells for cells in means.values())]
    head = ["case", *(f"{escape(row)}<br>{percent(fraction)}" for row, fraction in columns)]
    rows = [
        [escape(case), *(f"{means[case][key]:.3f}" if key in means[case] else EMPTY for key in columns)]
        for case in _by_difficulty(table)[:MOST_CASES]
    ]
    aside = f"{table.metric} of {len(means)} test cases, mean over seeds, hardest first"
    more = f'<p class="note">{len(means) - MOST_CASES} more in test_cases.csv.</p>' if len(means) > MOST_CASES else ""
    return p.fold(table.title, aside, p.table(head, rows, css="sticky") + more)
