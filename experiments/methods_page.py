"""`make docs`: docs/methods.md, written from what the methods say of themselves."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from experiments.compose import compose_pretrain, names
from experiments.pretrain import build_method
from ssl_med.methods._base import RETRIEVAL, Method
from ssl_med.methods._restoration import Restorer
from ssl_med.spec import SslMedError

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEAD = """\
# Methods

What each method does, its source, and where it differs from paper or official code and why. The text is that of the methods'
files; `make docs` writes this page from them. Defaults are the papers'; the recipes stand in `experiments/conf/method/`.

Every method trains the suite's own backbone with the same data, crops and budget, so that a comparison is one of methods. The
encoder always travels; a pretrained decoder travels too, and a segmentation task that finds one uses it. While a method trains,
its metric is logged beside that of a solver that learned nothing (`val/<metric>`, `val/<metric>_trivial`), and so are signs of
collapse (`collapse/…`).
"""


def page() -> str:
    """The text of docs/methods.md."""
    rows, parts = [], []
    for name in names("method"):
        method = _example(name)
        doc = inspect.getdoc(inspect.getmodule(type(method))) or ""
        title, _, rest = doc.partition("\n\n")
        travels = "encoder, decoder" if method.decoder is not None else "encoder"
        rows.append(f"| [{name}](#{name}) | {_family(method)} | {_dims(name)} | {travels} | {method.metric.name} |")
        parts.append(f"## {name}\n\n{_flow(title)}\n\n{_flow(rest)}\n")
    table = ["| method | family | works in | what is pretrained | metric |", "| --- | --- | --- | --- | --- |", *rows]
    return "\n".join([HEAD, *table, "", *parts])


def _flow(text: str) -> str:
    """One line per paragraph and per item, so that a changed word changes one line of the page."""
    text = re.sub(r"\n(?=Official code|No official code|Code consulted)", "\n\n", text)
    text = re.sub(r":\n(?=- )", ":\n\n", text)
    return re.sub(r"(?<!\n)\n(?![\n-])\s*", " ", text)


def _example(name: str) -> Method:
    for data in ("lits", "brats"):
        try:
            return build_method(compose_pretrain([f"method={name}", f"data={data}", "trainer=cpu"]))
        except SslMedError:
            continue
    raise SslMedError(f"method '{name}' builds with none of the data sets of the page")


def _dims(name: str) -> str:
    found = []
    for dims, data in ((2, "chest14"), (3, "lits")):
        try:
            build_method(compose_pretrain([f"method={name}", f"data={data}", "trainer=cpu"]))
        except SslMedError as error:
            if "works in" in str(error):
                continue
        found.append(f"{dims}D")
    return ", ".join(found)


def _family(method: Method) -> str:
    if isinstance(method, Restorer):
        return "restoration"
    return "contrast" if method.metric == RETRIEVAL else "prediction"


if __name__ == "__main__":
    PAGE.write_text(page())
