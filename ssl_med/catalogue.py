"""File name = name: the files of a package's folder are what the package offers. No registry, no import side effects."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Any

from ssl_med.spec import SslMedError


def list_names(package: str) -> list[str]:
    """Public modules of a package, sorted; its subpackages are machinery and do not count."""
    root = importlib.import_module(package)
    return sorted(m.name for m in pkgutil.iter_modules(root.__path__) if not m.ispkg and not m.name.startswith("_"))


def nearest(word: str, options: list[str]) -> str:
    """'; did you mean 'x'?' for a near miss, else a list of what there is."""
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(options)}"


def get_class(package: str, name: str, *, kind: str, base: type | None = None) -> Any:
    """The one public class defined in `package.name` (a subclass of `base` when given).

    Raises:
        SslMedError: no such module; the text offers the nearest name. `kind` is the user's word ("method", "data").
    """
    names = list_names(package)
    if name not in names:
        raise SslMedError(f"{kind} '{name}' is unknown{nearest(name, names)}")
    module = importlib.import_module(f"{package}.{name}")
    found = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and not key.startswith("_")
        and (base is None or issubclass(value, base))
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} must define one public class of that kind, it has {len(found)}")
    return found[0]
