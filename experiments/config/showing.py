"""`--show` of a command that starts a run: print every setting, and with `--show=sources` where each comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.config.kinds import RunConfig
from ssl_med.config import to_yaml
from ssl_med.spec import SslMedError

FLAG = "--show"
SOURCES = f"{FLAG}=sources"


def is_shown(arguments: Sequence[str]) -> bool:
    """Whether a request asks for its settings instead of a run."""
    return any(argument.partition("=")[0] == FLAG for argument in arguments)


def show(arguments: Sequence[str], compose: Callable[[Sequence[str]], RunConfig]) -> None:
    """Prints all settings of the run that the arguments describe, as yaml or key by key with their sources.

    Raises:
        SslMedError: `--show=` has another value than sources, or the run cannot be composed.
    """
    flags = [argument for argument in arguments if argument.partition("=")[0] == FLAG]
    wrong = [flag for flag in flags if flag not in (FLAG, SOURCES)]
    if wrong:
        raise SslMedError(f"'{wrong[0]}' is unknown; say {FLAG} or {SOURCES}")
    config = compose([argument for argument in arguments if argument not in flags])
    if SOURCES in flags:
        values = _flat(config.tree(), "")
        width = max(map(len, values))
        for key, source in config.sources().items():
            print(f"{key:{width}}  {values[key]!s:24}  # {source}")
    else:
        print(to_yaml(config.tree()), end="")


def _flat(tree: object, prefix: str) -> dict[str, object]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    found: dict[str, object] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
