"""`make docs`: docs/methods.md, written from what the methods declare and their docstrings."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from experiments.config.sources import method_class_of, names

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
HEAD = """\
# Methods

What each method does, its source, and where it differs from paper or official code and why. The text is that of the methods'
files; `make docs` writes this page from them. Defaults are the papers'; the recipes are in `experiments/conf/method/`.

Every method trains the suite's own backbone with the same data, crops and budget, so that a comparison is one of methods. The
encoder always travels; a pretrained decoder travels too, and a segmentation task that finds one uses it. While a method trains,
its metric is logged beside that of a solver that learned nothing (`val/<metric>`, `val/<metric>_baseline`), and so are signs of
collapse (`collapse/…`).
"""


def page() -> str:
    """The text of docs/methods.md."""
    parts = []
    for name in names("method"):
        title, rest = _doc(name)
        parts.append(f"## {name}\n\n{flow(title)}\n\n{flow(rest)}\n")
    return "\n".join([HEAD, *table(), "", *parts])


def table() -> list[str]:
    """One row for each method."""
    rows = [
        "| method | paper | family | works in | pretrains | transfers to segmentation | metric while it trains |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names("method"):
        method = method_class_of(name)
        parts = ("encoder, decoder", "both") if method.needs_decoder else ("encoder", "encoder")
        dims, family = ", ".join(f"{n}D" for n in method.dims), ", ".join(method.family)
        cells = [f"[{name}](#{name})", str(method.paper), family, dims, *parts, method.metric.name]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _doc(name: str) -> tuple[str, str]:
    title, _, rest = (inspect.getdoc(inspect.getmodule(method_class_of(name))) or "").partition("\n\n")
    return title, rest


def flow(text: str) -> str:
    """One line per paragraph and per item, so that a changed word changes one line of the page."""
    text = re.sub(r"\n(?=Official code|No official code|Code consulted)", "\n\n", text)
    text = re.sub(r":\n(?=- )", ":\n\n", text)
    return re.sub(r"(?<!\n)\n(?![\n-])\s*", " ", text)


if __name__ == "__main__":
    PAGE.write_text(page())
