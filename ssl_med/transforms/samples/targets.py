"""What `_target_` may name, and how an entry of a list of transforms is built; every mistake is one line."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import monai.transforms
from monai.transforms import Transform

from ssl_med.catalogue import nearest
from ssl_med.spec import SslMedError, first_line

MONAI, OWN = "monai.transforms", "ssl_med.transforms"
_OWN_MODULES = (f"{OWN}.samples.resampled", f"{OWN}.samples.augment", f"{OWN}.monai")  # for names without a dot
# they run any function, or read and write files: the suite reads, and a list that someone sends must not do more than transform
_CLOSED = (
    "Lambda",
    "RandLambda",
    "TorchVision",
    "RandTorchVision",
    "TorchIO",
    "RandTorchIO",
    "LoadImage",
    "SaveImage",
    "WriteFileMapping",
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def build(entry: Any, where: str, *, allow: Sequence[str], variables: Mapping[str, Any]) -> Any:
    """The transform that `{_target_: NAME, ...}` describes; mappings with `_target_` among its arguments are transforms too.

    Args:
        entry: the mapping.
        where: the list and the number of the entry, for messages.
        allow: packages besides MONAI and this one.
        variables: what `${NAME}` stands for.

    Raises:
        SslMedError: no such target, an argument that it does not take or refuses.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("_target_"), str):
        raise SslMedError(f"{where} is {entry!r}; it must be a mapping with _target_: NAME and arguments")
    word = entry["_target_"]
    found = find(word, where, allow)
    name = f"{where} ({found.__name__})"
    given = {str(key): value for key, value in entry.items() if key != "_target_"}
    parameters = inspect.signature(found).parameters
    if not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        for key in given:
            if key not in parameters:
                raise SslMedError(f"{name}: argument '{key}' is unknown{nearest(key, list(parameters))}")
    arguments = {key: _value(value, name, allow, variables) for key, value in given.items()}
    missing = [
        key
        for key, one in parameters.items()
        if one.default is inspect.Parameter.empty
        and one.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        and key not in arguments
    ]
    if missing:
        raise SslMedError(f"{name}: argument '{missing[0]}' is missing")
    try:
        return found(**arguments)
    except SslMedError as error:
        raise SslMedError(f"{name}: {error}") from None
    except Exception as error:  # whatever a transform thinks of its arguments
        raise SslMedError(f"{name}: refuses its arguments ({type(error).__name__}: {first_line(error)})") from None


def _value(value: Any, name: str, allow: Sequence[str], variables: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, f"{name}, within", allow=allow, variables=variables)
        return {key: _value(one, name, allow, variables) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_value(one, name, allow, variables) for one in value]
    if isinstance(value, str) and "$" in value:
        match = _VARIABLE.fullmatch(value)
        if match is None or match[1] not in variables:
            known = ", ".join("${" + key + "}" for key in variables)
            raise SslMedError(f"{name}: {value!r} means nothing; there are: {known}")
        return variables[match[1]]
    return value


def find(word: str, where: str, allow: Sequence[str]) -> type[Transform]:
    """The class that a target names.

    Raises:
        SslMedError: there is none, or it is no transform of a package that may be named.
    """
    module, _, name = word.rpartition(".")
    package = module.partition(".")[0]
    if not module:
        places = [MONAI, *_OWN_MODULES]
    elif f"{module}.".startswith((f"{MONAI}.", f"{OWN}.")) or package in allow:
        places = [module]
    else:
        raise SslMedError(
            f"{where}: _target_ '{word}' lies outside of {MONAI} and {OWN}; data.allow=[{package}] allows a package that you "
            "trust: its code runs"
        )
    for place in places:
        found = getattr(_module(place, word, where), name, None)
        if isinstance(found, type) and issubclass(found, Transform):
            _check_open(found, word, where)
            return found
        if found is not None:
            raise SslMedError(
                f"{where}: _target_ '{word}' is no transform; it must be a subclass of monai.transforms.Transform"
            )
    offered = sorted({one for place in places for one in _offered(place, word, where)})
    raise SslMedError(f"{where}: _target_ '{word}' is unknown{_near(name, offered, places)}")


def _near(name: str, offered: list[str], places: Sequence[str]) -> str:
    text = nearest(name, offered)
    return text if "did you mean" in text or len(offered) < 20 else f"; it is no transform of {' or '.join(places)}"


def _module(place: str, word: str, where: str) -> Any:
    if place == MONAI:
        return monai.transforms
    try:
        return importlib.import_module(place)
    except Exception as error:  # a package of the user's may fail in any way
        if place in _OWN_MODULES and isinstance(error, ModuleNotFoundError):
            return None
        raise SslMedError(f"{where}: _target_ '{word}': {place} cannot be imported ({first_line(error)})") from None


def _offered(place: str, word: str, where: str) -> list[str]:
    found = vars(_module(place, word, where) or object)
    return [name for name, one in found.items() if isinstance(one, type) and issubclass(one, Transform)]


def _check_open(found: type, word: str, where: str) -> None:
    plain = re.sub(r"(d|D|Dict)$", "", found.__name__)
    if found.__module__.startswith(MONAI) and plain in _CLOSED:
        raise SslMedError(
            f"{where}: _target_ '{word}' runs other code or touches files, which a list of transforms may not; leave it out "
            "(files are read by data=NAME)"
        )


def refuse_array(transform: Any, name: str) -> None:
    """Refuses a transform of arrays where one of dictionaries is needed."""
    twin = f"{type(transform).__name__}d"
    offered = hasattr(monai.transforms, twin)
    remedy = f"use {twin} with keys: [image]" if offered else "use a dictionary transform, whose name ends in d"
    raise SslMedError(f"{name}: takes an array; {remedy}")
