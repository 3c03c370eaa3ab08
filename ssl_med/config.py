"""Layers of yaml and `a.b=c` overrides over dataclass defaults; every mistake is one line that names its file and key."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
import json
import re
import typing
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssl_med.catalogue import nearest
from ssl_med.spec import SslMedError, first_line

T = TypeVar("T")
Tree = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One source of settings: where it comes from, as the user would name it, and its tree."""

    source: str
    tree: Tree

    def section(self, name: str) -> Layer:
        """The part below one top-level key, empty when absent."""
        value = self.tree.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise SslMedError(f"{self.source}: '{name}' must be a mapping of keys, not {value!r}")
        return Layer(self.source, dict(value))


def read_yaml(path: Path, source: str) -> Layer:
    """Reads one yaml file; an unreadable or malformed file is an `SslMedError` that names the line."""
    try:
        tree = OmegaConf.to_container(_parse(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SslMedError(f"{source}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # yaml's and omegaconf's own families of errors share no base class
        raise SslMedError(f"{source}: is not valid yaml ({first_line(error)})") from None
    if not isinstance(tree, dict):
        raise SslMedError(f"{source}: must hold a mapping at the top")
    return Layer(source, {str(key): value for key, value in tree.items()})


@cache
def _parse(text: str) -> Any:
    return OmegaConf.load(io.StringIO(text))


def parse_overrides(overrides: Iterable[str]) -> Layer:
    """`["seed=1", "data.root=/x"]` -> one layer named "command line"."""
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise SslMedError(f"command line: '{override}' is not of the form key=value")
        try:
            value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
        except Exception as error:
            raise SslMedError(f"command line: the value of '{key}' cannot be parsed ({first_line(error)})") from None
        node = tree
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise SslMedError(f"command line: '{key}' and '{parent}' contradict each other")
        if isinstance(node.get(leaf), dict):
            raise SslMedError(f"command line: '{key}={text}' contradicts an earlier '{key}.…'")
        if leaf in node:
            raise SslMedError(f"command line: '{key}' is given twice")
        node[leaf] = value
    return Layer("command line", tree)


def build(schema: type[T], layers: Sequence[Layer], *, prefix: str) -> T:
    """Dataclass defaults overlaid by each layer in turn -> an instance of `schema`.

    Args:
        schema: a dataclass whose defaults are the paper's.
        layers: sections that belong to this schema, weakest first.
        prefix: how the user spells the section, "method" or "optim"; "" for the top level.

    Raises:
        SslMedError: unknown key, wrong type, contradiction (raised by the schema's own `__post_init__`).
    """
    if not any(layer.tree for layer in layers):  # nothing is asked: the schema itself, which is quicker
        return schema()
    # A comparison composes thousands of sections, of which tens differ
    asked = (schema, prefix, *((layer.source, repr(layer.tree)) for layer in layers))
    if asked not in _built:
        _built[asked] = _build(schema, layers, prefix)
    result: T = copy.deepcopy(_built[asked])
    return result


_built: dict[Hashable, Any] = {}


def _build(schema: type[T], layers: Sequence[Layer], prefix: str) -> T:
    config = OmegaConf.structured(schema)
    last = "defaults"
    for layer in layers:
        if layer.tree:
            last = layer.source
        for key, given in layer.tree.items():
            value = _as_choice(schema, key, given)
            spelled = f"{prefix}.{key}" if prefix else key
            try:
                # nothing else holds it, so it need not be copied
                config = OmegaConf.unsafe_merge(config, {key: value})
            except (OmegaConfBaseException, ValueError) as error:
                raise SslMedError(_explain(layer.source, spelled, value, schema, key, error)) from None
    try:
        result = OmegaConf.to_object(config)
    except SslMedError as error:
        raise SslMedError(f"{last}: {error}") from None
    except OmegaConfBaseException as error:
        raise SslMedError(f"{last}: {prefix}: {first_line(error)}") from None
    assert isinstance(result, schema)
    return result


@cache
def _hints(schema: type) -> dict[str, Any]:
    return typing.get_type_hints(schema)


def _as_choice(schema: type, key: str, value: Any) -> Any:
    """A word among the choices of a key although yaml reads it as a number or a truth value: precision=32, wandb=off."""
    hint = _hints(schema).get(key)
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    word = {False: "off", True: "on"}[value] if isinstance(value, bool) else str(value)
    return word if value not in choices and word in choices else value


def _explain(source: str, spelled: str, value: Any, schema: type, key: str, error: Exception) -> str:
    bad = getattr(error, "full_key", None) or key
    names = [field.name for field in dataclasses.fields(schema)]
    if key not in names:
        return f"{source}: key '{spelled}' is unknown{nearest(key, names)}"
    inner = bad[len(key) + 1 :] if bad.startswith(f"{key}.") else ""
    where = f"{spelled}.{inner}" if inner else spelled
    reason = first_line(error)
    if "not in" in reason and inner:
        return f"{source}: key '{where}' is unknown ({reason})"
    return f"{source}: '{where}' is {value!r}; it must be {_type_words(_hints(schema)[key])}"


def _type_words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if hint in (int, float, bool, str):
        return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
    return str(hint)


def to_plain(config: Any) -> Any:
    """A config (nested dataclasses, tuples) as plain yaml/JSON types."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return config


def to_yaml(tree: Tree) -> str:
    """Plain tree -> yaml text."""
    return OmegaConf.to_yaml(OmegaConf.create(tree))


def config_hash(tree: Tree) -> str:
    """Eight hex digits that name a resolved config; key order does not matter."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
