"""One bar over all runs of a table, on a terminal: the share that is done, what runs now, and the time that is left."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from experiments.run.environment import say

LONGEST = 40  # letters of what runs now


class Bar:
    """The bar of a table, below the lines that are printed meanwhile. Where the output is a file there are only the lines."""

    def __init__(self, total: int) -> None:
        quiet = os.environ.get("SSL_MED_QUIET") == "1" or not sys.stderr.isatty()
        form = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} runs, {elapsed}{postfix}"
        self._bar: tqdm[Any] = tqdm(total=total, dynamic_ncols=True, disable=quiet, bar_format=form, leave=False)

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self._bar.clear()
        say(line)
        self._bar.refresh()

    def show(self, done: int, running: Sequence[str], left: str) -> None:
        """Moves the bar.

        Args:
            done: runs that have ended.
            running: names of those on the way.
            left: how long the rest will take, in words; '' when it is not known yet.
        """
        now = "; ".join(running)
        now = f"{now[: LONGEST - 1]}…" if len(now) > LONGEST else now
        self._bar.n = done
        self._bar.set_postfix_str(", ".join(part for part in (left, now) if part))

    def close(self) -> None:
        """Takes the bar off the screen."""
        self._bar.close()
