"""Every run of a comparison as one row of results.csv, those that are missing or broken included."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from typing import Any

from ssl_med.reports.escape import cell
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.design import Entry
from ssl_med.reports.numbers.published import Published, published


def text(comparison: Comparison) -> str:
    """Text of results.csv: what was planned, what ran, and every final metric."""
    metrics = list(dict.fromkeys(key for entry in comparison.entries for key in entry.run.metrics))
    cited = {(x.row, x.column, x.fraction): x for x in published(comparison)}
    rows = [_row(entry, cited) for entry in comparison.entries]
    head = list(rows[0]) if rows else []
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*head, *map(cell, metrics)])
    for entry, row in zip(comparison.entries, rows, strict=True):
        values = ["" if value is None else cell(str(value)) for value in row.values()]
        writer.writerow([*values, *(_number(entry.run.metrics.get(key, math.nan)) for key in metrics)])
    return out.getvalue()


def _row(entry: Entry, cited: Mapping[tuple[str, str, float], Published]) -> dict[str, Any]:
    run, get = entry.run, entry.run.summary.get
    paper = cited.get((entry.row, entry.column, entry.fraction)) if entry.role == "final" else None
    return {
        "role": entry.role,
        "row": entry.row,
        "column": entry.column,
        "fraction": f"{entry.fraction:g}",
        "table_seed": entry.seed,
        "setting": entry.chosen,
        "missing_because": entry.why,
        "published": _number(paper.published) if paper else "",
        "published_p": _number(paper.p) if paper else "",
        "folder": run.folder,
        "kind": run.kind,
        "status": get("status"),
        "problem": run.problem,
        "method": run.method if run.kind else "",
        "data": run.data,
        "task": run.task,
        "protocol": run.protocol,
        "recipe": run.recipe,
        "label_fraction": run.fraction if run.scored else "",
        "label_subjects": run.labels.get("subjects"),
        "label_subjects_of": run.labels.get("of"),
        "seed": get("seed"),
        "pretrain_seed": run.card.get("seed"),
        "steps": get("steps"),
        "seconds": get("seconds"),
        "n_test": get("n_test"),
        "metric": run.metric,
        "value": _number(run.value),
        "hash": get("hash"),
        "git": get("git"),
        "hardware": get("hardware"),
    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
