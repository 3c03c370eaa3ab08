"""Lists of MONAI transforms in settings: names and files become lists, and mistakes are said before work starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config.sources import CONF, Gathered, names
from ssl_med.catalogue import nearest
from ssl_med.config import COMMAND_LINE, Given
from ssl_med.evaluation.tasks import TaskConfig, mirror_axes
from ssl_med.reading import MB, UnreadableError, read_text
from ssl_med.spec import DataSpec, SslMedError
from ssl_med.transforms.samples.lists import NOTHING, TransformList, variables_of
from ssl_med.yaml_text import YamlError, parse

_BUILT_IN = ("flips", "flip_axes", "crop_scale", "rotation_deg")  # what a list takes the place of
_MIRROR = "mirror_axes"  # the variable by which a list takes flips and flip_axes into account


def read_list(value: Any, key: str) -> tuple[Any, ...]:
    """The entries that a setting means: a list, a name of conf/augment, or a file.

    Raises:
        SslMedError: no such list, or a file that holds none.
    """
    if not isinstance(value, str):
        return tuple(value)
    path, label = Path(value), label_of(value, key)
    if path.suffix not in (".yaml", ".yml"):
        if value not in names("augment"):
            hint = nearest(value, names("augment"))
            raise SslMedError(f"{key}: list '{value}' is unknown{hint}; or give a file, {key}=FILE.yaml")
        path = CONF / "augment" / f"{value}.yaml"
    if not path.is_file():
        raise SslMedError(
            f"{key}={value}: no such file; give a yaml file that holds a list of transforms, or a name of "
            "`ssl-med list augment`"
        )
    try:
        found = parse(read_text(path, limit=MB))
    except (UnreadableError, YamlError) as error:
        raise SslMedError(f"{label}: is no list of transforms ({error})") from None
    if not isinstance(found, list) or not found:
        raise SslMedError(f"{label}: must hold a list of transforms, '- _target_: RandFlipd' and its arguments")
    return tuple(found)


def label_of(value: Any, key: str) -> str:
    """How messages name a list."""
    if not isinstance(value, str):
        return key
    return value if Path(value).suffix in (".yaml", ".yml") else f"conf/augment/{value}.yaml"


def resolved(said: Gathered, parts: Mapping[str, Any], spec: DataSpec, *, augments: bool) -> dict[str, Any]:
    """The task of `parts` with its list read, after all lists of the request were checked.

    Args:
        said: who set what.
        parts: the sections.
        spec: of the data.
        augments: whether the command trains on labels; else task.augment means nothing to it.

    Raises:
        SslMedError: names the list, the entry and the remedy.
    """
    data, task = said.data, parts.get("task")
    labelled, used = spec.target != "none", set()
    if data.transforms:
        label = label_of(_given(said, "data", "transforms"), "data.transforms")
        listed = TransformList(data.transforms, label, data.allow, variables_of(spec))
        used |= _check(listed, spec, whole=labelled or bool(task and task.augment))
    if task is None or not task.augment:
        _check_allow(data.allow, used)
        return {} if task is None else {"task": task}
    if not augments:
        return {"task": _without(said, task)}
    entries = read_list(task.augment, "task.augment")
    _check_superseded(said, entries)
    if task.mirrored_test and not _mirrors(entries) and "Flip" not in json.dumps(entries, default=repr):
        raise SslMedError(
            f"task.mirrored_test mirrors as training does, and {label_of(task.augment, 'task.augment')} never mirrors; set "
            "task.mirrored_test=false, or give the list an entry RandFlipAxesd with axes: ${mirror_axes}"
        )
    given = replace(task, augment=entries)
    listed = augment_of(given, spec, data.allow, label=label_of(task.augment, "task.augment"))
    used |= _check(listed, spec, whole=False)
    _check_allow(data.allow, used)
    return {"task": given}


def _without(said: Gathered, task: TaskConfig) -> TaskConfig:
    """The task of a command that trains nothing: what a yaml says of training is left out, what the user says refused."""
    node = said.settings.section("task").tree["augment"]
    if isinstance(node, Given) and node.source == COMMAND_LINE:
        raise SslMedError("command line: task.augment changes the samples of a fine-tuning alone; leave it out")
    return replace(task, augment=())


def augment_of(task: TaskConfig, spec: DataSpec, allow: tuple[str, ...], label: str = "task.augment") -> TransformList:
    """The list of a fine-tuning."""
    if not task.augment:
        return NOTHING
    assert not isinstance(task.augment, str)
    return TransformList(task.augment, label, allow, variables_of(spec, mirror_axes(task, spec)))


_CHECKED: set[str] = set()  # a table composes the same run many times, and a trial takes seconds


def _check(listed: TransformList, spec: DataSpec, *, whole: bool) -> set[str]:
    """Packages that the list names, after it was tried."""
    said = repr((listed, spec, whole))
    if said not in _CHECKED:
        from ssl_med.transforms.samples.trial import check_pipeline  # MONAI's transforms take seconds to import

        check_pipeline(listed, spec, whole=whole)
        check_pipeline(replace(listed, random=False), spec, whole=whole)
        _CHECKED.add(said)
    return set(_packages(listed.entries))


def _packages(value: Any) -> list[str]:
    """First words of all targets with dots."""
    if isinstance(value, Mapping):
        word = value.get("_target_")
        own = [word.partition(".")[0]] if isinstance(word, str) and "." in word else []
        return own + [found for one in value.values() for found in _packages(one)]
    return [found for one in value for found in _packages(one)] if isinstance(value, list | tuple) else []


def _check_allow(allow: tuple[str, ...], used: set[str]) -> None:
    for package in allow:
        if package not in used:
            raise SslMedError(f"data.allow names {package}, of which no list has a transform; leave it out")


def _given(said: Gathered, section: str, key: str) -> Any:
    node = said.settings.section(section).tree.get(key)
    return node.value if isinstance(node, Given) else node


def _mirrors(entries: tuple[Any, ...]) -> bool:
    """Whether a list takes flips and flip_axes into account."""
    return "${" + _MIRROR + "}" in json.dumps(entries, default=repr)


def _check_superseded(said: Gathered, entries: tuple[Any, ...]) -> None:
    """Refuses settings of the built-in augmentation that are set as strongly as the list that takes its place."""
    task, order = said.settings.section("task").tree, said.settings.order
    chosen = task.get("augment")
    rank = order.index(chosen.source) if isinstance(chosen, Given) else 0
    mirrors = _mirrors(entries)
    for key in _BUILT_IN:
        node = task.get(key)
        if not isinstance(node, Given) or order.index(node.source) < rank or (mirrors and key.startswith("flip")):
            continue
        raise SslMedError(
            f"{node.source}: task.{key} has no effect, task.augment takes the place of the built-in augmentation; leave one out"
            + (", or give the list an entry RandFlipAxesd with axes: ${mirror_axes}" if key.startswith("flip") else "")
        )
