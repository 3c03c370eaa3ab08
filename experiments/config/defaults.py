"""What a command fills in when the request leaves it out: data of a method, folder of the data, preset of a laptop.

The folder of data NAME is `data.root`, else what `SSL_MED_DATA` says (a folder that holds NAME, or a yaml file of NAME: DIR),
else a few synthetic phantoms, made once below `SSL_MED_CACHE` (default: runs). All of it happens on the command line: it
becomes overrides, so that `--show`, hashes and Python see what was chosen.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.config.schema import class_variable
from experiments.config.usage import CORRELATION, Command, data_of
from ssl_med.catalogue import list_names
from ssl_med.config import read_yaml
from ssl_med.spec import SslMedError

ROOTS = "SSL_MED_DATA"
CACHE = "SSL_MED_CACHE"
LAPTOP = "cpu"
DESCRIBED_BY_FILES = ("msd", "medmnist")  # channels and classes stand in their files, which composing a run reads


def complete(about: Command, arguments: Sequence[str], picked: Mapping[str, str]) -> list[str]:
    """The arguments with what the command fills in; says in one line what a run works on, and each choice that was made.

    Raises:
        SslMedError: what is missing cannot be filled in; everything at once.
    """
    if picked.get("kind") == CORRELATION:  # it reads finished runs, and neither data nor networks
        return list(arguments)
    given = {argument.partition("=")[0] for argument in arguments if "=" in argument}
    show = any(argument.partition("=")[0] == "--show" for argument in arguments)
    filled, lines, missing = list(arguments), [], []
    if "data" in picked and "data" not in given:  # of the method
        filled.append(f"data={picked['data']}")
    if "root" in about.defaults:
        phantoms = "phantoms" in about.defaults
        wanted = {"data": picked}
        if "online.task" in dict(argument.partition("=")[::2] for argument in arguments):
            task = next(argument.partition("=")[2] for argument in arguments if argument.startswith("online.task="))
            wanted["online.data"] = {"task": task}
        for prefix, names in wanted.items():
            if f"{prefix}.root" not in given and data_of(names):
                root, text = root_of(names, phantoms=phantoms)
                if root:
                    filled.append(f"{prefix}.root={root}")
                    if data_of(names) in DESCRIBED_BY_FILES or prefix == "online.data":
                        write_phantoms(data_of(names), root)  # what composing looks at; the others once it is done
                    lines.append(f"no {prefix}.root for {names.get('task') or data_of(names)}: {text}")
                else:
                    layout = class_variable(f"datamodules.{data_of(names)}", "layout")
                    missing.append(
                        f"{prefix}.root is missing: point it at the folder of {data_of(names)} ({layout}), {prefix}.root=DIR, "
                        f"or set {ROOTS}"
                    )
    if missing and not show:
        raise SslMedError("; ".join(missing))
    if "trainer" in about.defaults:
        what = " ".join(f"{key}={value}" for key, value in picked.items())
        _say([f"{about.name} {what}" + "".join(f"; {line}" for line in lines)], show)
        lines = []
        if "trainer" not in given and not _has_accelerator():
            filled.append(f"trainer={LAPTOP}")
            lines = [
                f"no GPU: trainer={LAPTOP} (small crops, a narrow network, few steps); trainer=default keeps the recipe"
            ]
    _say(lines, show)
    return filled


def root_of(names: Mapping[str, str], *, phantoms: bool) -> tuple[str, str]:
    """Folder of the data of a task or data set, and where that comes from; empty when nothing names one.

    Args:
        names: what the request chooses; the folder may be called like the task or like its data set.
        phantoms: synthetic data stand in where no folder is named; `write_phantoms` makes them once the request is valid.
    """
    data = data_of(names)
    wanted = [name for name in (names.get("task", ""), data) if name]
    found = from_environment(wanted)
    for name in wanted:
        if name in found:
            return found[name], f"{found[name]} ({ROOTS})"
    if not phantoms or data not in list_names("datamodules.phantoms"):
        return "", ""
    folder = phantoms_of(data)
    return str(folder), f"synthetic phantoms in {folder}; set data.root=DIR or {ROOTS}"


def phantoms_of(data: str) -> Path:
    """Where the phantoms that stand in for a data set lie."""
    return Path(os.environ.get(CACHE) or "runs") / "phantoms" / data


def write_phantoms(data: str, root: str) -> None:
    """Makes the phantoms of a data set where `root` is their place and they are not there yet.

    They are written under another name first, so that no other process sees a part of them.
    """
    folder = phantoms_of(data)
    if Path(root) != folder or folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    generate = importlib.import_module(f"datamodules.phantoms.{data}").generate
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{data}-") as part:
        made = generate(Path(part) / data)
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise


def from_environment(names: Sequence[str]) -> dict[str, str]:
    """Folders that `SSL_MED_DATA` gives for some of the names.

    Raises:
        SslMedError: it names neither a folder nor a readable yaml file.
    """
    place = os.environ.get(ROOTS, "")
    if not place:
        return {}
    path = Path(place)
    if path.is_dir():
        return {name: str(path / name) for name in names if (path / name).is_dir()}
    if not path.is_file():
        raise SslMedError(f"{ROOTS}={place}: no such folder or yaml file; it says where the data sets lie")
    known = read_yaml(path, f"{ROOTS}={place}").tree
    return {name: str(path.parent / str(known[name])) for name in names if known.get(name)}


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _say(lines: Sequence[str], show: bool) -> None:
    """To the user, from the first process; beside printed settings as comments."""
    if all(int(os.environ.get(key, "0")) == 0 for key in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "RANK")):
        for line in lines:
            print(f"# {line}" if show else line, flush=True)
