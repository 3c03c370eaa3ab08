"""Files that somebody else may have made: read within a bound, parsed strictly, compared with the types they must have.

Whatever stands in such a file, these functions end with a value or with an `UnreadableError`, whose text says why in one line;
who called them adds the name of the file and what to do about it.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

MB = 2**20
LIMIT = 64 * MB  # bytes of one file; a value of Python takes up to 20 times the memory of its text
DEEPEST = (
    100  # lists and objects within each other; Python gives up at 1000, and so does everything that walks through them
)
# UTF-32 before UTF-16, whose mark it begins with
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LARGEST = 2**63  # whole numbers of a file fit into 64 bits
_HEADER = 100 * MB  # of a safetensors file, as its own library has it
# what a download or a clone leaves in place of a file; no file of weights or arrays can begin so
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|!--)", re.IGNORECASE)


class UnreadableError(ValueError):
    """A file cannot be read, or holds something else than it should; says why in one line."""


def read_bytes(path: Path, *, limit: int = LIMIT) -> bytes:
    """The content of a file of at most `limit` bytes; of a larger one no more than that is read.

    Raises:
        UnreadableError: no such file, a folder, no permission, or too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except IsADirectoryError:
        raise UnreadableError("is a folder, not a file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if len(content) > limit:
        raise UnreadableError(f"is larger than {limit / MB:g} MB")
    return content


def read_text(path: Path, *, limit: int = LIMIT, damaged: bool = False) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 that says so by a byte order mark, without that mark.

    Other encodings have no mark, and a guess would change names in silence. `damaged`: bytes that are no text become the
    replacement sign.

    Raises:
        UnreadableError: as `read_bytes`, or another encoding.
    """
    content = read_bytes(path, limit=limit)
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding, errors="replace" if damaged else "strict")
    except UnicodeDecodeError as error:
        found = "UTF-8" if encoding == "utf-8-sig" else encoding.upper()
        raise UnreadableError(f"is not {found} (byte {error.start}); save it as UTF-8") from None


def read_json(path: Path, *, limit: int = LIMIT) -> Any:
    """The plain values of a JSON file.

    Raises:
        UnreadableError: as `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, limit=limit))


def parse_json(text: str) -> Any:
    """Plain values of a JSON text.

    Refused besides what is no JSON: NaN and Infinity, numbers beyond 64 bits, a key twice in one object, more than `DEEPEST`
    brackets within each other. Python's own parser accepts the first three, and fails on the last with a `RecursionError`.

    Raises:
        UnreadableError: says why.
    """
    try:
        tree = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_whole, parse_float=_decimal
        )
    except UnreadableError:
        raise
    except RecursionError:
        raise UnreadableError("is not valid JSON: its brackets are nested too deeply") from None
    except ValueError as error:
        raise UnreadableError(f"is not valid JSON ({error})") from None
    level, depth = [tree], 0
    while level := [
        one
        for node in level
        for one in (node.values() if isinstance(node, dict) else node if isinstance(node, list) else ())
        if isinstance(one, dict | list)
    ]:
        depth += 1
        if depth >= DEEPEST:
            raise UnreadableError("is not valid JSON: its brackets are nested too deeply")
    return tree


def check_content(path: Path) -> None:
    """Refuses what is often found under the name of a large file: nothing, a web page, or a pointer of Git LFS.

    Raises:
        UnreadableError: says what it is and what to do.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not head:
        raise UnreadableError("is empty; download it again")
    if head.startswith(_POINTER):
        raise UnreadableError(
            "is a pointer of Git LFS, not the file itself; run `git lfs pull` in its repository, or download the file"
        )
    if _PAGE.match(head):
        raise UnreadableError("is a web page, not the file itself; download it again, by the link of the file")


def safetensors_header(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape, from the head of a safetensors file; no tensor is read.

    Raises:
        UnreadableError: as `check_content`, or the head is damaged, or describes more than the file holds.
    """
    check_content(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= min(_HEADER, path.stat().st_size - 8):
                raise UnreadableError(f"its header claims {size} bytes, more than the file holds")
            text = file.read(size).decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableError("its header is no text") from None
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from None
    tree = parse_json(text)
    if not isinstance(tree, dict):
        raise UnreadableError("its header is no object")
    tree.pop("__metadata__", None)
    for name, about in tree.items():
        if wrong := mismatch(_Tensor, about, name):
            raise UnreadableError(f"its header is damaged: {wrong}")
    return {name: tuple(about["shape"]) for name, about in tree.items()}


def mismatch(hint: Any, value: Any, where: str = "") -> str:
    """How a value of a JSON file differs from a type; "" where it does not.

    Args:
        hint: `str`, `bool`, `int`, `float` (a whole number is one too), `None`, `Any`, unions, `Literal`, `list[T]`,
            `tuple[T, ...]` (a list in JSON), `dict[str, T]`, TypedDicts, whose further keys are free, and dataclasses, which
            have no further keys.
        value: what was read.
        where: how the value is called, "labels.fraction".
    """
    if hint is Any:
        return ""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint):
        return _mismatch_of_keys(hint, value, where, required=hint.__required_keys__)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        fields = dataclasses.fields(hint)
        required = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
        strange = sorted(value.keys() - {one.name for one in fields}) if isinstance(value, Mapping) else []
        if strange:
            return f"'{_below(where, strange[0])}' is unknown to this version"
        return _mismatch_of_keys(hint, value, where, required=required)
    if origin in (typing.Required, typing.NotRequired):
        return mismatch(arguments[0], value, where)
    if origin in (typing.Union, types.UnionType):
        # the complaint of a part of it tells more than that the whole is none of them
        wrong = [mismatch(one, value, where) for one in arguments]
        inner = [line for line in wrong if not line.startswith(f"'{where}' is ")]
        return "" if not all(wrong) else (inner or [_complaint(where, value, hint)])[0]
    if origin in (list, tuple) and isinstance(value, list):
        return next((x for k, one in enumerate(value) if (x := mismatch(arguments[0], one, f"{where}[{k}]"))), "")
    if origin is dict and isinstance(value, Mapping):
        return next((x for key, one in value.items() if (x := mismatch(arguments[1], one, _below(where, key)))), "")
    fits = {
        str: isinstance(value, str),
        bool: isinstance(value, bool),
        float: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
        int: isinstance(value, int) and not isinstance(value, bool),
        type(None): value is None,
        None: value is None,
    }
    # a type that no JSON file could show is left to who reads the value
    fitting = value in arguments if origin is Literal else fits.get(hint, origin not in (list, tuple, dict))
    return "" if fitting else _complaint(where, value, hint)


def shown(value: Any) -> str:
    """A value of a file within a complaint: as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else f"{text[:40]}…"


class _Tensor(typing.TypedDict):
    shape: list[int]


def _mismatch_of_keys(hint: Any, value: Any, where: str, *, required: Collection[str]) -> str:
    if not isinstance(value, Mapping):
        return _complaint(where, value, dict)
    for key, inner in typing.get_type_hints(hint).items():
        if key not in value:
            if key in required:
                return f"'{_below(where, key)}' is missing"
        elif wrong := mismatch(inner, value[key], _below(where, key)):
            return wrong
    return ""


def _below(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _complaint(where: str, value: Any, hint: Any) -> str:
    return f"'{where}' is {shown(value)}; it must be {_words(hint)}"


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_words, arguments))
    if origin is Literal:
        return f"one of {', '.join(map(shown, arguments))}"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number", type(None): "null"}
    names |= {list: "a list", tuple: "a list"}
    return names.get(origin or hint, "an object")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise UnreadableError(f"is not valid JSON: key {shown(twice)} stands twice in one object")
    return found


def _constant(word: str) -> Any:
    raise UnreadableError(f"is not valid JSON: {word} is no number; write null")


def _whole(digits: str) -> int:
    if len(digits) > 20 or abs(number := int(digits)) >= _LARGEST:
        raise UnreadableError(f"is not valid JSON: {digits[:20]}… is beyond 64 bits")
    return number


def _decimal(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise UnreadableError(f"is not valid JSON: {digits[:20]} is beyond the range of numbers")
    return number
