"""What a report is made of: blocks that say what there is, which HTML, Markdown and LaTeX render each in their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

MARKED = ("best", "better", "worse")  # highlighted cells


@dataclass(frozen=True)
class Field:
    """A cell of a table: its large text, its small text, and why it is marked: best, better, worse, missing."""

    text: str
    aside: str = ""
    mark: str = ""
    color: str = ""


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; all columns but the first to the right, or as `text` says.

    * css: classes of the page's style sheet; with 'code' the first column holds keys or paths.
    * caption: the text below; complete enough to be quoted. * missing: what is not there and why, one line each.
    * key: with one, the table also goes into table.tex, under the label tab:COMPARISON-KEY.
    """

    head: Sequence[Field | str]
    rows: Sequence[Sequence[Field | str]]
    css: str = "sticky"
    text: Sequence[int] = (0,)
    caption: Sequence[str] = ()
    missing: Sequence[str] = ()
    key: str = ""


@dataclass(frozen=True)
class Plots:
    """Figures beside each other: title for those who cannot see it, file stem, figure."""

    figures: Sequence[tuple[str, str, Figure]]
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG that a run left.

    * stem: name of its copy beside the Markdown. * bold, caption: the text below it. * broad: needs the width of the page.
    """

    path: Path
    alt: str
    stem: str
    bold: str = ""
    caption: str = ""
    broad: bool = False


@dataclass(frozen=True)
class Pictures:
    """PNGs of runs beside each other. `css`: 'pictures' for cases, with 'small' for little ones; '' for figures."""

    pictures: Sequence[Picture]
    css: str = ""


@dataclass(frozen=True)
class Listing:
    """Bullets; with a title and as a warning: a box that cannot be overlooked."""

    lines: Sequence[str]
    title: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Tiles:
    """Numbers at a glance, each over what it counts."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True)
class Fold:
    """A part that is closed on the page at first. `page_only`: too long for Markdown, which leaves it out."""

    title: str
    aside: str
    blocks: Sequence[Block]
    page_only: bool = False


@dataclass(frozen=True)
class Beside:
    """Two parts next to each other on a wide screen."""

    left: Sequence[Block]
    right: Sequence[Block]


Block = Note | Grid | Plots | Pictures | Listing | Facts | Tiles | Heading | Fold | Beside


@dataclass(frozen=True)
class Section:
    """A part of the report with a place in its list of contents."""

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)
