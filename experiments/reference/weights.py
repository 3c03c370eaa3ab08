"""`make docs`: docs/weights.md, written from what the families of foreign weights and the exporters declare."""

from __future__ import annotations

import inspect
from pathlib import Path

from experiments.config.schema import docstring
from experiments.reference.methods import flow
from ssl_med.catalogue import list_names
from ssl_med.weights.core.find import PACKAGE, family_of
from ssl_med.weights.core.origin import trade

PAGE = Path(__file__).parents[2] / "docs" / "weights.md"
HEAD = """\
# Weights from elsewhere, and ours elsewhere

`ssl-med weights inspect FILE` says whose weights a file holds, what their images must be, and where each of their tensors would
go; `ssl-med weights import FILE out=FILE.safetensors` writes a backbone file, and `init=FILE` takes a foreign file as it is.
Where several families know a file, or none does, `family=NAME` beside it says whose it is; a row of a comparison takes both:
`rows: {imagenet: {init: FILE, family: torchvision}}`, and where the file is not there its cells say where to get it.
A pretraining [starts from weights](how-to/start-from-weights.md), too.
A file fills a network completely or is refused: `allow=[KEY, ...]` lists exceptions, which stand in the card and in every
report. `data.from_card=true` prepares data as the weights' card says. `ssl-med weights export` writes our networks in the
[formats at the end of this page](#formats-that-ssl-med-weights-export-writes).

Loading every tensor does not prove that a network computes the same. So each family has a case in `tests/weights/cases`: a file
in the original layout, and features that equal an independent forward. The column "agreement" says how far the original
implementation, or the package that its authors use, was from ours where it could be run. `make docs` writes this page.
"""


def page() -> str:
    """The text of docs/weights.md."""
    names = list_names(PACKAGE)
    return "\n".join([HEAD, *_table(names), "", *(_part(name) for name in names), *_exporters()])


def _table(names: list[str]) -> list[str]:
    rows = [
        "| family | weights of | licence of the weights | public data that they saw | agreement |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in names:
        one = family_of(name)
        told = trade(one.commercial)
        licence = f"{one.licence} (**{told}**)" if told else one.licence
        cells = [
            f"[{name}](#{name})",
            one.citation,
            licence,
            ", ".join(one.saw) or "none that is public",
            one.agreement or "not measured",
        ]
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return rows


def _part(name: str) -> str:
    one = family_of(name)
    text = flow(inspect.cleandoc(docstring(f"{PACKAGE}.{name}")))
    traps = [f"- {flow(trap)}" for trap in one.traps]
    told = ["\nTraps:\n", *traps] if traps else []
    return "\n".join([f"## {name}\n", text, f"\nFiles: {one.source}", *told, ""])


def _exporters() -> list[str]:
    package = f"{PACKAGE}.export"
    rows = [
        f"| `{name}` | {flow(docstring(f'{package}.{name}')).partition(chr(10))[0]} |" for name in list_names(package)
    ]
    return [
        "## Formats that `ssl-med weights export` writes\n",
        "| `to=` | what is written |",
        "| --- | --- |",
        *rows,
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(page())
