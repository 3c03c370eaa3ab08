"""Figures that several analyses need: curves, points, tables in colours and grids of images, in the style of the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ssl_med.reports.escape import drawn
from ssl_med.reports.style import COLORS, FAINT, INK, RC, SIZE, styles

Array = NDArray[Any]
_TILE = 1.7  # inches, side of an image in a grid
_LETTER = 0.075  # inches, width of a letter of a row's name
_LONGEST = 24  # letters of a name above an image
_POINTS = ("o", "s", "^", "D", "v")  # against 6 colours: 30 groups differ
_WRITTEN = 64  # cells of a table up to which numbers fit into them


@dataclass(frozen=True)
class Tile:
    """One image of a grid: (H, W) grey or (H, W, 3) in [0, 1], with a map (H, W) laid over it and a line of text below.

    Where the map is nan the image stays as it is.

    * low, high: values of a grey image drawn black and white; None: its own least and largest.
    * most: value of the map in the strongest colour; None: its own largest.
    * frame: its colour; "": none.
    """

    image: Array
    map: Array | None = None
    text: str = ""
    low: float | None = None
    high: float | None = None
    most: float | None = None
    frame: str = ""


def curves(
    lines: Mapping[str, tuple[Sequence[float] | Array, Sequence[float] | Array]],
    *,
    title: str,
    x: str,
    y: str,
    log: str = "",
) -> Figure:
    """Name -> (x, y) as lines with a legend; `log`: "x", "y" or "xy"."""
    looks = styles({name: name for name in lines})
    with mpl.rc_context(RC):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_title(drawn(title, longest=90), pad=9)
        for name, (across, up) in lines.items():
            look = looks[name]
            axes.plot(across, up, color=look.color, linestyle=look.line, label=drawn(name, longest=_LONGEST))
        axes.set(xlabel=x, ylabel=y)
        if all(isinstance(place, int) for across, _ in lines.values() for place in across) and "x" not in log:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "x" in log:
            axes.set_xscale("log")
        if "y" in log:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.legend()
    return figure


def panels(
    found: Mapping[str, Mapping[str, tuple[Sequence[float] | Array, Sequence[float] | Array]]],
    *,
    title: str,
    x: Mapping[str, str],
    y: str,
) -> Figure:
    """Small figures of lines that share their y axis, with one legend.

    Args:
        found: name of the panel -> name of the line -> (x, y).
        title: above all.
        x: name of the panel -> what its x axis is.
        y: what the y axis is.
    """
    looks = styles({name: name for lines in found.values() for name in lines})
    across = min(4, len(found))
    down = -(-len(found) // across)
    with mpl.rc_context(RC):
        figure = Figure(figsize=(2.3 * across + 0.4, 1.9 * down + 0.8), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False, sharey=True)
        for axes in grid.ravel()[len(found) :]:
            axes.set_axis_off()
        for axes, (name, lines) in zip(grid.ravel(), found.items(), strict=False):
            axes.set_title(drawn(name, longest=_LONGEST), fontsize=9)
            axes.set_xlabel(x[name], fontsize=8)
            for line, (along, up) in lines.items():
                look = looks[line]
                axes.plot(along, up, color=look.color, linestyle=look.line, label=drawn(line, longest=_LONGEST))
        for row in grid:
            row[0].set_ylabel(y, fontsize=8)
        figure.suptitle(drawn(title, longest=90), x=0.01, ha="left", weight="bold", color=INK, fontsize=10.5)
        if len(looks) > 1:
            handles, labels = grid[0][0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(looks)))
    return figure


def dots(values: Mapping[str, Mapping[str, float]], *, title: str, x: str) -> Figure:
    """Name of the network -> name of the number -> its value: a line of names, and on each a point for every network."""
    names = list(dict.fromkeys(name for one in values.values() for name in one))
    looks = styles({name: name for name in values})
    with mpl.rc_context(RC):
        figure = Figure(figsize=(SIZE[0], 0.9 + 0.26 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(drawn(title, longest=90), pad=9)
        for network, one in values.items():
            look = looks[network]
            axes.plot([one.get(name, np.nan) for name in names], range(len(names)), linestyle="", marker=look.marker,
                      color=look.color, markerfacecolor=look.face, label=drawn(network, longest=_LONGEST))  # fmt: skip
        axes.set(xlabel=x, yticks=range(len(names)), yticklabels=[drawn(name, longest=_LONGEST) for name in names])
        axes.invert_yaxis()
        if len(values) > 1:
            figure.legend(loc="outside lower center", ncols=min(4, len(values)))
    return figure


def scatter(groups: Mapping[str, Mapping[str, Array]], *, title: str, faint: Sequence[str] = ()) -> Figure:
    """Points (N, 2) by network and, in colours, by group: one panel for each network, side by side.

    Args:
        groups: name of the network -> name of the group -> (N, 2).
        title: above all.
        faint: groups without a colour.
    """
    names = list(dict.fromkeys(group for one in groups.values() for group in one))
    strong = [name for name in names if name not in faint]
    looks = {name: (COLORS[k % len(COLORS)], _POINTS[k % len(_POINTS)]) for k, name in enumerate(strong)}
    with mpl.rc_context(RC):
        figure = Figure(figsize=(3.6 * len(groups), 3.9), layout="constrained")
        for axes, (network, points) in zip(
            figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True
        ):
            axes.set_title(drawn(network, longest=_LONGEST), pad=6)
            for name, where in points.items():
                color, marker = looks.get(name, (FAINT, "o"))
                axes.scatter(where[:, 0], where[:, 1], s=18, color=color, marker=marker, alpha=0.75,
                             linewidths=0, label=drawn(name, longest=_LONGEST))  # fmt: skip
            axes.set_xticks([])
            axes.set_yticks([])
        figure.suptitle(drawn(title, longest=90), x=0.01, ha="left", weight="bold", color=INK, fontsize=10.5)
        if len(names) > 1:
            known: dict[str, Any] = {}
            for axes in figure.axes:
                for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                    known.setdefault(label, handle)
            figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=min(4, len(names)))
    return figure


def heat_maps(
    panels: Mapping[str, tuple[Array, str, str]], *, title: str, low: float | None = None, high: float | None = None
) -> Figure:
    """Tables of numbers in colours, each number written in its cell, side by side; all on one scale.

    Args:
        panels: name of the panel -> (R, C) numbers, and what rows and columns are; both count from 0.
        title: above all.
        low: number of the darkest colour; None: the least one.
        high: number of the lightest colour; None: the largest one.
    """
    values = np.concatenate([table.ravel() for table, _, _ in panels.values()])
    least, most = (
        (float(np.nanmin(values)) if low is None else low),
        (float(np.nanmax(values)) if high is None else high),
    )
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context({**RC, "axes.grid": False}):
        figure = Figure(figsize=(3.3 * across + 0.3, 3.2 * down + 0.4), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (name, (table, rows, columns)) in zip(grid, panels.items(), strict=False):
            axes.imshow(table, cmap="viridis", vmin=least, vmax=most)
            axes.set_title(drawn(name, longest=_LONGEST + 8), fontsize=9, pad=5)
            axes.set(xlabel=drawn(columns, longest=_LONGEST + 8), ylabel=drawn(rows, longest=_LONGEST + 8))
            axes.set(xticks=range(table.shape[1]), yticks=range(table.shape[0]))
            if table.size <= _WRITTEN:
                for (row, column), value in np.ndenumerate(table):
                    dark = not value > (least + most) / 2  # text on it is white
                    axes.text(column, row, "–" if np.isnan(value) else f"{value:.2f}", ha="center", va="center",
                              fontsize=7.5, color="white" if dark and not np.isnan(value) else INK)  # fmt: skip
        figure.suptitle(drawn(title, longest=90), x=0.01, ha="left", weight="bold", color=INK, fontsize=10.5)
    return figure


def tiles(rows: Sequence[Sequence[Tile]], *, names: Sequence[str], heads: Sequence[str]) -> Figure:
    """A grid of images.

    Args:
        rows: R rows of C tiles.
        names: of the rows, drawn left of them; a new line where one ends.
        heads: of the columns, drawn above them.
    """
    columns = max(map(len, rows))
    tall = 0.16 if any(tile.text for row in rows for tile in row) else 0.0
    with mpl.rc_context({**RC, "axes.grid": False}):
        beside = ["\n".join(drawn(line, longest=18) for line in name.split("\n")) for name in names]
        left = 0.15 + _LETTER * max(len(line) for name in beside for line in name.split("\n"))
        tops = [_TILE * min(1.0, max(tile.image.shape[0] / tile.image.shape[1] for tile in row)) for row in rows]
        width, height = left + _TILE * columns, 0.35 + sum(tops) + (tall + 0.05) * len(rows)
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(left=left / width, right=1, top=1 - 0.3 / height, bottom=(0.02 + tall) / height)
        figure.subplots_adjust(wspace=0.04, hspace=(0.05 + tall) * len(tops) / sum(tops))
        grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=tops)
        for number, row in enumerate(rows):
            for place in range(columns):
                axes = grid[number][place]
                axes.set_axis_off()
                if place < len(row):
                    _draw(axes, row[place])
                if number == 0 and place < len(heads):
                    axes.set_title(drawn(heads[place], longest=_LONGEST), fontsize=8.5, loc="center", pad=3)
            box = grid[number][0].get_position()
            figure.text(0.05 / width, (box.y0 + box.y1) / 2, beside[number], va="center", fontsize=8, color=INK)
    return figure


def _draw(axes: Any, tile: Tile) -> None:
    image = np.asarray(tile.image)
    if image.ndim == 2:
        low = float(image.min()) if tile.low is None else tile.low
        high = float(image.max()) if tile.high is None else tile.high
        axes.imshow(image, cmap="gray", vmin=low, vmax=high if high > low else low + 1, interpolation="nearest")
    else:
        axes.imshow(image.clip(0, 1), interpolation="nearest")
    if tile.map is not None:
        most = float(np.nanmax(tile.map)) if tile.most is None else tile.most
        axes.imshow(tile.map, cmap="inferno", alpha=0.5, vmin=0, vmax=most if most > 0 else 1, interpolation="nearest")
    if tile.frame:
        axes.set_axis_on()
        axes.set(xticks=[], yticks=[])
        for side in axes.spines.values():
            side.set(visible=True, color=tile.frame, linewidth=2.5)
    if tile.text:
        axes.text(
            0.5,
            -0.02,
            drawn(tile.text, longest=_LONGEST + 4),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=7.5,
            color=INK,
        )


def views(volume: Array, *, at: Sequence[int] | None = None) -> dict[str, Array]:
    """The planes in which an image is looked at: the image itself in 2D, three planes of a volume.

    Args:
        volume: (H, W) of an image, or (x, y, z) of a volume whose axes increase to the left, back and head (LPS).
        at: voxel through which the planes of a volume run; by default its middle.

    Returns:
        Name of the plane -> (H, W) as radiologists look at it: front or head up, the patient's right on the left.
    """
    array = np.asarray(volume)
    if array.ndim == 2:
        return {"": array}
    x, y, z = at if at is not None else [side // 2 for side in array.shape]
    return {"axial": array[:, :, z].T, "coronal": array[:, y, ::-1].T, "sagittal": array[x, :, ::-1].T}


def planes(image: Array) -> dict[str, Array]:
    """An image (C, *S) as it is looked at: in colour where it has three channels in 2D, else its first channel."""
    if image.ndim == 3 and len(image) == 3:
        return {"": np.moveaxis(image, 0, -1)}
    return views(image[0])
