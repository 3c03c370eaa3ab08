"""A report as one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.reports.escape import html as escape
from ssl_med.reports.render import html_parts as parts
from ssl_med.reports.render.blocks import (
    Beside,
    Block,
    Facts,
    Field,
    Fold,
    Grid,
    Heading,
    Listing,
    Note,
    Picture,
    Pictures,
    Plots,
    Section,
    Tiles,
)
from ssl_med.reports.style import to_svg


def page(title: str, lead: str, top: Sequence[Block], sections: Sequence[Section]) -> str:
    """The whole document: title, what must be seen first, list of contents, sections."""
    links = "".join(f'<a href="#{section.key}">{escape(section.title)}</a>' for section in sections)
    body = (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p></header>{_all(top)}<nav>{links}</nav>'
        f"{''.join(map(_section, sections))}"
        "<footer>Made by ssl_med from local files; this page loads nothing and sends nothing.</footer>"
    )
    return parts.page(title, body)


def _section(section: Section) -> str:
    return f'<section><h2 id="{section.key}">{escape(section.title)}</h2>{_all(section.blocks)}</section>'


def _all(blocks: Sequence[Block]) -> str:
    return "".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Note(text, strong):
            return f"<p{'' if strong else ' class=note'}>{escape(text)}</p>"
        case Grid():
            return _grid(block)
        case Plots(figures, caption):
            inner = "".join(parts.svg_figure(to_svg(figure), alt=alt) for alt, _, figure in figures)
            css = "figures" if len(figures) > 1 else "figures one"
            return f'<div class="{css}">{inner}</div>' + (_block(Note(caption)) if caption else "") if inner else ""
        case Pictures(pictures, css):
            inner = "".join(map(_picture, pictures))
            return f'<div class="{f"figures {css}".strip()}">{inner}</div>' if inner else ""
        case Listing(lines, title, warning):
            if not lines:
                return ""
            if warning:
                return parts.warning(title, lines)
            return (_block(Note(title)) if title else "") + parts.items(lines)
        case Facts(pairs):
            return parts.facts(pairs)
        case Tiles(pairs):
            inner = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in pairs)
            return f'<div class="tiles">{inner}</div>'
        case Heading(text):
            return f"<h3>{escape(text)}</h3>"
        case Fold(title, aside, blocks, _):
            return parts.fold(title, aside, _all(blocks))
        case Beside(left, right):
            return f'<div class="split"><div>{_all(left)}</div><div>{_all(right)}</div></div>'


def _grid(grid: Grid) -> str:
    table = ""
    if grid.head:
        keys = "code" in grid.css.split()
        body = [
            [_cell("td", cell, k in grid.text, breaks=k > 0 or not keys) for k, cell in enumerate(row)]
            for row in grid.rows
        ]
        head = [_cell("th", cell, k in grid.text) for k, cell in enumerate(grid.head)]
        table = parts.table(head, body, css=grid.css)
    below = "".join(_block(Note(line)) for line in grid.caption)
    return table + below + parts.warning("Runs of this table that are not there:", grid.missing)


def _cell(tag: str, cell: Field | str, text: bool, *, breaks: bool = True) -> str:
    cell = cell if isinstance(cell, Field) else Field(cell)
    css = " ".join(filter(None, ["text" if text else "", cell.mark]))
    swatch = f'<span class="swatch" style="background:{cell.color}"></span>' if cell.color else ""
    aside = f"<small>{escape(cell.aside)}</small>" if cell.aside else ""
    shown = escape(cell.text).replace("_", "_<wbr>") if breaks else escape(cell.text)
    return f'<{tag} class="{css}">{swatch}{shown}{aside}</{tag}>'


def _picture(picture: Picture) -> str:
    bold = f"<b>{escape(picture.bold)}</b>" if picture.bold else ""
    caption = " · ".join(filter(None, [bold, escape(picture.caption)]))
    return parts.png_figure(picture.path, alt=picture.alt, caption=caption, css="broad" if picture.broad else "")
