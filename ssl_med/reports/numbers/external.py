"""In and out of domain side by side: what a training on one data set is worth on another, by the same classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ssl_med.evaluation.bootstrap import Interval, bootstrap, difference_of
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.column_runs import ColumnRuns
from ssl_med.reports.numbers.differences import RESAMPLES, average
from ssl_med.reports.numbers.fairness import percent
from ssl_med.reports.run_folder import Run
from ssl_med.reports.run_tables import Case


def external_lines(table: ColumnRuns) -> list[list[str]]:
    """Head and one line a row and label fraction: in domain, out of domain, and in minus out."""
    first = table.runs[0]
    head = [f"trained on {first.trained_on}", "in domain", f"out of domain: {table.data}", "drop"]
    lines = [head]
    for row in table.rows:
        for fraction in table.fractions:
            runs = table.runs_of(row, fraction)
            if not runs:
                continue
            inside = [run.metrics.get(f"in_domain/{table.metric}", math.nan) for run in runs]
            outside = [run.value for run in runs]
            drops = [a - b for a, b in zip(inside, outside, strict=True)]
            within, without = (_interval(table.metric, each) for each in _cases(runs))
            name = row if len(table.fractions) == 1 else f"{row}, {percent(fraction)} labels"
            lines.append(
                [
                    name,
                    _shown(inside, within),
                    _shown(outside, without),
                    _shown(drops, difference_of(within, without), sign="+"),
                ]
            )
    return lines


def external_notes(table: ColumnRuns) -> list[str]:
    """What the numbers are, which classes correspond, and why an interval is absent."""
    first = table.runs[0]
    told = first.summary.get("map") or {}
    classes = "; ".join(f"{name} = {' or '.join(sources)}" for name, sources in (told.get("classes") or {}).items())
    left = [*(told.get("unmapped_trained") or [])]
    notes = [
        f"Test {table.metric} of the mapped classes, mean ± standard deviation over seeds (number of seeds); in domain on "
        f"{_span('n_in_domain', table)} cases of the trained data set's test part, out of domain on {table.n_test} cases. "
        "Brackets: 95 % bootstrap interval over subjects, seeds averaged; that of the drop takes both sets as independent.",
        f"Map, trained = tested: {classes}." + (f" Trained but not mapped: {', '.join(left)}." if left else ""),
    ]
    reasons: dict[str, None] = {}
    for run in table.runs:
        for interval in (run.summary.get("interval") or {}, (run.summary.get("in_domain") or {}).get("interval") or {}):
            if interval.get("reason"):
                reasons[f"No interval: {interval['reason']}."] = None
    return [*notes, *reasons]


def _cases(runs: Sequence[Run]) -> tuple[list[list[Case]], list[list[Case]]]:
    return [run.inside for run in runs], [run.cases for run in runs]


def _interval(metric: str, tables: Sequence[Sequence[Case]]) -> Interval:
    """Over the subjects of tables that hold the same cases, the metric averaged over the tables."""
    order = sorted(str(case["case"]) for case in tables[0])
    by_name = [{str(case["case"]): case for case in cases} for cases in tables]
    nothing = Interval(math.nan, math.nan, math.nan, 0.95, "expanded", RESAMPLES, 0)
    if not order or any(sorted(cases) != order for cases in by_name) or "subject" not in tables[0][0]:
        return replace(nothing, reason="the runs were tested on different cases")
    names = [key.removeprefix("score/") for key in tables[0][0] if key.startswith("score/")]
    statistic = average(metric, names, [[cases[name] for name in order] for cases in by_name])
    if statistic is None:
        return replace(nothing, reason=f"{metric} cannot be computed from the test cases")
    return bootstrap(statistic, [by_name[0][name]["subject"] for name in order], resamples=RESAMPLES)


def _span(key: str, table: ColumnRuns) -> str:
    counts = sorted({int(run.summary[key]) for run in table.runs if run.summary.get(key) is not None})
    return "–".join(dict.fromkeys(map(str, (counts[0], counts[-1])))) if counts else "?"


def _shown(values: Sequence[float], interval: Interval, *, sign: str = "") -> str:
    cell = Cell(tuple(value for value in values if not math.isnan(value)))
    if not cell.n:
        return str(cell)
    spread = f" ± {cell.sd:.3f}" if cell.n > 1 else ""
    between = "" if interval.reason else f" [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"
    return f"{cell.mean:{sign}.3f}{spread}{between} ({cell.n})"
