"""Yaml text to plain values and back; the only place that knows the library which does it.

The library is imported when the first text is read: help and the refusal of a typo mostly read none.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from ssl_med.spec import first_line

# what omegaconf would take for the beginning of a reference to another key; a folder may be called so
_REFERENCE, _HIDDEN = "${", "\ue8f3{"


class YamlError(Exception):
    """A text is not valid yaml; says why in one line."""


def parse(text: str) -> Any:
    """The plain values that a whole yaml file says; the same text twice costs one parse.

    Raises:
        YamlError: it is not valid yaml.
    """
    from omegaconf import OmegaConf

    try:
        return _shown(OmegaConf.to_container(_parse(text.replace(_REFERENCE, _HIDDEN))))
    except Exception as error:  # yaml's and omegaconf's own families of errors share no base class
        raise YamlError(_reason(error)) from None


@cache
def _parse(text: str) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.load(io.StringIO(text))


def parse_value(text: str) -> Any:
    """The plain value that one yaml text says, such as `1e-3`, `[1, 2]` or `{a: 1}`.

    Raises:
        YamlError: it is not valid yaml.
    """
    from omegaconf import OmegaConf

    try:
        hidden = OmegaConf.from_dotlist([f"value={text.replace(_REFERENCE, _HIDDEN)}"])
        return _shown(OmegaConf.to_container(hidden)["value"])  # type: ignore[index,call-overload]
    except Exception as error:
        raise YamlError(_reason(error)) from None


def dump(tree: dict[str, Any]) -> str:
    """A plain tree as yaml text that `parse` reads back as the same."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(_swapped(tree, _REFERENCE, _HIDDEN))).replace(_HIDDEN, _REFERENCE)


def _shown(tree: Any) -> Any:
    """A parsed tree as it was written.

    Raises:
        YamlError: it holds something else than mappings, lists, texts, numbers, truth values and null.
    """
    return _swapped(tree, _HIDDEN, _REFERENCE)


def _swapped(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {_swapped(key, old, new): _swapped(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_swapped(item, old, new) for item in value]
    if isinstance(value, str):
        return value.replace(old, new)
    if value is None or isinstance(value, bool | int | float):
        return value
    raise YamlError(f"a value of type {type(value).__name__} has no place in settings")


def _reason(error: Exception) -> str:
    """What is wrong, and in which line; yaml's own first line only says what it was about to do."""
    if isinstance(error, RecursionError):
        return "its brackets are nested too deeply"
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if not problem:
        return first_line(error)
    return f"{first_line(Exception(problem))}{f', line {mark.line + 1}' if mark is not None else ''}"
