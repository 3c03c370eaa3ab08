"""How every figure looks: colours, markers and type, for print and for colour-blind readers; and figures as files."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

from ssl_med.files import new_file
from ssl_med.reports.escape import drawn
from ssl_med.reports.run_folder import SCRATCH

INK, FAINT = "#1c2733", "#6b7785"
# Okabe and Ito (2008), without the yellow that vanishes on white
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_FURTHER = ("#7b5ea7", "#8c6d31", "#1c2733", "#a6192e", "#7f8c1f")  # for tables of many rows
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FIXED = ("pcrl", "models_genesis", "context_restoration", "moco", "simclr")  # these never share a colour
LINES = ("-", (0, (6, 1.5)), (0, (3, 1.2, 1, 1.2)), (0, (1, 1)))
SIZE = (
    5.4,
    3.5,
)  # inches: two side by side on a wide screen, one on a phone without shrinking the text to nothing

RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so figures look alike everywhere
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "grid.color": "#e4e9ee",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.hashsalt": "ssl_med",  # equal figures are equal files
}


@dataclass(frozen=True)
class Style:
    """How a row is drawn everywhere."""

    color: str
    marker: str
    line: Any
    hollow: bool = False

    @property
    def face(self) -> str:
        """Fill of the marker."""
        return "white" if self.hollow else self.color


def style(method: str, *, variant: int = 0) -> Style:
    """Style of a method; its variants in one table differ in line and fill. Scratch is always grey and dashed."""
    if method == SCRATCH:
        return Style("#5f6b76", "X", (0, (4, 2)))
    line = LINES[variant % len(LINES)]
    if method in _FIXED:
        k = _FIXED.index(method)
        return Style(COLORS[k], _MARKERS[k], line, variant % 2 == 1)
    k = zlib.crc32(method.encode())
    return Style(COLORS[k % len(COLORS)], _MARKERS[k // 7 % len(_MARKERS)], line, variant % 2 == 1)


def styles(methods: Mapping[str, str]) -> dict[str, Style]:
    """Row -> its style; where two rows would share a colour, the later one takes the next free one, then another marker."""
    found: dict[str, Style] = {}
    palette = (*COLORS, *_FURTHER)
    # methods with a colour of their own come first, so that no other takes it
    for k, row in enumerate(sorted(methods, key=lambda row: methods[row] not in (SCRATCH, *_FIXED))):
        look = style(methods[row])
        taken = {other.color for other in found.values()}
        if look.color in taken:
            again, place = divmod(k, len(palette))
            free = [color for color in palette if color not in taken] or [palette[place]]
            look = Style(free[0], _MARKERS[(k + again) % len(_MARKERS)], LINES[again % len(LINES)])
        found[row] = look
    return {row: found[row] for row in methods}


def panel(title: str, *, height: float = SIZE[1]) -> tuple[Figure, Any]:
    """An empty figure with its axes; height in inches."""
    figure = Figure(figsize=(SIZE[0], height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(drawn(title, longest=90), pad=9)
    return figure, axes


def to_svg(figure: Figure) -> str:
    """A figure as SVG text whose letters are outlines: it looks the same without any font installed."""
    buffer = io.BytesIO()
    _without_formulas(figure)
    with mpl.rc_context(RC):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue().decode()


def save(figure: Figure, path: Path, *, dpi: int = 150) -> Path:
    """Writes a figure as PNG; makes the folder."""
    _without_formulas(figure)
    with new_file(path) as file:  # without matplotlib's name and version, so that equal pictures are equal files
        figure.savefig(file, dpi=dpi, facecolor="white", metadata={"Software": None})
    return path


def copied(picture: Path, path: Path) -> Path:
    """Writes a picture file once more; makes the folder."""
    with new_file(path) as file:
        shutil.copyfile(picture, file)
    return path


def _without_formulas(figure: Figure) -> None:
    """Texts are drawn as they are written: matplotlib takes what a name has between two dollars for a formula, and may fail."""
    for text in _texts(figure):
        text.set_parse_math(False)


def _texts(figure: Figure) -> Iterator[Text]:
    """Every text that holds words; numbers at the axes are left out, since a power of ten is a formula."""
    yield from figure.texts
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            yield from legend.get_texts()
    for axes in figure.axes:
        yield from axes.texts
        yield from (getattr(axes, side) for side in ("title", "_left_title", "_right_title"))
        for axis in (axes.xaxis, axes.yaxis):
            yield axis.label
            if isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
                yield from (tick.label1 for tick in axis.get_major_ticks())
