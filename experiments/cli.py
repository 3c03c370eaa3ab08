"""The command `ssl-med`: `ssl-med NAME ...` is `run(arguments)` of commands/NAME.py, and nothing else is imported.

Exit codes: 0 done; 2 the request is wrong, said in one line; 1 anything else. `check` ends with 1 when it found an error in
the data. Help and the refusal of an unknown name or key read source files only (config/schema.py).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from experiments.config import defaults, helptext, usage
from experiments.run.threads import wait_without_spinning
from ssl_med.spec import SslMedError
from ssl_med.values import one_line

HELP = ("-h", "--help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    wait_without_spinning()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not given or given[0] in (*HELP, "help"):
            print(helptext.overview(), end="")
            return 0
        about, rest = usage.command(given[0]), given[1:]
        if any(word in HELP for word in rest):
            print(helptext.of_command(about, [word for word in rest if word not in HELP]), end="")
            return 0
        rest = defaults.complete(about, rest, usage.check(about, rest))
        return importlib.import_module(f"{usage.COMMANDS}.{about.name}").run(rest) or 0
    except SslMedError as error:
        print(f"ssl-med: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssl-med: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        from experiments.run.callbacks import RunError

        if not isinstance(error, RunError):
            raise
        print(f"ssl-med: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
