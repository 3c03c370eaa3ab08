"""Reads foreign weights into plain containers and tensors: no code runs, and no more memory is taken than they hold.

Formats: what torch writes (.pth .pt .ckpt .tar .model .bin), .safetensors, .npz, a folder of Hugging Face (config.json beside
model.safetensors, whole or in parts), a folder of nnssl (adaptation_plan.json beside checkpoint_final.pth).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_med.reading import DEEPEST, UnreadableError, read_json, safetensors_header, shown
from ssl_med.spec import SslMedError, first_line
from ssl_med.weights.core.arrays import NUMBERS, read_npz
from ssl_med.weights.core.torch_files import PickledCodeError, read_torch

State = dict[str, Tensor]
TORCH = (".pth", ".pt", ".ckpt", ".tar", ".model", ".bin")
PICKLES = (".pkl", ".pickle")
ENDINGS = (*TORCH, ".safetensors", ".npz")
_NODES = 10**6  # values of one file; containers that hold each other many times over would never end
_SHOWN = 20  # containers of a file that a complaint may know of
# files of a folder that may hold its weights, the first one that is there (an index lists parts), and what lies beside them
FOLDER_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "checkpoint_final.pth", "pytorch_model.bin")
FOLDER_BESIDE = ("config.json", "adaptation_plan.json", "plans.json", "dataset.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ForeignFile:
    """The tensors of one container of a foreign file.

    * state: tensors by key. * container: the keys by which it was reached, "state_dict" or "model/teacher"; "" for the file
      itself.
    * extra: everything else that the file, or the folder beside it, holds as plain values: `hyper_parameters`, `init_args`,
      `nnssl_adaptation_plan`, and `config.json` under its file name.
    * passed: containers that hold tensors and that the family prefers to this one, but does not recognise.
    * files: of a folder, those that were read.
    """

    path: Path
    state: State
    container: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    passed: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def has(self, *keys: str) -> bool:
        """Whether all of these tensors are there."""
        return all(key in self.state for key in keys)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor; () where it is not there."""
        return tuple(self.state[key].shape) if key in self.state else ()


@dataclass(frozen=True)
class Document:
    """All that a file or folder holds: containers, tensors and plain values, what lies beside it, and the files of a folder."""

    path: Path
    tree: Mapping[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    @cached_property
    def extra(self) -> Mapping[str, Any]:
        """What the file holds besides tensors, and what lies beside it, as plain values.

        Raises:
            SslMedError: containers that are nested too deeply, or hold each other too many times.
        """
        return {**_plain(self.tree, self.path), **self.beside}

    @cached_property
    def _opened(self) -> dict[str, ForeignFile | None]:
        """Containers that were asked for: every family asks for the same few."""
        return {}

    def open(self, containers: Sequence[str]) -> ForeignFile | None:
        """The first of the containers that holds tensors; None when none of them does.

        Args:
            containers: paths of keys such as "state_dict", "model/teacher", "" for the file itself, best first.
        """
        for name in containers:
            if name not in self._opened:
                self._opened[name] = self._container(name)
            if (file := self._opened[name]) is not None:
                return file
        return None

    def _container(self, name: str) -> ForeignFile | None:
        node: Any = self.tree
        for key in name.split("/") if name else ():
            node = node.get(key) if isinstance(node, Mapping) else None
        state = _tensors(node, self.path) if isinstance(node, Mapping) else {}
        return ForeignFile(self.path, state, name, self.extra, files=self.files) if state else None

    @cached_property
    def containers(self) -> Sequence[str]:
        """Up to 20 places that hold tensors, for complaints; a container that stands in several places counts once."""
        found: list[str] = []
        level: list[tuple[str, Mapping[str, Any]]] = [("", self.tree)]
        seen = {id(self.tree)}
        while level and len(found) < _SHOWN:
            name, node = level.pop(0)
            if any(isinstance(value, Tensor) or _is_array(value) for value in node.values()):
                found.append(name)
            for key, value in node.items():
                if isinstance(value, Mapping) and id(value) not in seen and name.count("/") < DEEPEST:
                    seen.add(id(value))
                    level.append((f"{name}/{key}".lstrip("/"), value))
        return found


class CodeError(SslMedError):
    """A file would run code when it is read; `needs` is the dotted name of what it pickles, "" where that is unknown."""

    def __init__(self, line: str, needs: str = "") -> None:
        super().__init__(line)
        self.needs = needs


def read_document(path: Path) -> Document:
    """Reads a file or folder of weights.

    Raises:
        SslMedError: no such file, another ending, a damaged one, or one that claims more than it holds.
        CodeError: one that would run code.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise SslMedError(f"{path}: no such file or folder")
    return Document(path, _read(path))


def _read(path: Path) -> Mapping[str, Any]:
    """What one file holds by name; errors as of `read_document`."""
    with _named(path):
        found = _reader(path)(path)
        if not isinstance(found, Mapping):
            raise UnreadableError(f"holds a {type(found).__name__}, no tensors by name")
        return found


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Complaints about a file begin with its path."""
    try:
        yield
    except PickledCodeError as error:
        raise CodeError(f"{path}: {error}", error.needs) from None
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}") from None


