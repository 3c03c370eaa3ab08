"""Trees of settings as yaml gives them: laid over each other, without nulls, varied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ssl_med.values import is_null

Tree = dict[str, Any]


def merge(below: Tree, above: Tree) -> Tree:
    """`above` laid over `below`, mappings key by key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def without_nulls(value: Any) -> Any:
    """A mapping without the keys that are null; anything else as it is."""
    return {key: item for key, item in value.items() if not is_null(item)} if isinstance(value, dict) else value


def varied(columns: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each column, or in its place one for each entry of its `vary`."""
    for name, column in columns.items():
        if not isinstance(column, dict) or not isinstance(column.get("vary"), dict):
            yield name, column
            continue
        shared = {key: value for key, value in column.items() if key != "vary"}
        for label, own in column["vary"].items():
            if not is_null(own):
                yield f"{name} {label}", {"series": name, **merge(shared, own)}
