"""What a run folder holds already: the same run or another one, done or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.config.kinds import RunConfig
from ssl_med.config import read_yaml
from ssl_med.reports.run_folder import read_run
from ssl_med.spec import SslMedError


def check_same(stored: Path, config: RunConfig) -> None:
    """Holds a run to what its folder says.

    Raises:
        SslMedError: `stored`, its config.yaml, is that of another run; the settings that differ.
    """
    tree = read_yaml(stored, str(stored)).tree
    if tree.get("hash") != config.hash():
        mine = config.tree()
        different = sorted(
            f"{section}.{key}" if isinstance(value, dict) else section
            for section, value in mine.items()
            if section in tree  # an older version may not have had it
            for key in (value if isinstance(value, dict) else [section])
            if (value[key] if isinstance(value, dict) else value)
            != (_key_of(tree.get(section), key) if isinstance(value, dict) else tree.get(section))
        )
        raise SslMedError(
            f"{stored.parent}: holds a run with other settings ({', '.join(different[:5]) or 'kind'} differ); "
            "choose another out=DIR"
        )


def is_done(folder: Path) -> bool:
    """Whether the run in a folder has come to its end."""
    # a summary that cannot be read says nothing, so that the run goes on from its checkpoint and writes it anew
    return bool(read_run(folder).summary.get("status") == "done")


def _key_of(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, dict) else None
