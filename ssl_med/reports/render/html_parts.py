"""The look of a report page: its style sheet and the few HTML parts that it is made of."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from ssl_med.reports.escape import html as escape

CSS = """
:root { --ink: #1c2733; --soft: #55636f; --faint: #8592a0; --line: #e1e7ec; --wash: #f5f7f9; --accent: #0a5c91;
  --warn: #8a5300; --warn-wash: #fff7e8; --warn-line: #efcf95; --best: #e8f3fa; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 28px 72px; }
header { padding: 46px 0 8px; }
h1 { font-size: 31px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 8px; }
.lead { color: var(--soft); font-size: 17px; margin: 0; max-width: 76ch; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 22px 0 0; padding: 11px 0; font-size: 14.5px;
  border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); }
nav a, td a { color: var(--accent); text-decoration: none; }
nav a:hover, td a:hover { text-decoration: underline; }
h2 { font-size: 22px; letter-spacing: -.01em; margin: 50px 0 4px; scroll-margin-top: 12px; }
h3 { font-size: 16.5px; margin: 28px 0 6px; }
p { margin: 8px 0; max-width: 82ch; }
.note { color: var(--soft); font-size: 14.5px; }
code { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 12px; margin: 24px 0 0; }
.tile { background: var(--wash); border-radius: 10px; padding: 13px 16px; }
.tile b { display: block; font-size: 23px; line-height: 1.25; letter-spacing: -.01em; }
.tile span { color: var(--soft); font-size: 13.5px; }
.scroll { overflow-x: auto; margin: 14px 0 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: 14.5px; font-variant-numeric: tabular-nums; }
table.wide { width: 100%; }
th, td { padding: 8px 16px 8px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th:first-child, td:first-child, th.text, td.text { text-align: left; }
th:last-child, td:last-child { padding-right: 8px; }
td.text { white-space: normal; }
.oneline td.text, td code, .code tbody td:first-child { white-space: nowrap; }
.code tbody td:first-child { font: 13px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td small { display: block; color: var(--soft); font-size: 12.5px; font-weight: 400; }
.sticky tbody td:first-child { white-space: nowrap; padding-right: 18px; }
td.better { background: #e7f4ee; } td.worse { background: #fbeceb; } td.missing { color: var(--faint); font-style: italic; }
thead small { display: block; font-weight: 400; font-size: 12.5px; }
thead th { color: var(--soft); font-weight: 600; font-size: 13px; border-bottom: 1.5px solid #b9c3cc; }
tbody th { font-weight: 600; }
.sticky tbody tr > :first-child { position: sticky; left: 0; background: #fff; }
table.headline { font-size: 17px; }
table.headline td, table.headline tbody th { padding-top: 11px; padding-bottom: 11px; }
td.best { background: var(--best); font-weight: 700; }
.sd { color: var(--soft); font-weight: 400; }
.n { color: var(--faint); font-size: 12px; font-weight: 400; margin-left: 6px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 9px; }
.box { background: var(--warn-wash); border: 1px solid var(--warn-line); border-radius: 10px; padding: 12px 18px;
  margin: 18px 0; font-size: 14.5px; overflow-wrap: anywhere; }
.box b { color: var(--warn); }
.box ul, ul.plain { margin: 6px 0 2px; padding-left: 20px; }
ul.plain { font-size: 14.5px; overflow-wrap: anywhere; }
li { margin: 3px 0; }
.figures { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px 28px; margin: 16px 0 0; }
.figures > .broad { grid-column: 1 / -1; }
.figures.one { grid-template-columns: minmax(0, 560px); }
.figures.small { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.split { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 10px 36px; align-items: start; }
.stacked > :first-child { grid-column: 1 / -1; }
figure { margin: 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: 13.5px; margin-top: 5px; }
.thumbs { display: flex; flex-wrap: wrap; gap: 14px; margin: 12px 0; }
.thumbs figure { width: 128px; } .thumbs figcaption { overflow-wrap: anywhere; font-size: 12.5px; }
.pictures figure { border: 1px solid var(--line); border-radius: 10px; padding: 10px 12px 9px; }
.pictures figcaption b { color: var(--ink); }
details { border: 1px solid var(--line); border-radius: 10px; margin: 14px 0; padding: 0 18px; }
details > :last-child { margin-bottom: 16px; }
summary { cursor: pointer; padding: 11px 0; font-weight: 600; font-size: 15px; }
summary span { color: var(--soft); font-weight: 400; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px 24px; font-size: 14.5px;
  margin: 14px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--faint); font-size: 13px; margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--line); }
@media (max-width: 760px) {
  main { padding: 0 16px 48px; } header { padding-top: 28px; } h1 { font-size: 25px; } h2 { margin-top: 40px; }
  .figures, .figures.one, .figures.small, .split { grid-template-columns: minmax(0, 1fr); }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  table.headline { font-size: 15px; } .headline .sd { display: block; } th, td { padding-right: 13px; }
  .sticky tbody td:first-child { white-space: normal; min-width: 108px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: 8px; }
  .thumbs { display: flex; flex-wrap: wrap; gap: 14px; margin: 12px 0; }
.thumbs figure { width: 128px; } .thumbs figcaption { overflow-wrap: anywhere; font-size: 12.5px; }
.pictures figure { padding: 6px 6px 7px; }
}
@media print { nav { display: none; } main { max-width: none; } figure, table, .box { break-inside: avoid; } }
"""


def page(title: str, body: str) -> str:
    """A whole HTML document that asks nothing of the network: the content policy forbids it."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, css: str = "", text: Iterable[int] = (0,)) -> str:
    """Table of ready HTML cells; a cell may start with '<td' or '<th' to bring its own tag. `text`: left columns."""
    left = set(text)

    def tag(name: str, k: int, cell: str) -> str:
        if cell.startswith(("<td", "<th")):
            return cell
        return f"<{name}{' class=text' if k in left else ''}>{cell}</{name}>"

    lines = ["".join(tag("th", k, cell) for k, cell in enumerate(head))]
    body = ["".join(tag("td", k, cell) for k, cell in enumerate(row)) for row in rows]
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{lines[0]}</tr></thead><tbody>'
        + "".join(f"<tr>{line}</tr>" for line in body)
        + "</tbody></table></div>"
    )


def svg_figure(svg: str, *, alt: str, caption: str = "") -> str:
    """An SVG as image of the page; as an image its ids cannot clash with those of another."""
    return _figure(f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}", alt, caption)


def png_figure(png: Path | bytes, *, alt: str, caption: str = "", css: str = "") -> str:
    """A PNG, a file or its content, as image of the page. `caption` is HTML."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    return _figure(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, caption, css)


def _figure(source: str, alt: str, caption: str, css: str = "") -> str:
    below = f"<figcaption>{caption}</figcaption>" if caption else ""
    tag = f'<figure class="{css}">' if css else "<figure>"
    return f'{tag}<img src="{source}" alt="{escape(alt)}">{below}</figure>'


def items(lines: Iterable[str], *, css: str = "plain") -> str:
    """Bullet list of plain texts."""
    return f'<ul class="{css}">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def warning(title: str, lines: Sequence[str]) -> str:
    """A box that cannot be overlooked; '' without lines."""
    return f'<div class="box" role="note"><b>{escape(title)}</b>{items(lines)}</div>' if lines else ""


def fold(title: str, aside: str, content: str) -> str:
    """A part that opens on a click, without a script."""
    return f"<details><summary>{escape(title)} <span>{escape(aside)}</span></summary>{content}</details>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values as a definition list of plain texts."""
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"
