"""Settings of a table as the overrides that start its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from experiments.comparison.trees import Tree, merge
from experiments.config.kinds import RunConfig
from experiments.config.sections import LoadingConfig
from experiments.config.sources import CONF, keys_of, names
from ssl_med.catalogue import nearest
from ssl_med.config import hint_of, read_yaml
from ssl_med.evaluation.protocols.finetune import InitConfig
from ssl_med.spec import SslMedError
from ssl_med.values import elements, spell, type_words


def grid(tune: Mapping[str, Sequence[Any]]) -> Iterator[tuple[tuple[str, Any], ...]]:
    """All combinations of the values of each key."""
    if not tune:
        yield ()
        return
    *rest, last = tune
    for head in grid({key: tune[key] for key in rest}):
        for value in tune[last]:
            yield (*head, (last, value))


def flatten(tree: Tree, prefix: str = "") -> list[str]:
    """A tree of settings as overrides of the command line."""
    overrides = []
    for key, value in tree.items():
        if isinstance(value, dict):
            overrides += flatten(value, f"{prefix}{key}.")
        else:
            overrides.append(f"{prefix}{key}={spell(value)}")
    return overrides


def with_setting(tree: Tree, key: str, value: Any) -> Tree:
    """The tree with one setting anew, its key spelled as an override: optim.lr."""
    first, dot, rest = key.partition(".")
    return merge(tree, {first: with_setting({}, rest, value) if dot else value})


@cache
def family_of(task: str) -> str:
    """Data set that a task is on."""
    if task not in names("task"):
        raise SslMedError(f"task '{task}' is unknown{nearest(task, names('task'))}")
    path = CONF / "task" / f"{task}.yaml"
    return str(read_yaml(path, f"conf/task/{path.name}").section("data").tree["name"])


def check_texts(config: RunConfig, overrides: Sequence[str]) -> None:
    """Refuses a number of the table where a text is asked for: yaml has made 1.1 of an unquoted 1.10 already."""
    for override in overrides:
        key, _, text = override.partition("=")
        section, _, path = key.partition(".")
        hint = hint_of(type(getattr(config, section, None)), path)
        found = elements(text) if text.startswith("[") and hint == tuple[str, ...] else [text]
        if hint in (str, tuple[str, ...]) and not all(one.startswith("'") for one in found):
            raise SslMedError(f"{key} is {text} in the table; it must be {type_words(hint)}: put it in quotes")


TOLD = ("map", "part", "uncertain")  # overrides of an external test, whose values are names as they are written


def told(key: str, value: Any) -> list[str]:
    """`map: tuberculosis` -> map=tuberculosis; `map: {Effusion: [Edema, Mass]}` -> map.Effusion=[Edema,Mass]."""
    if isinstance(value, dict):
        return [override for name, item in value.items() for override in told(f"{key}.{name}", item)]
    if isinstance(value, list):
        return [f"{key}={spell(value)}"]
    return [] if value is None else [f"{key}={spell(value)}"]


def for_probe(settings: Tree, *, without: Sequence[str] = ()) -> Tree:
    """Without what a run on a frozen encoder has no use for, and without further sections."""
    kept = {key: value for key, value in settings.items() if key not in ("optim", "tracking", *without)}
    for section, keys in (("trainer", keys_of(LoadingConfig)), ("transfer", keys_of(InitConfig))):
        if section in kept:
            kept[section] = {key: value for key, value in kept[section].items() if key in keys}
    return kept
