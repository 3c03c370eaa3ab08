"""The command `ssl-med`: `ssl-med NAME ...` is `run(arguments)` of commands/NAME.py, and nothing else is imported.

Exit codes: 0 done; 2 the request is wrong or the machine refuses it, said in one line; 128 + N stopped by signal N, as shells
count (130 Ctrl-C, 143 SIGTERM, 138 SIGUSR1): the same command goes on; 1 anything else. `check` ends with 1 when it found an
error in the data. Help and the refusal of an unknown name or key read source files only (config/schema.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from experiments.config import defaults, files, helptext, usage
from experiments.run.interruption import Interruption, listening
from experiments.run.output import unbreakable
from experiments.run.refusals import in_a_line
from experiments.run.threads import wait_without_spinning

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    if arguments is None:
        unbreakable()
        if os.environ.get("LOCAL_RANK", "0") != "0":
            from experiments.run.parent import end_with_parent

            end_with_parent()  # a further process of a training would wait for the first one for ever
    wait_without_spinning()
    try:
        with listening():
            return _command(list(sys.argv[1:] if arguments is None else arguments))
    except Interruption as stop:
        from experiments.run.environment import is_first_process

        return _tell(str(stop), stop.code) if is_first_process() else stop.code
    except KeyboardInterrupt:
        return _tell("interrupted", 130)
    except Exception as error:
        told = in_a_line(error)
        if told is None:
            raise
        return _tell(*told)


def _tell(line: str, code: int) -> int:
    print(f"ssl-med: {line}", file=sys.stderr)
    return code


def _command(given: list[str]) -> int:
    if not given or given[0] in (*HELP, "help"):
        print(helptext.overview(), end="")
        return 0
    about, rest = usage.command(given[0]), given[1:]
    if any(word in HELP for word in rest):
        print(helptext.of_command(about, [word for word in rest if word not in HELP]), end="")
        return 0
    rest = files.with_files(about.name, rest, list(about.sections))
    rest = defaults.complete(about, rest, usage.check(about, rest))
    code: int = importlib.import_module(f"{usage.COMMANDS}.{about.name}").run(rest) or 0
    return code


if __name__ == "__main__":
    sys.exit(main())
