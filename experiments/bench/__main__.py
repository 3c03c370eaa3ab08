"""`make bench ARGS="WHAT key=value ..."`: WHAT is a file of this folder; without it, the time per training step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ssl_med.spec import SslMedError

KINDS = ("steps", "data", "speed", "precision", "baseline")


def main(overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Runs one benchmark, which prints its table; returns the rows."""
    kind, rest = (overrides[0], overrides[1:]) if overrides and overrides[0] in KINDS else ("steps", overrides)
    rows: list[dict[str, Any]] = import_module(f"experiments.bench.{kind}").main(rest)
    return rows


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SslMedError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
