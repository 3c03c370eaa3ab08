"""What analyses of features found, networks beside each other, and how the numbers go with transfer scores."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssl_med.evaluation.bootstrap import Interval
from ssl_med.reports.escape import file_stem
from ssl_med.reports.figures.correlation import scatter
from ssl_med.reports.numbers.cells import Cell
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.numbers.correlation import Correlation, correlations
from ssl_med.reports.numbers.design import Entry
from ssl_med.reports.numbers.provenance import pretraining
from ssl_med.reports.render.blocks import Block, Grid, Heading, Picture, Pictures, Plots, Section
from ssl_med.reports.run_folder import Run

STRONGEST = 4  # correlations that are drawn
SHOWN = 30  # correlations in the table


def section(comparison: Comparison) -> list[Section]:
    """One part for each kind of analysis on the same images, then the correlations; nothing without such runs."""
    groups = _groups(comparison)
    if not groups:
        return []
    blocks: list[Block] = []
    for (analysis, data, _), entries in groups.items():
        blocks += [Heading(f"{analysis} on {data}"), *_part(entries)]
    return [Section("features", "Features", [*blocks, *_correlated(correlations_of(comparison))])]


def correlations_of(comparison: Comparison) -> list[Correlation]:
    """Every number of every analysis against every transfer score, over the networks that have both; means over seeds.

    In a table a network is a row. Runs that nobody planned together have rows that are named within their column, so there
    networks are matched by how they were pretrained.
    """
    planned = comparison.design.planned
    numbers: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}  # network -> what it is called here
    for (analysis, data, _), entries in _groups(comparison).items():
        about, again = f"{analysis} on {data}", 1
        while any(name.startswith(f"{about}: ") for name in numbers):  # the same with other settings
            again += 1
            about = f"{analysis} on {data} ({again})"
        for row, runs in _by_row(entries).items():
            names[row if planned else _weights(runs[0])] = row
            for key in dict.fromkeys(key for run in runs for key in run.metrics):
                numbers.setdefault(f"{about}: {key}", {})[row] = _mean(runs, key)
    scores: dict[str, dict[str, float]] = {}
    for column in comparison.column_runs.values():
        for fraction in column.fractions:
            share = "" if fraction == 1 else f" at {100 * fraction:g} %"
            found: dict[str, list[Run]] = {}
            for run in column.runs:
                name = names.get(column.label(run) if planned else _weights(run))
                if name is not None and run.fraction == fraction:
                    found.setdefault(name, []).append(run)
            title = f"{column.title}{share}, {column.metric}"
            scores[title] = {name: _mean(runs, f"test/{column.metric}") for name, runs in found.items()}
    return correlations(numbers, scores)


def _weights(run: Run) -> str:
    return json.dumps([run.method, pretraining(run)], sort_keys=True)


def _groups(comparison: Comparison) -> Mapping[tuple[str, str, str], list[Entry]]:
    groups: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in comparison.of("features"):
        if entry.why:
            continue
        run = entry.run
        config = run.summary.get("config") or {}
        asked = json.dumps([config.get("features"), run.summary.get("images")], sort_keys=True)
        groups.setdefault((run.features, run.task or run.data, asked), []).append(entry)
    return {key: groups[key] for key in sorted(groups)}


def _by_row(entries: Sequence[Entry]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for entry in entries:
        if not entry.run.summary.get("networks"):
            found.setdefault(entry.row, []).append(entry.run)
    return found


def _part(entries: Sequence[Entry]) -> list[Block]:
    joint = [entry.run for entry in entries if entry.run.summary.get("networks")]
    rows = _by_row(entries)
    blocks: list[Block] = []
    if rows:
        every = [run for runs in rows.values() for run in runs]
        keys = dict.fromkeys(key for run in every for key in run.metrics)
        lines = [[key, *(_number(_mean(runs, key)) for runs in rows.values())] for key in keys]
        seeds = max(map(len, rows.values()))
        images = (every[0].summary.get("images") or {}).get("samples", "?")
        over = f", means of {seeds} seeds" if seeds > 1 else ""
        blocks.append(Grid(["number", *rows], lines, caption=(f"{images} images{over}.",)))
    for run in joint:
        if run.metrics:
            blocks.append(
                Grid(["between networks", "value"], [[k, _number(value)] for k, value in run.metrics.items()])
            )
    if joint:  # figures of several networks side by side say more than one each
        blocks += [_figure(run, "", *drawing) for run in joint for drawing in run.drawings]
    else:
        blocks += [_figure(runs[0], row, *drawing) for row, runs in rows.items() for drawing in runs[0].drawings]
    return blocks


def _correlated(found: Sequence[Correlation]) -> list[Block]:
    if not found:
        return []
    rows = [[one.number, one.score, str(len(one.x)), _told(one.pearson), _told(one.spearman)] for one in found[:SHOWN]]
    caption = [
        "Over networks, means of seeds; 95 % percentile bootstrap intervals over networks, from six on. The strongest rank "
        "correlations first: of many pairs some are strong by chance, and a correlation explains nothing.",
    ]
    if len(found) > SHOWN:
        caption.append(f"{len(found) - SHOWN} weaker ones are left out.")
    head = ["number", "transfer score", "networks", "Pearson", "Spearman"]
    drawn = [
        (f"{one.number} against {one.score}", f"correlation-{k}", scatter(one))
        for k, one in enumerate(found[:STRONGEST])
    ]
    return [
        Heading("Features and transfer"),
        Grid(head, rows, text=(0, 1), caption=caption, key="correlation"),
        Plots(drawn, "The strongest ones."),
    ]


def _told(interval: Interval) -> str:
    if interval.reason:
        return f"{interval.estimate:.2f}"
    return f"{interval.estimate:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _figure(run: Run, whose: str, title: str, caption: str, path: Path) -> Pictures:
    stem = f"features-{file_stem(run.features)}-{file_stem(run.name)}-{path.stem}"
    return Pictures([Picture(path, f"{run.features}: {title}", stem, whose or title, caption, broad=True)])


def _mean(runs: Sequence[Run], key: str) -> float:
    values = [run.metrics.get(key, math.nan) for run in runs]
    return Cell(tuple(value for value in values if not math.isnan(value))).mean


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
