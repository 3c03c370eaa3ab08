"""Keyword arguments of the Python interface as overrides of the command line, so that both say and refuse the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

GROUPS = ("method", "data", "task", "recipe", "trainer", "protocol", "map", "table")  # chosen by name: `trainer=cpu`


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """`{"method": "moco", "trainer": {"name": "cpu", "max_steps": 5}}` -> `method=moco trainer=cpu trainer.max_steps=5`.

    A mapping below one of `GROUPS` chooses by its key `name` and sets everything else; below any other key it is a section.
    None leaves a setting out, so that a function can pass its arguments on as they are.
    """
    return [f"{key}={text(value)}" for key, value in _flat(settings, "") if value is not None]


def text(value: Any) -> str:
    """A value as it is typed on the command line; what is no text, number, path or list of them is written as JSON."""
    if isinstance(value, str | Path):
        return _quoted(str(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_element(item) for item in value)}]"
    return json.dumps(value)


def _flat(settings: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        where = f"{prefix}{key}"
        if not isinstance(value, Mapping):
            yield (prefix[:-1] if key == "name" and prefix[:-1] in GROUPS else where), value
        else:
            yield from _flat(value, f"{where}.")


def _quoted(value: str) -> str:
    """Quotes around a text that would lose its own, or the spaces at its ends."""
    if value[:1] in ("'", '"') or value != value.strip():
        return "'" + value.replace("'", "''") + "'"
    return value


def _element(value: Any) -> str:
    """A text of a list keeps its commas and brackets in quotes."""
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else text(value)
