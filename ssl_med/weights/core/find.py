"""Which family a foreign file belongs to: the one that recognises it, or the one that the user names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.spec import SslMedError
from ssl_med.weights.core.family import Family
from ssl_med.weights.core.files import CodeError, Document, ForeignFile, read_document

PACKAGE = "ssl_med.weights"


class Match(NamedTuple):
    """A family by name, and the container of a file that it knows."""

    name: str
    family: Family
    file: ForeignFile


def family_of(name: str) -> Family:
    """The family in ssl_med/weights/NAME.py.

    Raises:
        SslMedError: there is none; the text offers the nearest name.
    """
    known = list_names(PACKAGE)
    if name not in known:
        raise SslMedError(f"family '{name}' is unknown{nearest(name, known)}")
    found: Family = get_class(PACKAGE, name, kind="family", base=Family)()
    return found


def absent(path: Path, name: str = "") -> str:
    """What is said of weights that are not there: of a known family where to get them."""
    return f"{path}: no such run folder or file of weights" + (
        f"; get it from {family_of(name).source}" if name else ""
    )


def opened(path: Path) -> Document:
    """What a file or folder holds, as `read_document`; of a file that would run code, what its family does about it.

    Raises:
        SslMedError: as `read_document`.
    """
    try:
        return read_document(path)
    except CodeError as error:
        for name in list_names(PACKAGE):
            for package, remedy in family_of(name).pickles.items():
                if error.needs.partition(".")[0] == package:
                    raise SslMedError(
                        f"{path}: would run code when it is read ({error.needs}); {remedy}, and family={name}"
                    ) from None
        raise


def matches(document: Document) -> list[Match]:
    """Every family that recognises a file."""
    found = [_match(document, name, named=False) for name in list_names(PACKAGE)]
    return [match for match in found if match is not None]


def choose(document: Document, name: str = "") -> Match:
    """The family that a file belongs to.

    Args:
        document: what was read.
        name: of the family; "": the one that recognises the file.

    Raises:
        SslMedError: no family, several, or not the named one; or the container that the family prefers is there and has
            another layout, so that another one, such as the student, would be taken in its place.
    """
    path = document.path
    held = document.containers
    if not held:
        raise SslMedError(f"{path}: holds no tensors by name")
    if name:
        family_of(name)
        match = _match(document, name, named=True)
        if match is None:
            raise SslMedError(f"{path}: does not have the layout of family={name} ({_some(document)})")
        return _preferred(match)
    fitting = matches(document)
    if len(fitting) == 1:
        return _preferred(fitting[0])
    if fitting:
        names = ", ".join(match.name for match in fitting)
        raise SslMedError(f"{path}: several families recognise it: {names}; name the one that it is, family=NAME")
    raise SslMedError(
        f"{path}: no family knows its layout ({_some(document)}); where you know whose it is, say family=NAME "
        "(ssl-med list families)"
    )


def _match(document: Document, name: str, *, named: bool) -> Match | None:
    family = family_of(name)
    knows = family.admits if named else family.recognises
    passed: list[str] = []
    for container in family.containers:
        file = document.open((container,))
        if file is None:
            continue
        try:
            if knows(file):
                return Match(name, family, replace(file, passed=tuple(passed)))
        except (LookupError, ValueError, TypeError, AttributeError):
            pass  # a shape or a value that no file of the family has
        passed.append(container)
    return None


def _preferred(match: Match) -> Match:
    """The match; refused where it passed over a container that the family prefers."""
    name, _, file = match
    if file.passed:
        where = f"'{file.container}'" if file.container else "the file's outermost level"
        raise SslMedError(
            f"{file.path}: holds '{file.passed[0]}', which family={name} prefers and does not recognise; {where} would be "
            "taken in its place; save that container alone if you mean it"
        )
    return match


def _some(document: Document) -> str:
    held = document.containers
    file = document.open(held)
    keys = list(file.state) if file else []
    where = f" in '{held[0]}'" if held and held[0] else ""
    return f"{len(keys)} tensors{where}: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
