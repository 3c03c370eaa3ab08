"""`ssl-med list`: print what there is of a kind, each with one line that says what it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from experiments.config.offers import KINDS
from ssl_med.catalogue import nearest
from ssl_med.spec import SslMedError

USAGE = (
    "ssl-med list methods|presets|backbones|data|tasks|protocols|tables|maps|recipes|augment|families|exporters|features|"
    "phantoms [--json]"
)
EXAMPLES = ("ssl-med list data", "ssl-med list methods --json")
OPTIONS = {"--json": "one object, name -> line, for programs"}


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    kinds = [argument for argument in arguments if argument != "--json"]
    if len(kinds) != 1:
        raise SslMedError(f"list: say what: {' | '.join(KINDS)}")
    if kinds[0] not in KINDS:
        raise SslMedError(f"list: kind '{kinds[0]}' is unknown{nearest(kinds[0], list(KINDS))}")
    found = KINDS[kinds[0]]()
    if "--json" in arguments:
        print(json.dumps(found, ensure_ascii=False))
        return
    width = max(map(len, found), default=0)
    print("\n".join(f"{name:{width}}  {text}".rstrip() for name, text in found.items()))
