"""What there is, by kind: the name of each thing and one line that says what it is; read from files, nothing is imported."""

from __future__ import annotations

import re
from collections.abc import Callable

from experiments.config.protocols import PACKAGE
from experiments.config.schema import docstring, settings
from experiments.config.sources import BACKBONES, CONF, names, presets
from ssl_med.catalogue import list_names


def _methods() -> dict[str, str]:
    return {name: first_sentence(docstring(f"ssl_med.methods.{name}")) for name in names("method")}


def _backbones() -> dict[str, str]:
    networks = list_names(BACKBONES)
    return {
        name: first_sentence(docstring(f"{BACKBONES}.{name}")) if name in networks else comment("backbone", name)
        for name in names("backbone")
    }


def _protocols() -> dict[str, str]:
    return {name: first_sentence(docstring(f"{PACKAGE}.{name}")) for name in list_names(PACKAGE)}


def _tables() -> dict[str, str]:
    return {name: comment("../tables", name) for name in names("table")}


def _augment() -> dict[str, str]:
    """Lists of transforms for task.augment; and random changes that settings switch, of fine-tunings and of views."""
    lists = {name: comment("augment", name) for name in names("augment")}
    task = {
        f"task.{item.name}": item.help
        for item in settings("ssl_med.evaluation.tasks:TaskConfig")
        if "augm" in item.help
    }
    return lists | task | {f"method.view.{x.name}": x.help for x in settings("ssl_med.methods.core.pair:ViewConfig")}


def _phantoms() -> dict[str, str]:
    return {
        name: first_sentence(docstring(f"datamodules.phantoms.{name}")) for name in list_names("datamodules.phantoms")
    }


def _families() -> dict[str, str]:
    return {name: first_sentence(docstring(f"ssl_med.weights.{name}")) for name in list_names("ssl_med.weights")}


def _exporters() -> dict[str, str]:
    package = "ssl_med.weights.export"
    return {name: first_sentence(docstring(f"{package}.{name}")) for name in list_names(package)}


def _features() -> dict[str, str]:
    found = {name: first_sentence(docstring(f"ssl_med.features.{name}")) for name in list_names("ssl_med.features")}
    return dict(
        sorted({**found, "correlation": first_sentence(docstring("ssl_med.reports.numbers.correlation"))}.items())
    )


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    "methods": _methods,
    "presets": presets,
    "backbones": _backbones,
    "data": lambda: {name: comment("data", name) for name in names("data")},
    "tasks": lambda: {name: comment("task", name) for name in names("task")},
    "protocols": _protocols,
    "tables": _tables,
    "maps": lambda: {name: comment("map", name) for name in names("map")},
    "recipes": lambda: {name: comment("recipe", name) for name in names("recipe")},
    "augment": _augment,
    "families": _families,
    "exporters": _exporters,
    "features": _features,
    "phantoms": _phantoms,
}


def comment(group: str, name: str) -> str:
    """First sentence of the comment that conf/GROUP/NAME.yaml opens with, on one line."""
    lines: list[str] = []
    for line in (CONF / group / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or (lines and text[:1].isupper()):
            break
        lines.append(text)
    return first_sentence(" ".join(lines))


def first_sentence(text: str) -> str:
    """Up to the first full stop that a new sentence follows, without it."""
    flat = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<!al)(?<!e\.g)(?<!Fig)(?<!Sec)\.(?= +[A-Z])", flat)[0].rstrip(".")
