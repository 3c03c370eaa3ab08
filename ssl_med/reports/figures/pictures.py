"""Pictures of predictions, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from ssl_med.reports.escape import drawn, one_line
from ssl_med.reports.style import FAINT, INK, save

TRUTH, PREDICTION = "#00d26a", "#ff3ea5"  # green and magenta stay apart for colour-blind readers
LINESTYLES = ("-", "--", ":", "-.")  # one for each mask channel
MOST_LINES = 20  # said of an image below it
_LINE = 0.3  # inches of a line of text above a picture
_LETTERS = 12  # of a bold title in an inch
SLICE_QUANTILES = (0.2, 0.5, 0.8)  # of the foreground voxels along z: low, middle and high in the organ

Array = NDArray[Any]


def overlay(
    image: Array,
    truth: Array,
    prediction: Array,
    *,
    class_names: Sequence[str] = (),
    case: str = "",
    channel: int = 0,
) -> Figure:
    """Contours of truth (green) and prediction (magenta) on the image.

    A volume is shown in three axial slices that its foreground chooses, as radiologists look at it: front up,
    the patient's right on the left of the picture.

    Args:
        image: (C, *S), any intensity; a volume's axes x, y, z increase to the left, back and head (LPS).
        truth: (K, *S), nonzero inside.
        prediction: (K, *S), nonzero inside.
        class_names: K names of the mask channels; they may overlap.
        case: name for the title.
        channel: which image channel lies below the contours.
    """
    grey, masks = np.asarray(image)[channel], (np.asarray(truth) > 0, np.asarray(prediction) > 0)
    low, high = np.percentile(grey, (0.5, 99.5))
    slices = choose_slices(masks[0] if masks[0].any() else masks[1]) if grey.ndim == 3 else [None]
    views = [_flat(grey, z) for z in slices]
    height, width = views[0].shape
    panel = 2.3 if len(views) > 1 else 3.4
    names = [drawn(name) for name in class_names] or [f"region {k + 1}" for k in range(len(masks[0]))]
    head, foot = _head(case, names, masks, panel * len(views)), _Legend.of(names, panel * len(views))
    tall = panel * min(max(height / width, 0.5), 2.0)
    figure = Figure(figsize=(panel * len(views), head.height + tall + foot.height))
    figure.subplots_adjust(left=0, right=1, top=1 - head.height / figure.get_figheight(), wspace=0.02)
    figure.subplots_adjust(bottom=foot.height / figure.get_figheight())
    for axes, view, z in zip(figure.subplots(1, len(views), squeeze=False)[0], views, slices, strict=True):
        axes.imshow(view, cmap="gray", vmin=low, vmax=high if high > low else low + 1, interpolation="bilinear")
        for mask, color in zip(masks, (TRUTH, PREDICTION), strict=True):
            for k, region in enumerate(mask):
                flat = _flat(region, z)
                if flat.any():
                    style = LINESTYLES[k % len(LINESTYLES)]
                    # padded, so that a region that touches the border has a closed outline
                    outline = np.pad(flat.astype(np.float32), 1)
                    grid = np.arange(-1, flat.shape[1] + 1), np.arange(-1, flat.shape[0] + 1)
                    axes.contour(*grid, outline, levels=[0.5], colors=[color], linewidths=1.3, linestyles=[style])
        axes.set_xlim(-0.5, view.shape[1] - 0.5)
        axes.set_ylim(view.shape[0] - 0.5, -0.5)
        axes.set_axis_off()
        if z is not None:
            _corner(axes, f"z {z + 1}/{grey.shape[2]}", 0.98, "right")
            _corner(axes, "R", 0.02, "left")
    head.draw(figure)
    foot.draw(figure)
    return figure


def save_overlay(
    path: Path,
    *,
    image: Array,
    truth: Array,
    prediction: Array,
    class_names: Sequence[str] = (),
    case: str = "",
    channel: int = 0,
) -> Path:
    """Draws `overlay` into a PNG; makes the folder."""
    figure = overlay(image, truth, prediction, class_names=class_names, case=case, channel=channel)
    return save(figure, path)


def verdict(image: Array, *, case: str, lines: Sequence[str], channel: int = 0, sides: bool = True) -> Figure:
    """An image, or three axial slices of a volume, above its caption.

    Args:
        image: (C, *S) as for `overlay`.
        case: name for the title.
        lines: truth and answer, a line each.
        channel: which image channel is shown.
        sides: a volume's x is known to increase to the patient's left.
    """
    grey = np.asarray(image)[channel]
    low, high = np.percentile(grey, (0.5, 99.5))
    slices = choose_slices(np.zeros((1, *grey.shape))) if grey.ndim == 3 else [None]
    views = [_flat(grey, z) for z in slices]
    height, width = views[0].shape
    panel = 2.3 if len(views) > 1 else 3.4
    wide = round(14 * panel * len(views))
    lines = [part for line in lines for part in wrap(one_line(line), wide, subsequent_indent="    ")][:MOST_LINES]
    foot = 0.08 + 0.19 * len(lines)
    figure = Figure(figsize=(panel * len(views), panel * min(max(height / width, 0.5), 2.0) + 0.3 + foot))
    figure.subplots_adjust(left=0, right=1, top=1 - 0.3 / figure.get_figheight(), wspace=0.02)
    figure.subplots_adjust(bottom=foot / figure.get_figheight())
    for axes, view, z in zip(figure.subplots(1, len(views), squeeze=False)[0], views, slices, strict=True):
        axes.imshow(view, cmap="gray", vmin=low, vmax=high if high > low else low + 1, interpolation="bilinear")
        axes.set_axis_off()
        if z is not None:
            _corner(axes, f"z {z + 1}/{grey.shape[2]}", 0.98, "right")
            if sides:
                _corner(axes, "R", 0.02, "left")
    top = 1 - 0.06 / figure.get_figheight()
    figure.text(
        0.01,
        top,
        drawn(case, longest=round(_LETTERS * figure.get_figwidth())),
        ha="left",
        va="top",
        fontsize=9.5,
        color=INK,
        weight="bold",
    )
    figure.text(0.01, 0.05 / figure.get_figheight(), "\n".join(lines), ha="left", va="bottom", fontsize=8.5, color=INK)
    return figure


def choose_slices(masks: Array) -> list[int]:
    """Axial slices at 20, 50 and 80 % of the foreground, or of the volume when there is none.

    Without foreground the one in the middle is slice n // 2 of n, where a crop around a candidate has its candidate.

    Args:
        masks: (K, x, y, z) bool.

    Returns:
        Up to three different slice numbers, ascending.
    """
    area = np.asarray(masks, dtype=bool).any(0).sum((0, 1))
    if not area.any():
        return sorted({int(quantile * len(area)) for quantile in SLICE_QUANTILES})
    share = np.cumsum(area) / area.sum()
    return sorted({int(np.searchsorted(share, quantile)) for quantile in SLICE_QUANTILES})


def dice(truth: Array, prediction: Array) -> float:
    """Dice overlap of two boolean arrays in [0, 1]; both empty -> 1."""
    total = int(truth.sum()) + int(prediction.sum())
    return 2 * int((truth & prediction).sum()) / total if total else 1.0


def _flat(array: Array, z: int | None) -> Array:
    # (x, y) of LPS -> rows run to the back, columns to the patient's left
    return array if z is None else array[:, :, z].T


def _corner(axes: Any, text: str, x: float, side: str) -> None:
    box = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 1.5}
    axes.text(
        x, 0.97, text, color="white", fontsize=7.5, ha=side, va="top", transform=axes.transAxes, bbox=box
    )  # fmt: skip


@dataclass(frozen=True)
class _Head:
    """The case and its scores: side by side where the width allows it, else the scores in lines of their own."""

    case: str
    scores: list[str]
    height: float

    def draw(self, figure: Figure) -> None:
        """Above the panels."""
        tall = figure.get_figheight()
        figure.text(0.01, 1 - 0.06 / tall, self.case, ha="left", va="top", fontsize=9.5, color=INK, weight="bold")
        beside = self.height <= _LINE
        place = (0.99, 1 - 0.06 / tall, "right") if beside else (0.01, 1 - (0.06 + 0.19) / tall, "left")
        figure.text(*place[:2], "\n".join(self.scores), ha=place[2], va="top", fontsize=8.5, color=INK)


def _head(case: str, names: Sequence[str], masks: tuple[Array, Array], width: float) -> _Head:
    scores = [f"{name} {dice(t, p):.3f}" for name, t, p in zip(names, *masks, strict=True)]
    said, room = f"Dice: {', '.join(scores)}", _LETTERS * width
    if len(case) + 2 + 0.8 * len(said) <= room:
        return _Head(drawn(case, longest=round(room)), [said], _LINE)
    lines = wrap(said, round(14 * width), subsequent_indent="    ")[:MOST_LINES]
    return _Head(drawn(case, longest=round(room)), lines, _LINE + 0.19 * len(lines))


@dataclass(frozen=True)
class _Legend:
    """What colours and line styles mean, in as many rows as the width asks for."""

    lines: list[Line2D]
    columns: int

    @classmethod
    def of(cls, names: Sequence[str], width: float) -> _Legend:
        """For the regions of these names; one alone needs no name."""
        lines = [Line2D([], [], color=TRUTH, label="truth"), Line2D([], [], color=PREDICTION, label="prediction")]
        if len(names) > 1:
            lines += [
                Line2D([], [], color=FAINT, linestyle=LINESTYLES[k % len(LINESTYLES)], label=name)
                for k, name in enumerate(names)
            ]
        longest = max(len(str(line.get_label())) for line in lines) + 7  # letters, with the sample of the line
        return cls(lines, min(len(lines), max(1, int(14 * width / longest))))

    @property
    def height(self) -> float:
        """Inches."""
        return 0.12 + 0.19 * -(-len(self.lines) // self.columns)

    def draw(self, figure: Figure) -> None:
        """Below the panels."""
        figure.legend(
            handles=self.lines, loc="lower center", ncols=self.columns, fontsize=8.5, frameon=False, borderpad=0.1
        )
