"""Output that a closed terminal, a broken pipe or a full disk behind it cannot stop: a run is worth more than its lines."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Unbreakable(io.TextIOWrapper):
    """A text stream that, once its receiver is gone, writes to nowhere."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, self.fileno())  # what is buffered, and what a library writes itself, goes there too
        except (OSError, ValueError):
            return  # closed for good: nothing is left to write to
        finally:
            os.close(nowhere)


def unbreakable() -> None:
    """Makes standard output and error of this process such streams.

    A number that is closed is opened to nowhere first: the next file, say metrics.jsonl, would get it, and with it all that is
    printed.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - for good
        elif type(stream) is io.TextIOWrapper:  # not what a test or a notebook put there
            stream.flush()
            settings: dict[str, Any] = {"encoding": stream.encoding, "errors": stream.errors}
            settings["line_buffering"] = stream.line_buffering
            new = _Unbreakable(stream.detach(), **settings)
            setattr(sys, name, new)
            setattr(sys, f"__{name}__", new)
