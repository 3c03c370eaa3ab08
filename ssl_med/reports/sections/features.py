"""What analyses of features found: numbers of all networks beside each other, and their figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from ssl_med.reports.escape import file_stem
from ssl_med.reports.numbers.comparison import Comparison
from ssl_med.reports.render.blocks import Block, Grid, Heading, Picture, Pictures, Section
from ssl_med.reports.run_folder import Run


def section(comparison: Comparison) -> list[Section]:
    """One part for each kind of analysis on the same images; nothing without such runs."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in (entry.run for entry in comparison.of("features")):
        config = run.summary.get("config") or {}
        asked = json.dumps([config.get("features"), run.summary.get("images")], sort_keys=True)
        groups.setdefault((run.features, run.task or run.data, asked), []).append(run)
    blocks: list[Block] = []
    for (analysis, data, _), runs in sorted(groups.items()):
        blocks += [Heading(f"{analysis} on {data}"), *_part(runs)]
    return [Section("features", "Features", blocks)] if blocks else []


def _part(runs: Sequence[Run]) -> list[Block]:
    joint = [run for run in runs if run.summary.get("networks")]
    single = [run for run in runs if run not in joint]
    blocks: list[Block] = []
    if single:
        keys = dict.fromkeys(key for run in single for key in run.metrics)
        rows = [[key, *(_number(run.metrics.get(key, math.nan)) for run in single)] for key in keys]
        names = _names(single)
        images = (single[0].summary.get("images") or {}).get("samples", "?")
        blocks.append(Grid(["number", *names], rows, caption=(f"{images} images.",)))
    for run in joint:
        if run.metrics:
            rows = [[key, _number(value)] for key, value in run.metrics.items()]
            blocks.append(Grid(["between networks", "value"], rows))
    shown = joint or single  # figures of several networks side by side say more than one each
    for run, name in zip(shown, _names(shown), strict=True):
        whose = "" if run in joint else name
        blocks += [_figure(run, whose, *drawing) for drawing in run.drawings]
    return blocks


def _figure(run: Run, whose: str, title: str, caption: str, path: Path) -> Pictures:
    stem = f"features-{file_stem(run.features)}-{file_stem(run.name)}-{path.stem}"
    return Pictures([Picture(path, f"{run.features}: {title}", stem, whose or title, caption, broad=True)])


def _names(runs: Sequence[Run]) -> list[str]:
    """The method of each run; those that share one are told apart by their seed or folder."""
    names = [run.method for run in runs]
    return [name if names.count(name) == 1 else f"{name}, {run.name}" for name, run in zip(names, runs, strict=True)]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
