"""What a table sets itself in each of its runs: refused among its settings, with the key of the table that means it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ssl_med.spec import SslMedError

if TYPE_CHECKING:
    from experiments.comparison.table import TableConfig

_ALWAYS = "leave it out, a table sets it in each of its runs"
OWN = {
    "seed": "give seeds, pretrain.seeds or tune.seeds",
    "init": "say rows.NAME.init",
    "family": "say rows.NAME.family",
    "out": "give out=DIR to ssl-med compare",
    "trainer.progress": _ALWAYS,
    "tracking.table": _ALWAYS,
    "data.root": "give root.NAME=DIR to ssl-med compare",
    "data.store": "give store.NAME=DIR to ssl-med compare",
    "data.tuning_share": "say tune.share",
    "labels.fraction": "say columns.NAME.fractions",
    "method.name": "say rows.NAME.method",
    "recipe": "say recipe",
}
"""setting -> what to do in its place"""


def check_settings(table: TableConfig) -> None:
    """Refuses settings that the table itself gives its runs, which would be given twice or be without effect.

    Raises:
        SslMedError: names the key of the table, and what to do in its place.
    """
    for where, tree in _places(table):
        for key in _keys(tree):
            if key in OWN:
                raise SslMedError(f"{where}.{key}: {OWN[key]}")


def _places(table: TableConfig) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "settings", table.settings
    yield "pretrain.settings", table.pretrain.settings
    for name, row in table.rows.items():
        yield f"rows.{name}.settings", row.settings
        yield f"rows.{name}.transfer", row.transfer
    for name, column in table.columns.items():
        yield f"columns.{name}.settings", column.settings
        yield f"columns.{name}.pretrain.settings", column.pretrain.settings
        yield f"columns.{name}.tune", column.tune


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
