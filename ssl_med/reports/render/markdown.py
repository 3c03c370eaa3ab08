"""A report as Markdown, for issues, pull requests and papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_med.reports.escape import alt, file_stem, link
from ssl_med.reports.escape import markdown as escape
from ssl_med.reports.render.blocks import (
    MARKED,
    Beside,
    Block,
    Facts,
    Field,
    Fold,
    Grid,
    Heading,
    Listing,
    Note,
    Pictures,
    Plots,
    Section,
    Tiles,
)
from ssl_med.reports.run_folder import FIGURES
from ssl_med.reports.style import copied, save


def text(title: str, lead: str, top: Sequence[Block], sections: Sequence[Section], out: Path) -> str:
    """The whole document; its figures are written as PNG into `out`/figures."""
    lines = [f"# {escape(title)}", "", escape(lead), "", *_all(top, out)]
    for section in sections:
        inner = _all(section.blocks, out)
        if inner:
            lines += [f"## {escape(section.title)}", "", *inner]
    return "\n".join(lines)


def _all(blocks: Sequence[Block], out: Path) -> list[str]:
    """Lines of blocks; a heading that nothing follows is left out."""
    lines: list[str] = []
    heading: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            heading = [f"### {escape(block.text)}", ""]
        elif inner := _block(block, out):
            lines += [*heading, *inner]
            heading = []
    return lines


def _block(block: Block, out: Path) -> list[str]:
    match block:
        case Note(text, _):
            return [escape(text), ""]
        case Grid():
            return _grid(block)
        case Plots(figures, caption):
            shown: list[str] = []
            for about, stem, figure in figures:
                shown += _image(about, save(figure, out / FIGURES / f"{file_stem(stem)}.png"), out)
            return [*shown, *([escape(caption), ""] if caption and figures else [])]
        case Pictures(pictures, _):
            shown = []
            for picture in pictures:
                target = out / FIGURES / f"{file_stem(picture.stem)}.png"
                shown += _image(picture.alt, copied(picture.path, target), out)
            return shown
        case Listing(lines, title, warning):
            words = escape(title)
            first = [f"**{words}**" if warning else words, ""] if title else []
            return [*first, *(f"- {escape(line)}" for line in lines), ""] if lines else []
        case Facts(pairs) | Tiles(pairs):
            between = " " if isinstance(block, Tiles) else ": "
            return [*(f"- {escape(a)}{between}{escape(b)}" for a, b in pairs), ""]
        case Fold(title, aside, blocks, page_only):
            inner = [] if page_only else _all(blocks, out)
            return [f"### {escape(title)}" + (f" ({escape(aside)})" if aside else ""), "", *inner] if inner else []
        case Beside(left, right):
            return [*_all(left, out), *_all(right, out)]
        case _:
            return []


def _grid(grid: Grid) -> list[str]:
    lines = (
        [*_table([[_plain(cell) for cell in row] for row in (grid.head, *grid.rows)], grid.text), ""]
        if grid.head
        else []
    )
    for line in grid.caption:
        lines += [escape(line), ""]
    return [*lines, *(_block(Listing(grid.missing, "Runs of this table that are not there:", warning=True), Path()))]


def _table(lines: Sequence[Sequence[str]], text: Sequence[int]) -> list[str]:
    """Head and rows; columns of text to the left, those of numbers to the right."""
    head, *rows = [f"| {' | '.join(line)} |" for line in lines]
    return [head, f"|{'|'.join(' --- ' if k in text else ' ---: ' for k in range(len(lines[0])))}|", *rows]


def _image(words: str, path: Path, out: Path) -> list[str]:
    return [f"![{alt(words)}]({link(path.relative_to(out).as_posix())})", ""]


def _plain(cell: Field | str) -> str:
    cell = cell if isinstance(cell, Field) else Field(cell)
    text, aside = escape(cell.text), escape(cell.aside)
    text = f"**{text}**" if cell.mark in MARKED else text
    return f"{text} ({aside})" if aside and text else text or aside
