"""Settings that would change nothing are refused: each says at its field with what it has an effect (`setting(needs=...)`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ssl_med.config import COMMAND_LINE, Settings, to_plain
from ssl_med.setting import FACTS, Mark, Needs, Other, marks
from ssl_med.spec import DataSpec, SslMedError

SECTIONS = (
    "method",
    "data",
    "backbone",
    "task",
    "labels",
    "transfer",
    "probe",
    "features",
    "images",
    "optim",
    "trainer",
    "tracking",
)
_LABELS = {"class": "classes", "multilabel": "findings", "mask": "masks", "none": "none"}


def facts_of(kind: str, spec: DataSpec) -> dict[str, Any]:
    """What a run is about, by the names of `FACTS`."""
    colours = "coloured" if spec.coloured else "grey"
    return {"run": kind, "dims": f"{spec.spatial_dims}D", "labels": _LABELS[spec.target], "colours": colours}


def sections_of(config: Any) -> dict[str, Any]:
    """Section -> its dataclass, of a run; "" for the keys without a section."""
    return {"": config.general, **{name: getattr(config, name) for name in SECTIONS if hasattr(config, name)}}


def refuse_without_effect(sections: Mapping[str, Any], given: Settings, facts: Mapping[str, Any]) -> None:
    """Refuses what the command line sets to another value although nothing of the run would change.

    Args:
        sections: section -> its dataclass; "" for keys without a section.
        given: who set what.
        facts: by the names of `FACTS`.

    Raises:
        SslMedError: the first such setting, why it has no effect, and with what it would have one.
    """
    for section, config in sections.items():
        if dataclasses.is_dataclass(config):
            _refuse(section, config, given.section(section) if section else given, sections, facts)


def _refuse(section: str, config: Any, given: Settings, sections: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    changed = given.changes(type(config), COMMAND_LINE)
    for key in changed:
        where = f"{section}.{key}" if section else key
        reason = why_without(section, config, key, sections, facts)
        if reason:
            raise SslMedError(f"{COMMAND_LINE}: {where}={_short(changed[key])} has no effect, since {reason}")
    for key, node in given.tree.items():
        inner = getattr(config, key, None)
        if isinstance(node, dict) and dataclasses.is_dataclass(inner):
            where = f"{section}.{key}"
            below = given.section(key).changes(type(inner), COMMAND_LINE)
            reason = why_without(section, config, key, sections, facts) if below else ""
            if reason:  # of all that the section holds
                first, value = next(iter(below.items()))
                raise SslMedError(f"{COMMAND_LINE}: {where}.{first}={_short(value)} has no effect, since {reason}")
            _refuse(where, inner, given.section(key), {**sections, where: inner}, facts)


def why_without(section: str, config: Any, key: str, sections: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """Why a setting of a section has no effect; "" where it has one."""
    alternatives = _marks(config)[key].needs
    reasons = [list(_unmet(needs, section, sections, facts)) for needs in alternatives]
    return reasons[0][0] if reasons and all(reasons) else ""


def _marks(config: Any) -> dict[str, Mark]:
    schema: Any = type(config)
    return marks(schema)


def _unmet(needs: Needs, section: str, sections: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    """Why each condition of a mapping that does not hold does not; one about what is not known holds."""
    for name, allowed in needs.items():
        if name in FACTS:
            if name in facts and facts[name] not in allowed:
                yield f"{FACTS[name].format(facts[name])}; leave it out"
            continue
        other, _, key = name.rpartition(".") if "." in name else (section, "", name)
        config = sections.get(other)
        if config is None or not hasattr(config, key):
            continue
        value = getattr(config, key)
        if value not in allowed:
            spelled = f"{other}.{key}" if other else key
            instead = "" if allowed == () else f", or set {_wanted(spelled, allowed)}"
            yield f"{spelled} is {_short(value)}; leave it out{instead}"


def _wanted(spelled: str, allowed: Any) -> str:
    if isinstance(allowed, Other):
        return f"{spelled} to another value"
    return " or ".join(f"{spelled}={_short(value)}" for value in allowed)


def _short(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_short, to_plain(value))) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else "empty"
