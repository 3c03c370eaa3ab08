"""A setting's value from the text of an override or from yaml, as the type of its field asks.

An override stays the text that was typed until its field is known: `data.root=1.10` names a folder, `optim.lr=1.10` a number.

* text: verbatim; one pair of quotes around all of it is taken off, within which a doubled quote is one quote.
* lists: `[a,b]`, cut at commas; each element is read by its own type; quotes, and the brackets of a list of lists, protect a
  comma.
* numbers, truth values, choices: decimal numbers, true/false/yes/no/on/off, one of the words. A number lies in the range that
  its field declares (ssl_med/ranges.py); NaN and infinity lie in none.
* everything whose type is open (`Any`, mappings): yaml.
"""

from __future__ import annotations

import math
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ssl_med.ranges import Range, range_of
from ssl_med.yaml_text import YamlError, parse_value


class Text(str):
    """The value of an override as it was typed, of no type yet."""


class WrongValueError(Exception):
    """A value that is none of the type asked for."""


class OutOfRangeError(WrongValueError):
    """A number outside the range of its field; `words` say so: "it must be at least 1"."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words


_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_MOST_DIGITS = 20  # with the sign, of a whole number of 64 bits
_UNBOUNDED = re.compile(r"[+-]?\.?(inf|infinity|nan)", re.IGNORECASE)
_QUOTED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\""
_LIST = rf"\[(?:{_QUOTED}|[^\[\]'\"])*\]"  # within a list
_ELEMENT = re.compile(rf"\s*({_QUOTED}|{_LIST}|[^,]*?)\s*(,|\Z)", re.DOTALL)
_TRUTH = {word: True for word in ("true", "yes", "on", "y", "1")} | dict.fromkeys(
    ("false", "no", "off", "n", "0"), False
)
_SWITCH = {"true": "on", "false": "off"}
_NULL = ("null", "Null", "NULL", "~", "")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_PLURAL = {int: "whole numbers", float: "numbers", bool: "truth values", str: "texts"}


def convert(hint: Any, value: Any) -> Any:
    """The value as the type `hint`, from a `Text` by its spelling and from anything else without a change of meaning.

    Raises:
        WrongValueError: it is not of that type; `type_words(hint)` says what would be.
    """
    hint, allowed = range_of(hint)
    if allowed is not None:
        return _within(allowed, _number(hint, value))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return parse_yaml(value) if isinstance(value, Text) else value
    if origin is typing.Literal:
        return _choice(arguments, value)
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value)
    if origin in (list, tuple):
        return _sequence(origin, arguments, value)
    if origin is dict:
        tree = parse_yaml(value) if isinstance(value, Text) else value
        if not isinstance(tree, Mapping) or not all(isinstance(key, str) for key in tree):
            raise WrongValueError
        return {key: convert(arguments[1], item) for key, item in tree.items()}
    if hint is str:
        return _text(value)
    if hint is bool:
        return _truth(value)
    if hint in (int, float):
        return _within(Range(), _number(hint, value))
    raise TypeError(f"a setting cannot be of type {hint}")


def unquoted(text: str) -> str:
    """`'a'` -> `a`, `'it''s'` -> `it's`; everything that is not one quoted text stays as it is."""
    if not re.fullmatch(_QUOTED, text, re.DOTALL):
        return str(text)
    return str(text[1:-1]).replace(text[0] * 2, text[0])


def elements(text: str) -> list[Text]:
    """`[a, 'b,c']` -> a, 'b,c': the elements as they are typed, quotes included; `[[1,2],[3]]` -> [1,2] and [3].

    Raises:
        WrongValueError: there are no brackets around, or nothing between two commas.
    """
    if not (text.startswith("[") and text.endswith("]") and len(text) > 1):
        raise WrongValueError
    found = list(_split(text[1:-1]))
    if found and not found[-1]:
        found.pop()  # behind the last comma, or of []
    if not all(found):
        raise WrongValueError
    return found


def _split(inner: str) -> Iterator[Text]:
    position, comma = 0, ","
    while comma:
        match = _ELEMENT.match(inner, position)
        assert match is not None, "the bare alternative takes any text up to a comma or the end"
        position, comma = match.end(), match[2]
        yield Text(match[1])


def spell(value: Any) -> str:
    """A value as the text of an override that `convert` reads back as the same value, whatever its field is."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spell, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{spell(key)}: {spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    return "null" if value is None else f"{value!r}"


