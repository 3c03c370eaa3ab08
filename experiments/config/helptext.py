"""What `ssl-med -h` and `ssl-med COMMAND -h` print, from the commands' files and the source of their settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.config.schema import Computed, Setting
from experiments.config.sources import read_conf, yamls_of
from experiments.config.usage import Command, chosen, command, commands, data_of, options_of, schemas

WIDTH = 110
# section -> the name that gives its keys
ASKED_BY = {"online.data": "online.task", "probe": "protocol", "features": "kind"}
OVERVIEW = """\
usage: ssl-med COMMAND [NAME=... key=value ...]

{commands}

`ssl-med COMMAND -h` lists the settings of a command with type, default and meaning; with method=NAME, data=NAME or task=NAME
also theirs. `ssl-med list` says what there is, `ssl-med show NAME` what one of it is. Any setting is an override, key=value.
config=FILE takes settings from a yaml file, such as `ssl-med plan` writes; what is typed wins over it.
SSL_MED_DATA=DIR is where data sets lie (DIR/NAME, or a yaml file of NAME: DIR); data.root=DIR names the folder of one run.
"""


def overview() -> str:
    """One line for each command."""
    width = max(map(len, commands()))
    lines = [f"  {name:{width}}  {command(name).sentence}" for name in commands()]
    return OVERVIEW.format(commands="\n".join(lines))


def of_command(about: Command, arguments: Sequence[str]) -> str:
    """Usage, examples and every setting of a command, for the names among the arguments.

    Raises:
        SslMedError: an unknown name.
    """
    picked = chosen(about, arguments)
    parts = [f"ssl-med {about.name}: {about.sentence}\n\nusage: {about.usage}\n"]
    parts.append("examples:\n" + "".join(f"  {example}\n" for example in about.examples))
    if about.options:
        width = max(map(len, about.options))
        parts.append("options:\n" + "".join(f"  {word:{width}}  {text}\n" for word, text in about.options.items()))
    known, recipe = schemas(about, picked), recipe_of(picked)
    if about.names:
        parts.append("names:\n" + "".join(f"{line}\n" for name in about.names for line in _choices(name)))
    for section in about.sections:
        if section not in known:
            name = ASKED_BY.get(section, section)
            parts.append(f"{section}.KEY: add {name}=NAME before -h to see its settings\n")
            continue
        rows = list(rows_of(section, known[section], recipe))
        title = f"settings {section}.*" if section else "settings"
        if section == "data" and not data_of(picked):
            title += " of every data set (add data=NAME for all of one)"
        parts.append(f"{title}:\n" + "".join(map(_entry, rows)))
    return "\n".join(parts)


def rows_of(
    section: str, items: Sequence[Setting], recipe: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of each setting, those of nested ones with their dotted key."""
    for item in items:
        key = f"{section}.{item.name}" if section else item.name
        if item.inside:
            yield from rows_of(key, item.inside, recipe)
        else:
            default = (recipe or {}).get(key, "{}").replace("{}", spell(item.default))
            yield key, item.type, default, item.help


def spell(value: Any) -> str:
    """A default as it is given on the command line."""
    if isinstance(value, Computed):
        return f"({value.text})" if value.text else ""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(spell, value)) + "]"
    return str(value) if value != "" else "''"


def recipe_of(picked: Mapping[str, str]) -> dict[str, str]:
    """Key -> value and the file that sets it, of the yamls behind the chosen names; then what dimensions or trainer change."""
    layers = []
    for group, name in (
        ("data", data_of(picked)),
        *((g, picked.get(g, "")) for g in ("method", "task", "recipe", "trainer")),
    ):
        layers += [read_conf(group, one) for one in yamls_of(name)]
    plain: dict[str, str] = {}
    special: dict[str, dict[str, str]] = {}
    for layer in layers:
        for key, value in _flat(layer.tree):
            when, _, inner = key.partition(".")
            if not when.startswith("when_"):
                plain[key] = f"{spell(value)} ({layer.source})"
            elif when[5:] in ("2d", "3d", "coloured", picked.get("trainer")):
                special.setdefault(inner, {})[when[5:]] = f"{when[5:]}: {spell(value)}"
    return {
        key: "; ".join([*([plain[key]] if key in plain else ["{}"]), *special.get(key, {}).values()])
        for key in {**plain, **special}
    }


def _flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _choices(name: str) -> list[str]:
    text = f"{name}=NAME  one of " + ", ".join(options_of(name)) if options_of(name) else f"{name}=..."
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="      ")


def _entry(row: tuple[str, str, str, str]) -> str:
    key, kind, default, text = row
    head = f"  {key}  <{kind}>  default {default}\n" if default else f"  {key}  <{kind}>\n"
    return head + "".join(f"      {line}\n" for line in textwrap.wrap(text, WIDTH - 6))
