"""Layers of yaml and `a.b=c` overrides over dataclass defaults; every mistake is one line that names its file and key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ssl_med.catalogue import nearest
from ssl_med.ranges import range_of
from ssl_med.reading import MB, UnreadableError, read_text
from ssl_med.setting import LEVELS, Affects, marks
from ssl_med.spec import SslMedError
from ssl_med.values import OutOfRangeError, Text, WrongValueError, convert, parse_yaml, shown, type_words
from ssl_med.yaml_text import YamlError, dump, parse

T = TypeVar("T")
Tree = dict[str, Any]
COMMAND_LINE = "command line"
_DEEPEST = 30  # dots of a key


@dataclass(frozen=True)
class Layer:
    """One source of settings: where it comes from, as the user would name it, and its tree.

    Leaves are plain values, or `Text` where they were typed as overrides and their field's type is still to be known.
    """

    source: str
    tree: Tree

    def section(self, name: str) -> Layer:
        """The part below one top-level key, empty when absent."""
        value = self.tree.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise SslMedError(f"{self.source}: '{name}' must be a mapping of keys, not {shown(value)}")
        return Layer(self.source, dict(value))


def read_yaml(path: Path, source: str) -> Layer:
    """Reads one yaml file; an unreadable or malformed file is an `SslMedError` that names the line."""
    try:
        tree = parse(read_text(path, limit=MB))
    except UnreadableError as error:
        raise SslMedError(f"{source}: {error}") from None
    except YamlError as error:
        raise SslMedError(f"{source}: is not valid yaml ({error})") from None
    if not isinstance(tree, dict):
        raise SslMedError(f"{source}: must hold a mapping at the top")
    return Layer(source, {str(key): value for key, value in tree.items()})


def parse_overrides(overrides: Iterable[str]) -> Layer:
    """`["seed=1", "data.root=/x"]` -> one layer named "command line", whose values are texts as they were typed."""
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise SslMedError(f"{COMMAND_LINE}: '{override}' is not of the form key=value")
        node = tree
        *parents, leaf = key.split(".")
        if len(parents) > _DEEPEST:
            raise SslMedError(f"{COMMAND_LINE}: '{key[:40]}…' has {len(parents)} dots; no setting lies so deep")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise SslMedError(f"{COMMAND_LINE}: '{key}' and '{parent}' contradict each other")
        if isinstance(node.get(leaf), dict):
            raise SslMedError(f"{COMMAND_LINE}: '{key}={text}' contradicts an earlier '{key}.…'")
        if leaf in node:
            raise SslMedError(f"{COMMAND_LINE}: '{key}' is given twice")
        node[leaf] = Text(text)
    return Layer(COMMAND_LINE, tree)


def build(schema: type[T], layers: Sequence[Layer], *, prefix: str) -> T:
    """Dataclass defaults overlaid by each layer in turn -> an instance of `schema`.

    Args:
        schema: a dataclass whose defaults are the paper's.
        layers: sections that belong to this schema, weakest first.
        prefix: how the user spells the section, "method" or "optim"; "" for the top level.

    Raises:
        SslMedError: unknown key, wrong type, contradiction (raised by the schema's own `__post_init__`).
    """
    return Settings.merged(layers).build(schema, prefix=prefix)


@dataclass(frozen=True)
class Given:
    """A value and who gave it.

    * below: the mapping of weaker layers that a text might extend: `view={flip: 0.5}`. * weaker: what it replaced.
    """

    value: Any
    source: str
    below: dict[str, Node] | None = None
    weaker: Given | None = None


Node: TypeAlias = "Given | dict[str, Node]"


@dataclass(frozen=True)
class Settings:
    """All layers merged into one tree that remembers for each key who set it; `order` lists the sources, weakest first."""

    tree: dict[str, Node]
    order: tuple[str, ...]

    @classmethod
    def merged(cls, layers: Sequence[Layer]) -> Settings:
        """Each layer laid over those before it, mappings key by key."""
        tree: dict[str, Node] = {}
        for layer in layers:
            _lay(tree, layer.tree, layer.source)
        return cls(tree, tuple(layer.source for layer in layers))

    def section(self, name: str) -> Settings:
        """The part below one top-level key, empty when absent."""
        node = self.tree.get(name, {})
        if isinstance(node, Given):
            if node.value is not None:
                raise SslMedError(f"{node.source}: '{name}' must be a mapping of keys, not {shown(node.value)}")
            node = {}
        return Settings(node, self.order)

    def top(self, keys: Iterable[str]) -> Settings:
        """Some top-level keys alone."""
        return Settings({key: self.tree[key] for key in keys if key in self.tree}, self.order)

    def sources(self) -> dict[str, str]:
        """Dotted key -> who set it."""
        return {key: given.source for key, given in _leaves(self.tree)}

    def build(self, schema: type[T], *, prefix: str) -> T:
        """An instance of `schema`, each value converted to the type of its field; see `build`."""
        found: T = self._instance(schema, self.tree, prefix, None)
        return found

    def build_sections(self, **schemas: type) -> dict[str, Any]:
        """Section -> instance of its schema."""
        return {name: self.section(name).build(schema, prefix=name) for name, schema in schemas.items()}

    def changes(self, schema: type, source: str) -> dict[str, Any]:
        """Key -> value of the fields whose values a source changes, of those that are no mappings."""
        found = {}
        for key, node in self.tree.items():
            if isinstance(node, Given) and node.source == source and key in (hints := _hints(schema)):
                value = _converted(hints[key], node, key)
                weaker = default_of(schema, key) if node.weaker is None else _converted(hints[key], node.weaker, key)
                if value != weaker:
                    found[key] = value
        return found

    def over(self, layer: Layer) -> Settings:
        """These settings with a stronger layer laid over them."""
        tree = _copied(self.tree)
        _lay(tree, layer.tree, layer.source)
        return Settings(tree, (*self.order, layer.source))

    def _instance(self, schema: Any, tree: dict[str, Node], prefix: str, default: Any) -> Any:
        hints = _hints(schema)
        values = {} if default is None else {name: getattr(default, name) for name in hints}
        for key, node in tree.items():
            where = f"{prefix}.{key}" if prefix else key
            if key not in hints:
                source = next(given.source for _, given in _leaves({key: node}))
                raise SslMedError(f"{source}: key '{where}' is unknown{nearest(key, list(hints))}")
            below = default_of(schema, key) if default is None else getattr(default, key)
            values[key] = self._value(hints[key], node, where, below)
        try:
            return schema(**values)
        except SslMedError as error:
            source = self._blamed(str(error), tree, prefix)
            raise SslMedError(f"{source}: {error}" if source else str(error)) from None

    def _value(self, hint: Any, node: Node, where: str, default: Any) -> Any:
        schema = dataclasses.is_dataclass(hint)
        if not schema and typing.get_origin(hint) is not dict:
            return _converted(hint, node, where)
        tree = _mapping(hint, node, where)
        if schema:
            return self._instance(hint, tree, where, default)
        inner = typing.get_args(hint)[1]
        return {
            **(default or {}),
            **{key: self._value(inner, one, f"{where}.{key}", None) for key, one in tree.items()},
        }

    def _blamed(self, message: str, tree: dict[str, Node], prefix: str) -> str:
        """The strongest source among those of the keys that a complaint names, else among those of the whole section."""
        given = {".".join(filter(None, (prefix, path))): found.source for path, found in _leaves(tree)}
        named = [
            source for key, source in given.items() if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", message)
        ]
        return max(named or given.values(), key=self.order.index, default="")


def _copied(tree: dict[str, Node]) -> dict[str, Node]:
    return {key: node if isinstance(node, Given) else _copied(node) for key, node in tree.items()}


def _lay(below: dict[str, Node], above: Mapping[Any, Any], source: str) -> None:
    for key, value in above.items():
        if not isinstance(key, str):
            raise SslMedError(f"{source}: key {key!r} must be text: put it in quotes")
        old = below.get(key)
        if isinstance(value, Mapping):
            inner = old if isinstance(old, dict) else {}
            below[key] = inner
            _lay(inner, value, source)
        else:
            extended = old if isinstance(old, dict) and isinstance(value, Text) else None
            below[key] = Given(value, source, extended, old if isinstance(old, Given) else None)


def _leaves(tree: dict[str, Node], prefix: str = "") -> Iterator[tuple[str, Given]]:
    """Dotted path and leaf of everything that was given."""
    for key, node in tree.items():
        if isinstance(node, Given):
            yield prefix + key, node
        else:
            yield from _leaves(node, f"{prefix}{key}.")


def _converted(hint: Any, node: Node, where: str) -> Any:
    if isinstance(node, dict):
        tree = _plain(node)
        if hint is Any:
            return tree
        source = next((given.source for _, given in _leaves(node)), "")
        raise SslMedError(f"{source}: '{where}' is {tree!r}; it must be {type_words(hint)}")
    try:
        return convert(hint, node.value)
    except WrongValueError as error:
        raise SslMedError(_explain(node, where, hint, error)) from None


def _plain(node: Node) -> Any:
    """A mapping without its sources; texts are read as yaml."""
    if isinstance(node, Given):
        return convert(Any, node.value)
    return {key: _plain(one) for key, one in node.items()}


def _mapping(hint: Any, node: Node, where: str) -> dict[str, Node]:
    """The keys below a node, also where they are given as one text: `view={flip: 0.5}`."""
    if isinstance(node, dict):
        return node
    try:
        value = parse_yaml(node.value) if isinstance(node.value, Text) else node.value
        if not isinstance(value, Mapping):
            raise WrongValueError
    except WrongValueError as error:
        raise SslMedError(_explain(node, where, hint, error)) from None
    tree = dict(node.below or {})
    _lay(tree, value, node.source)
    return tree


def _explain(given: Given, where: str, hint: Any, error: WrongValueError) -> str:
    value = given.value
    if isinstance(error, OutOfRangeError):
        return f"{given.source}: '{where}' is {_plainly(value)}; {error.words}"
    if str(error):
        return f"{given.source}: the value of '{where}' cannot be parsed ({error})"
    quotes = hint is str and isinstance(value, bool | int | float)
    remedy = f"text: put it in quotes, {where.rpartition('.')[2]}: '{value}'" if quotes else type_words(hint)
    return f"{given.source}: '{where}' is {shown(value)}; it must be {remedy}"


def _plainly(value: Any) -> str:
    """A number as it was typed, a list as yaml has it."""
    return str(value) if isinstance(value, Text) else str(to_plain(value))


@cache
def _hints(schema: type) -> dict[str, Any]:
    hints = typing.get_type_hints(schema, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def hint_of(schema: type, path: str) -> Any:
    """Type of the field at a dotted path of a dataclass; None where there is none, or none declared."""
    hint: Any = schema
    for key in path.split("."):
        hint = _hints(hint).get(key) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None
    return range_of(hint)[0]


def default_of(schema: type, key: str) -> Any:
    """What a field holds that nobody sets."""
    field: dataclasses.Field[Any] = schema.__dataclass_fields__[key]  # type: ignore[attr-defined]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def to_plain(config: Any) -> Any:
    """A config (nested dataclasses, tuples) as plain yaml/JSON types."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return config


def keyed(config: Any, affects: Affects = "result") -> Any:
    """What identifies a config: `to_plain` of all that changes `affects` or more, each value as a hash names it."""
    if isinstance(config, list | tuple):
        return [keyed(value, affects) for value in config]
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        return to_plain(config)
    tree = {}
    for name, mark in marks(type(config)).items():
        value = getattr(config, name)
        if mark.affects in LEVELS[: LEVELS.index(affects) + 1] and to_plain(value) != mark.before:
            tree[name] = mark.named(value) if mark.named else keyed(value, affects)
    return tree


def path_keys(schema: type) -> list[str]:
    """Keys of a schema that name files or folders."""
    return [name for name, mark in marks(schema).items() if mark.path]


def to_yaml(tree: Tree) -> str:
    """Plain tree -> yaml text."""
    return dump(tree)


def config_hash(tree: Tree) -> str:
    """Eight hex digits that name a resolved config; key order does not matter."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