def parse_yaml(text: str) -> Any:
    """What a text means in yaml.

    Raises:
        WrongValueError: it is no yaml.
    """
    try:
        return parse_value(text)
    except YamlError as error:
        raise WrongValueError(str(error)) from None


def is_null(value: Any) -> bool:
    """Whether a value says that there is none."""
    return value is None or (isinstance(value, Text) and value in _NULL)


def shown(value: Any) -> str:
    """A value within a complaint: numbers bare, texts in quotes."""
    if isinstance(value, Text):
        return str(value) if _NUMBER.fullmatch(value) else repr(str(value))
    return repr(value)


def type_words(hint: Any) -> str:
    """What a value must be, in words: "a whole number", "one of 'a', 'b'", "a list of 3 numbers, each above 0"."""
    hint, allowed = range_of(hint)
    if allowed is not None:
        return ", ".join(filter(None, (type_words(hint), allowed.words())))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else type_words(one) for one in arguments)
    if origin in (list, tuple):
        open_ended = origin is list or Ellipsis in arguments
        count = "" if open_ended else f"{len(arguments)} "
        kind, allowed = range_of(arguments[0])
        each = f", each {allowed.words()}" if allowed is not None and allowed.words() else ""
        return f"a list of {count}{_PLURAL.get(kind, 'values')}{each}"
    if origin is dict:
        return "a mapping of keys"
    return _WORDS.get(hint, "a mapping of keys" if isinstance(hint, type) else "a value")


def _within(allowed: Range, value: Any) -> Any:
    complaint = allowed.complaint(value)
    if complaint:
        raise OutOfRangeError(f"it must be {complaint}")
    return value


def _text(value: Any) -> str:
    if isinstance(value, Text):
        return unquoted(value)
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise WrongValueError


def _truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = unquoted(value).lower() if isinstance(value, str) else str(value)
    if word not in _TRUTH:
        raise WrongValueError
    return _TRUTH[word]


def _number(kind: type, value: Any) -> int | float:
    if isinstance(value, str):
        text = unquoted(value)
        if kind is int and _WHOLE.fullmatch(text) and len(text) <= _MOST_DIGITS:
            return _whole(int(text))
        if kind is float and (_NUMBER.fullmatch(text) or _UNBOUNDED.fullmatch(text)):
            return float(text if _NUMBER.fullmatch(text) else text.replace(".", ""))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if kind is float:
            try:
                return float(value)
            except OverflowError:  # a whole number of hundreds of digits
                return math.copysign(math.inf, value)
        if isinstance(value, int):
            return _whole(value)
    raise WrongValueError


def _whole(number: int) -> int:
    if abs(number) >= 2**63:  # what torch, numpy and JSON readers take
        raise WrongValueError
    return number


def _choice(choices: tuple[Any, ...], value: Any) -> Any:
    """A word among the choices although yaml reads it as a number or a truth value: precision=32, wandb=off."""
    if isinstance(value, Text):
        word = unquoted(value)
        spelled = {str(choice): choice for choice in choices}
        words: tuple[Any, ...] = tuple(spelled[one] for one in (word, _SWITCH.get(word)) if one in spelled)
    else:
        words = (value, _SWITCH[str(value).lower()] if isinstance(value, bool) else str(value))
    for word in words:
        if any(word == choice and type(word) is type(choice) for choice in choices):
            return word
    raise WrongValueError


def _one_of(hints: tuple[Any, ...], value: Any) -> Any:
    if type(None) in hints and is_null(value):
        return None
    outside = WrongValueError()
    for hint in hints:
        if hint is not type(None):
            try:
                return convert(hint, value)
            except OutOfRangeError as error:
                outside = error
            except WrongValueError:
                continue
    raise outside


def _sequence(origin: type, arguments: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, Text):
        plain = all(one in (int, float, bool, str, Ellipsis) or typing.get_origin(one) for one in arguments)
        value = elements(value) if plain else parse_yaml(value)
    if not isinstance(value, list | tuple):
        raise WrongValueError
    open_ended = origin is list or Ellipsis in arguments
    if not open_ended and len(value) != len(arguments):
        raise WrongValueError
    hints = [arguments[0]] * len(value) if open_ended else arguments
    try:
        return origin(convert(hint, item) for hint, item in zip(hints, value, strict=True))
    except OutOfRangeError as error:
        raise OutOfRangeError(error.words.replace("it must", "each must", 1)) from None
