"""`config=FILE`: settings of a yaml file, such as `ssl-med plan` writes, as if they stood on the line before all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.api.overrides import overrides_of
from ssl_med.config import read_yaml
from ssl_med.spec import SslMedError
from ssl_med.values import unquoted

KEY = "config"
COMMANDS = ("pretrain", "finetune", "probe", "features", "prepare")


def with_files(command: str, arguments: Sequence[str], sections: Sequence[str]) -> list[str]:
    """The arguments, each `config=FILE` replaced by the settings of the file; what is typed wins over them.

    `prepare` takes the settings of the data alone, and every other command all that a file says.

    Args:
        command: name of the command.
        arguments: of the command.
        sections: of its settings.

    Raises:
        SslMedError: no such file, no settings in it, two files, or a command that takes none.
    """
    files = [unquoted(argument.partition("=")[2]) for argument in arguments if argument.startswith(f"{KEY}=")]
    if not files:
        return list(arguments)
    if command not in COMMANDS:
        raise SslMedError(f"{command}: {KEY}=FILE is for {', '.join(COMMANDS)}; give the settings themselves")
    if len(files) > 1:
        raise SslMedError(f"command line: '{KEY}' is given twice; give one file")
    if not Path(files[0]).is_file():
        raise SslMedError(f"{KEY}={files[0]}: no such file; `ssl-med plan ... out=FILE` writes one")
    tree = read_yaml(Path(files[0]), files[0]).tree
    for key, value in tree.items():
        if not isinstance(value, dict):
            raise SslMedError(f"{files[0]}: '{key}' must be a section of settings, such as data: or backbone:")
    if command == "prepare":
        tree = {key: value for key, value in tree.items() if key in sections}
    typed = [argument for argument in arguments if not argument.startswith(f"{KEY}=")]
    given = {argument.partition("=")[0] for argument in typed}
    if "backbone" in given and "backbone" in tree:
        raise SslMedError(
            f"command line: backbone=NAME beside {KEY}={files[0]}, which describes a backbone; leave one of them out"
        )
    return [*(word for word in overrides_of(tree) if word.partition("=")[0] not in given), *typed]
