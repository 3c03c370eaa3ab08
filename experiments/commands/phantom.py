"""`ssl-med phantom`: write synthetic data in the true layout of a data set."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from ssl_med.catalogue import list_names, nearest
from ssl_med.files import explaining
from ssl_med.spec import SslMedError

USAGE = "ssl-med phantom KIND OUT [--subjects N] [--seed N]"
EXAMPLES = ("ssl-med phantom lits phantoms/lits", "ssl-med phantom chest14 phantoms/chest14 --subjects 40 --seed 1")
OPTIONS = {
    "--subjects": "N: how many patients; default: a few",
    "--seed": "N: the same seed gives the same bytes; default 0",
}


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    given, places = {"seed": 0}, []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--"):
            places.append(argument)
            continue
        value = value if equals else next(rest, "")
        if not value.isdigit():
            raise SslMedError(f"phantom: --{name} needs a whole number, not '{value}'")
        given[name] = int(value)
    kinds = list_names("datamodules.phantoms")
    if len(places) != 2:
        raise SslMedError(f"phantom: give KIND OUT; kinds: {', '.join(kinds)}")
    kind, out = places
    if kind not in kinds:
        raise SslMedError(f"phantom '{kind}' is unknown{nearest(kind, kinds)}")
    with explaining(Path(out)):
        print(importlib.import_module(f"datamodules.phantoms.{kind}").generate(Path(out), **given))
