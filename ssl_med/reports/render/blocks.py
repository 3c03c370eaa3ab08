"""Parts of a report that are written once and rendered as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from matplotlib.figure import Figure

from ssl_med.reports.figures.curves import to_svg
from ssl_med.reports.figures.pictures import save
from ssl_med.reports.render import parts as p
from ssl_med.reports.sections.errors import markdown_table

MARKED = ("best", "better", "worse")  # cells that stand out


@dataclass(frozen=True)
class Field:
    """A cell of a table: what stands large, what stands small, and why it is marked: best, better, worse, missing."""

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
    """A table; all columns but the first to the right, or as `text` says."""

    head: Sequence[Field | str]
    rows: Sequence[Sequence[Field | str]]
    css: str = "sticky"
    text: Sequence[int] = (0,)


@dataclass(frozen=True)
class Plots:
    """Figures beside each other: title for those who cannot see it, file stem, figure."""

    figures: Sequence[tuple[str, str, Figure]]
    caption: str = ""


@dataclass(frozen=True)
class Listing:
    """Bullets; with a title and as a warning: a box that cannot be overlooked."""

    lines: Sequence[str]
    title: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Heading:
    """Of a part of a section."""

    text: str


@dataclass(frozen=True)
class Fold:
    """A part that is closed on the page at first."""

    title: str
    aside: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Beside:
    """Two parts next to each other on a wide screen."""

    left: Sequence[Block]
    right: Sequence[Block]


@dataclass(frozen=True)
class OnPage:
    """Ready HTML that Markdown leaves out."""

    html: str


Block = Note | Grid | Plots | Listing | Heading | Fold | Beside | OnPage


@dataclass(frozen=True)
class Section:
    """A part of the report with a place in its list of contents."""

    key: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


# --- HTML --------------------------------------------------------------------------------------------------------


def html(section: Section) -> str:
    """A section of the page."""
    inner = "".join(_html(block) for block in section.blocks)
    return f'<section><h2 id="{section.key}">{escape(section.title)}</h2>{inner}</section>'


def _html(block: Block) -> str:
    match block:
        case Note(text, strong):
            return f"<p{'' if strong else ' class=note'}>{escape(text)}</p>"
        case Grid(head, rows, css, text):
            body = [[_cell("td", cell, k in text) for k, cell in enumerate(row)] for row in rows]
            return p.table([_cell("th", cell, k in text) for k, cell in enumerate(head)], body, css=css)
        case Plots(figures, caption):
            inner = "".join(p.svg_figure(to_svg(figure), alt=alt) for alt, _, figure in figures)
            css = "figures" if len(figures) > 1 else "figures one"
            return f'<div class="{css}">{inner}</div>' + (_html(Note(caption)) if caption else "") if inner else ""
        case Listing(lines, title, warning):
            if not lines:
                return ""
            return p.warning(title, lines) if warning else (_html(Note(title)) if title else "") + p.items(lines)
        case Heading(text):
            return f"<h3>{escape(text)}</h3>"
        case Fold(title, aside, blocks):
            return p.fold(title, aside, "".join(_html(inner) for inner in blocks))
        case Beside(left, right):
            sides = ("".join(_html(inner) for inner in side) for side in (left, right))
            return f'<div class="split">{"".join(f"<div>{side}</div>" for side in sides)}</div>'
        case OnPage(ready):
            return ready


def _cell(tag: str, cell: Field | str, text: bool) -> str:
    cell = cell if isinstance(cell, Field) else Field(cell)
    css = " ".join(filter(None, ["text" if text else "", cell.mark]))
    swatch = f'<span class="swatch" style="background:{cell.color}"></span>' if cell.color else ""
    aside = f"<small>{escape(cell.aside)}</small>" if cell.aside else ""
    return f'<{tag} class="{css}">{swatch}{escape(cell.text).replace("_", "_<wbr>")}{aside}</{tag}>'


# --- Markdown ----------------------------------------------------------------------------------------------------


def markdown(section: Section, out: Path) -> list[str]:
    """Lines of a section; figures are written as PNG into `out`/figures."""
    return [f"## {section.title}", "", *(line for block in section.blocks for line in _markdown(block, out))]


def _markdown(block: Block, out: Path) -> list[str]:
    match block:
        case Note(text, _):
            return [text, ""]
        case Grid(head, rows, _, _):
            return [*markdown_table([[_plain(cell) for cell in row] for row in (head, *rows)]), ""]
        case Plots(figures, caption):
            shown: list[str] = []
            for alt, stem, figure in figures:
                path = save(figure, out / "figures" / f"{stem}.png")
                shown += [f"![{alt}]({path.relative_to(out).as_posix()})", ""]
            return [*shown, *([caption, ""] if caption and figures else [])]
        case Listing(lines, title, warning):
            first = [f"**{title}**" if warning else title, ""] if title else []
            return [*first, *(f"- {line}" for line in lines), ""] if lines else []
        case Heading(text):
            return [f"### {text}", ""]
        case Fold(title, aside, blocks):
            inner = [line for part in blocks for line in _markdown(part, out)]
            return [f"### {title}" + (f" ({aside})" if aside else ""), "", *inner]
        case Beside(left, right):
            return [line for part in (*left, *right) for line in _markdown(part, out)]
        case _:
            return []


def _plain(cell: Field | str) -> str:
    if isinstance(cell, str):
        return cell
    text = f"**{cell.text}**" if cell.mark in MARKED else cell.text
    return f"{text} ({cell.aside})" if cell.aside and cell.text else text or cell.aside