def _reader(path: Path) -> Callable[[Path], Any]:
    if path.suffix in TORCH:
        return read_torch
    readers: dict[str, Callable[[Path], Any]] = {".safetensors": _safetensors, ".npz": read_npz}
    if path.suffix in PICKLES:
        raise UnreadableError(
            "is a pickle, which runs code when it is read; where you trust it, save its arrays alone by numpy.savez"
        )
    if path.suffix not in readers:
        raise UnreadableError(f"ends in '{path.suffix}'; weights end in {', '.join(ENDINGS)}, or are a folder")
    return readers[path.suffix]


def _folder(path: Path) -> Document:
    held = next((path / name for name in FOLDER_WEIGHTS if (path / name).is_file()), None)
    if held is None:
        raise SslMedError(f"{path}: is a folder without weights; one holds {' or '.join(FOLDER_WEIGHTS)}")
    beside = {}
    for name in FOLDER_BESIDE:
        if (path / name).is_file():
            with _named(path / name):
                beside[name] = read_json(path / name)
    tree, parts = _parts(path, held) if held.suffix == ".json" else (_read(held), [])
    return Document(path, tree, beside, (held, *parts, *(path / name for name in beside)))


def _parts(folder: Path, index: Path) -> tuple[Mapping[str, Any], list[Path]]:
    """Tensors of the files that model.safetensors.index.json names, and those files."""
    found: dict[str, Any] = {}
    with _named(index):
        tree = read_json(index)
        where = tree.get("weight_map") if isinstance(tree, dict) else None
        if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
            raise UnreadableError("has no 'weight_map' of tensors and files")
        names = sorted(set(where.values()))
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise UnreadableError(f"names {shown(name)}, which is no .safetensors file in that folder")
            if not (folder / name).is_file():
                raise UnreadableError(f"names {name}, which is not there; bring all parts")
            part = _read(folder / name)
            if twice := sorted(found.keys() & part.keys()):
                raise UnreadableError(f"names parts of which two hold {shown(twice[0])}; bring those of one network")
            found |= part
        if absent := sorted(where.keys() - found.keys()):
            raise UnreadableError(f"names {len(absent)} tensors that its parts do not hold, such as {shown(absent[0])}")
    return found, [folder / name for name in names]


def _safetensors(path: Path) -> State:
    safetensors_header(path)
    try:
        return load_file(path)
    except Exception as error:  # the library has an error of its own, and lets others through
        raise UnreadableError(f"is not a readable file of weights ({first_line(error)[:120]})") from None


def _is_array(value: Any) -> bool:
    """Whether a value is an array of numbers, as .npz files hold them."""
    return isinstance(value, np.ndarray) and value.dtype.kind in NUMBERS


def _tensors(node: Mapping[str, Any], path: Path) -> State:
    """Tensors of a container, checked to claim no more than the file can hold."""
    state: State = {}
    size = (
        sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if path.is_dir() else path.stat().st_size
    )
    for key, value in node.items():
        if _is_array(value):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.is_quantized:
            raise SslMedError(f"{path}: tensor {key} is sparse or quantised; save its dense form")
        if value.is_meta:
            raise SslMedError(f"{path}: tensor {key} has a shape and no values; save the network with its weights")
        if value.numel() * value.element_size() > max(
            value.untyped_storage().nbytes(), size if path.suffix == ".npz" else 0
        ):
            raise SslMedError(f"{path}: tensor {key} claims {value.numel()} values, more than its storage holds")
        state[str(key)] = value
    return state


def _plain(tree: Any, path: Path) -> dict[str, Any]:
    """What a file holds besides tensors, as plain values; a container without any is left out.

    Raises:
        SslMedError: containers that are nested too deeply, or hold each other too many times.
    """
    count = 0

    def walk(node: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > DEEPEST or count > _NODES:
            raise SslMedError(f"{path}: its values are nested too deeply, hold each other, or are too many")
        if isinstance(node, Mapping):
            inner = {str(key): walk(value, depth + 1) for key, value in node.items() if not isinstance(value, Tensor)}
            return {key: value for key, value in inner.items() if value is not None and value != {}}
        if isinstance(node, list | tuple):
            return [walk(value, depth + 1) for value in node if not isinstance(value, Tensor)]
        if isinstance(node, np.generic):
            return node.item()
        if hasattr(node, "__dict__") and type(node).__name__ == "Namespace":
            return walk(vars(node), depth + 1)
        return node if isinstance(node, str | int | float | bool) else None

    found: dict[str, Any] = walk(tree, 0)
    return found
