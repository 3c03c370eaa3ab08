"""What a command of `ssl-med` takes, read from its file in commands/, and the check of a request against it.

A command's file holds, as literals at its top: USAGE, EXAMPLES (two or more), NAMES (what `NAME=...` chooses), REQUIRED (which
of them must be given), SETTINGS (section -> dataclass of its keys; "" for keys without one), OPTIONS (`--word` -> meaning) and
DEFAULTS (what is filled in when it is left out, see config/defaults.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from experiments.config.analyses import PACKAGE as ANALYSES
from experiments.config.protocols import probes, settings_of
from experiments.config.schema import Setting, constant, docstring, settings
from experiments.config.sources import check_name, names, read_conf
from ssl_med.catalogue import list_names, nearest
from ssl_med.spec import SslMedError

COMMANDS = "experiments.commands"
CORRELATION = "correlation"  # relates finished analyses to transfer scores: no analysis of its own
FAMILY = "datamodules.core.configs:CommonConfig"  # what every data set has


@dataclass(frozen=True)
class Command:
    """One file of commands/."""

    name: str
    sentence: str
    usage: str
    examples: tuple[str, ...]
    names: tuple[str, ...]
    required: tuple[str, ...]
    sections: Mapping[str, str]
    options: Mapping[str, str]
    defaults: tuple[str, ...]


def commands() -> list[str]:
    """Every command, sorted."""
    return list_names(COMMANDS)


@cache
def command(name: str) -> Command:
    """What a command's file says.

    Raises:
        SslMedError: there is no such command; the text offers the nearest.
    """
    if name not in commands():
        raise SslMedError(f"command '{name}' is unknown{nearest(name, commands())}")
    module = f"{COMMANDS}.{name}"
    first = docstring(module).partition("\n")[0].partition(": ")[2].rstrip(".")
    return Command(
        name,
        first,
        constant(module, "USAGE"),
        constant(module, "EXAMPLES"),
        constant(module, "NAMES", ()),
        constant(module, "REQUIRED", ()),
        constant(module, "SETTINGS", {}),
        constant(module, "OPTIONS", {}),
        constant(module, "DEFAULTS", ()),
    )


def chosen(about: Command, arguments: Sequence[str]) -> dict[str, str]:
    """Values of the `NAME=...` among the arguments, each checked against what there is.

    Raises:
        SslMedError: a name is unknown.
    """
    found = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in about.names and value:
            offered = options_of(key)
            if offered and value not in offered and not value.endswith(".yaml"):
                if key in ("protocol", "kind", "map"):
                    raise SslMedError(f"{key} '{value}' is unknown{nearest(value, offered)}")
                check_name(key, value)
            found[key] = value
    return found


def options_of(group: str) -> list[str]:
    """What `GROUP=` can be."""
    if group == "protocol":
        return probes()
    if group == "kind":
        return sorted([*list_names(ANALYSES), CORRELATION])
    return ["same", *names("map")] if group == "map" else names(group)


def default_data(method: str) -> str:
    """Data set that a method is pretrained on unless another is named: that of its paper, or the nearest that is public."""
    return str(read_conf("method", method.partition("/")[0]).tree["default_data"])


def data_of(picked: Mapping[str, str]) -> str:
    """Data set that a request reads: that which it names, or that of its task; "" when it names neither."""
    if "data" in picked or "task" not in picked:
        return picked.get("data", "")
    return str(read_conf("task", picked["task"]).section("data").tree.get("name", ""))


def schemas(about: Command, picked: Mapping[str, str]) -> dict[str, tuple[Setting, ...]]:
    """Section -> its settings, for the names that a request chooses; a section of an unchosen name is left out."""
    found: dict[str, tuple[Setting, ...]] = {}
    for section, references in about.sections.items():
        if not references:
            found[section] = (Setting("KEY", "dict", {}, ""),)
        elif all(reference is not None for reference in _filled(references, picked)):
            merged: dict[str, Setting] = {}
            for reference in _filled(references, picked):
                name, _, only = str(reference).partition(" ")
                merged |= {item.name: item for item in settings(name) if not only or item.name in only.split()}
            found[section] = tuple(merged.values())
    return found


def _filled(references: str, picked: Mapping[str, str]) -> Iterator[str | None]:
    """The references of a section, of which some depend on names; None for one whose name is not given."""
    for reference in references.split(" + "):
        if "{method}" in reference:
            name = picked.get("method", "").partition("/")[0]
            yield reference.format(method=name) if name else None
        elif "{data}" in reference:
            name = data_of(picked)
            yield reference.format(data=name) if name else FAMILY
        elif "{online}" in reference:
            yield reference.format(online=data_of({"task": picked["online.task"]})) if "online.task" in picked else None
        elif "{backbone}" in reference:  # yamls may choose it: the keys of all, of which the full validation takes some
            yield from (reference.format(backbone=name) for name in list_names("ssl_med.networks.backbones"))
        elif reference == "{protocol}":
            found = settings_of(picked.get("protocol", ""))
            yield from found or (None,)
        elif reference == "{kind}":
            kind = picked.get("kind", CORRELATION)
            yield f"{ANALYSES}.{kind}:Config" if kind != CORRELATION else None
        else:
            yield reference


def check(about: Command, arguments: Sequence[str]) -> dict[str, str]:
    """Refuses an unknown name, option or key before anything slow is imported; returns the names, with a method's default data.

    Types and contradictions are left to the full validation.

    Raises:
        SslMedError: with the nearest that there is, or all that is missing at once.
    """
    for argument in arguments:
        option = argument.partition("=")[0]
        if option.startswith("--") and option not in about.options:
            known = nearest(option, list(about.options)) if about.options else "; it has none"
            raise SslMedError(f"{about.name}: option '{option}' is unknown{known}")
    picked = chosen(about, arguments)
    missing = [name for name in about.required if name not in picked]
    if missing:
        raise SslMedError(
            "; ".join(f"{name}=NAME is missing; there are: {', '.join(options_of(name))}" for name in missing)
        )
    given = dict(argument.partition("=")[::2] for argument in arguments if "=" in argument and argument[:1] != "-")
    if given.get("online.task"):
        check_name("task", given["online.task"])
        picked["online.task"] = given["online.task"]
    if "data" in about.defaults and "data" not in picked:
        picked["data"] = default_data(picked["method"])
    known_now = schemas(about, picked)
    for key in given:
        if about.sections and key not in about.names:
            _check_key(about, key, known_now)
    return {key: value for key, value in picked.items() if key in about.names}


def _check_key(about: Command, key: str, known: Mapping[str, tuple[Setting, ...]]) -> None:
    top, _, rest = key.partition(".")
    loose = {item.name: item for item in known.get("", ())}
    if top not in about.sections and top not in loose:
        raise SslMedError(f"command line: key '{top}' is unknown{nearest(top, _all_keys(about, loose))}")
    nested = key.rpartition(".")[0]  # online.data.root: a section of a section
    section = next((name for name in (nested, top) if name in about.sections), "")
    if section:
        inside, path = known.get(section), key.removeprefix(section).lstrip(".")
    else:
        inside, path = loose[top].inside, rest
    spelled = section or top
    while path and inside and not any(item.open and item.name == "KEY" for item in inside):
        name, _, path = path.partition(".")
        found = {item.name: item for item in inside}
        if name not in found and not (section and any(s.startswith(f"{spelled}.{name}") for s in about.sections)):
            raise SslMedError(f"command line: key '{spelled}.{name}' is unknown{nearest(name, list(found))}")
        inside = found[name].inside if name in found else ()
        spelled = f"{spelled}.{name}"


def _all_keys(about: Command, loose: Mapping[str, Setting]) -> list[str]:
    return list(dict.fromkeys([*about.names, *(s.partition(".")[0] for s in about.sections if s), *loose]))
