"""Yaml text to plain values and back; the only place that knows the library which does it.

The library is imported when the first text is read: help and the refusal of a typo mostly read none.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

from ssl_med.spec import first_line


class YamlError(Exception):
    """A text is not valid yaml; says why in one line."""


def parse(text: str) -> Any:
    """The plain values that a whole yaml file says; the same text twice costs one parse.

    Raises:
        YamlError: it is not valid yaml.
    """
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(_parse(text))
    except Exception as error:  # yaml's and omegaconf's own families of errors share no base class
        raise YamlError(first_line(error)) from None


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
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except Exception as error:
        raise YamlError(first_line(error)) from None


def dump(tree: dict[str, Any]) -> str:
    """A plain tree as yaml text that `parse` reads back as the same."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(tree))
