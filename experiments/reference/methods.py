"""`make docs`: docs/methods.md and the table in README.md, written from what the methods say of themselves."""

from __future__ import annotations

import inspect
import re
from functools import cache
from pathlib import Path

from experiments.commands.pretrain import build_method
from experiments.config.run import compose_pretrain
from experiments.config.sources import names
from ssl_med.methods.core.base import RETRIEVAL, Method
from ssl_med.methods.core.restoration import Restorer
from ssl_med.spec import SslMedError

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
README = Path(__file__).parents[2] / "README.md"
MARKS = ("<!-- methods -->\n", "<!-- /methods -->\n")
# families that base class and metric do not tell
MIXED = {
    "byol": "self-distillation",
    "deep_cluster": "clustering",
    "dino": "self-distillation",
    "pcrl": "contrast, restoration",
    "pcrl_v2": "restoration, self-distillation",
    "swav": "clustering",
}
HEAD = """\
# Methods

What each method does, its source, and where it differs from paper or official code and why. The text is that of the methods'
files; `make docs` writes this page from them. Defaults are the papers'; the recipes stand in `experiments/conf/method/`.

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
        parts.append(f"## {name}\n\n{_flow(title)}\n\n{_flow(rest)}\n")
    return "\n".join([HEAD, *table(), "", *parts])


def table(link: str = "") -> list[str]:
    """One row for each method; `link` is the page that explains them, by default the table's own."""
    rows = [
        "| method | paper | family | works in | pretrains | transfers to segmentation | metric while it trains |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names("method"):
        method = _example(name)
        parts = ("encoder, decoder", "both") if method.decoder is not None else ("encoder", "encoder")
        cells = [f"[{name}]({link}#{name})", _citation(name), _family(name), _dims(name), *parts, method.metric.name]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def with_table(readme: str) -> str:
    """`readme` with the table of methods between its marks."""
    before, rest = readme.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    return before + MARKS[0] + "\n".join(table("docs/methods.md")) + "\n" + MARKS[1] + after


def _doc(name: str) -> tuple[str, str]:
    title, _, rest = (inspect.getdoc(inspect.getmodule(type(_example(name)))) or "").partition("\n\n")
    return title, rest


def _citation(name: str) -> str:
    """Authors and year of the first paper that the file names."""
    found = re.search(r'Papers?: ([^"]+?),? "[^"]*"(.*)', _flow(_doc(name)[1]))
    if found is None:
        raise SslMedError(f"method '{name}': its file names no paper as 'Paper: Authors, \"title\", where and when'")
    authors = re.sub(r"^.* of (?=[A-Z])", "", found[1])
    year = re.search(
        r"\b(19|20)\d\d\b", found[2].replace("arXiv 1807.03748", "2018").replace("arXiv 1912.05396", "2019")
    )
    return f"{authors} {year[0]}" if year else authors


def _flow(text: str) -> str:
    """One line per paragraph and per item, so that a changed word changes one line of the page."""
    text = re.sub(r"\n(?=Official code|No official code|Code consulted)", "\n\n", text)
    text = re.sub(r":\n(?=- )", ":\n\n", text)
    return re.sub(r"(?<!\n)\n(?![\n-])\s*", " ", text)


@cache
def _built(name: str, data: str) -> Method | SslMedError:
    """The method for one data set at the settings of a laptop, or why it refuses."""
    try:
        return build_method(compose_pretrain([f"method={name}", f"data={data}", "trainer=cpu"]))
    except SslMedError as error:
        return error


def _example(name: str) -> Method:
    for data in ("lits", "brats"):
        method = _built(name, data)
        if isinstance(method, Method):
            return method
    raise SslMedError(f"method '{name}' builds with none of the data sets of the page")


def _dims(name: str) -> str:
    found = []
    for dims, data in ((2, "chest14"), (3, "lits")):
        method = _built(name, data)
        if isinstance(method, Method) or "works in" not in str(method):
            found.append(f"{dims}D")
    return ", ".join(found)


def _family(name: str) -> str:
    method = _example(name)
    if isinstance(method, Restorer):
        return MIXED.get(name, "restoration")
    return MIXED.get(name, "contrast" if method.metric == RETRIEVAL else "prediction")


if __name__ == "__main__":
    PAGE.write_text(page())
    README.write_text(with_table(README.read_text()))
