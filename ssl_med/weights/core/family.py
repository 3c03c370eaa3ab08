"""The contract of a family of foreign weights, and the conversion of one file with a full account of its tensors."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssl_med.checkpoint import Card
from ssl_med.finite import check_tensors
from ssl_med.networks.backbone import build_backbone
from ssl_med.networks.pyramid import Backbone, BackboneConfig
from ssl_med.reading import UnreadableError, safetensors_header
from ssl_med.spec import DataSpec, SslMedError, first_line
from ssl_med.weights.core.torch_files import read_torch

State = dict[str, Tensor]
_CONTAINERS = ("state_dict", "model_state_dict", "model", "network_weights")
# file endings, and the reader of each; torch's reader takes tensors and plain containers only, never code
_SAFE, _TORCH = (".safetensors",), (".pth", ".pt", ".ckpt", ".tar")


class Family(ABC):
    """Weights that were trained elsewhere and share one layout of keys.

    A family is one file in `ssl_med/weights` with one public subclass. It says which keys it knows, which network they fill and
    what its images looked like; `convert` does the rest and refuses whatever stays unexplained.
    """

    citation: ClassVar[str]  # paper or page of the weights
    licence: ClassVar[str]

    @abstractmethod
    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        """Whether a file's tensors have this family's layout."""

    @abstractmethod
    def architecture(self, state: Mapping[str, Tensor]) -> tuple[BackboneConfig, DataSpec]:
        """The network that the tensors fill, and the contract of the images that it was trained on."""

    @abstractmethod
    def rename(self, key: str) -> str:
        """The encoder's name of a foreign key; "" for a key that is left out on purpose (a head)."""

    def adjust(self, state: State) -> list[str]:
        """Changes renamed tensors in place where our networks see other images than the original; returns what it did."""
        return []


@dataclass(frozen=True)
class Account:
    """Where every tensor of a file and of the network went; each is in exactly one list.

    * used: (foreign key, our key). * dropped: foreign keys left out on purpose. * unexplained: foreign keys that fill nothing.
    * missing: our keys that nothing fills. * mismatched: our keys whose tensor has another shape.
    """

    used: tuple[tuple[str, str], ...]
    dropped: tuple[str, ...]
    unexplained: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Every tensor of the network came from the file, and nothing of the file is unexplained."""
        return not (self.unexplained or self.missing or self.mismatched)

    def __str__(self) -> str:
        renamed = sum(theirs != ours for theirs, ours in self.used)
        parts = [f"used {len(self.used)} ({renamed} renamed)", f"dropped on purpose {len(self.dropped)}"]
        for name in ("missing", "mismatched", "unexplained"):
            keys = getattr(self, name)
            shown = f": {', '.join(keys[:4])}{', …' if len(keys) > 4 else ''}" if keys else ""
            parts.append(f"{name} {len(keys)}{shown}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Converted:
    """A foreign file as one of our networks, its card, the account of its tensors, and what was changed on the way."""

    backbone: Backbone
    card: Card
    account: Account
    notes: tuple[str, ...]


def convert(path: Path, name: str, family: Family, *, versions: dict[str, str], git: str) -> Converted:
    """Reads a foreign file and fills one of our encoders with it, completely or not at all.

    Args:
        path: file of the weights.
        name: of the family; the card gives it as the method.
        family: that the file belongs to.
        versions: of the libraries, for the card.
        git: commit of the code, for the card.

    Raises:
        SslMedError: the file cannot be read, is not of this family, or leaves a tensor missing, mismatched or unexplained.
    """
    state = read_state(path)
    if not family.recognises(state):
        raise SslMedError(f"{path}: does not have the layout of family={name} ({_some(state)})")
    config, spec = family.architecture(state)
    backbone = build_backbone(config, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
    account, renamed = _account(state, backbone.state_dict(), family.rename)
    if not account.complete:
        raise SslMedError(f"{path}: does not fill {config.name} as family={name}: {account}")
    check_tensors(renamed, str(path))
    notes = family.adjust(renamed)
    # tensors of `state_dict` are the network's own, so copying into them fills it whatever their type
    for key, value in backbone.state_dict().items():
        value.copy_(renamed[key])
    card = Card(
        method=name,
        method_config={"citation": family.citation, "licence": family.licence, "file": path.name, "notes": notes},
        backbone=_plain(config),
        spec=replace(spec).to_dict(),
        skips=None,
        steps=0,
        seed=0,
        versions=versions,
        git=git,
        subjects=(),
    )
    return Converted(backbone, card, account, tuple(notes))


def read_state(path: Path) -> State:
    """Tensors of a foreign file by key, out of the container that they lie in.

    Raises:
        SslMedError: no such file, another ending, a damaged file, one that would run code, or one without tensors.
    """
    if not path.is_file():
        raise SslMedError(f"{path}: no such file")
    if path.suffix not in (*_SAFE, *_TORCH):
        raise SslMedError(f"{path}: ends in '{path.suffix}'; weights end in {', '.join((*_SAFE, *_TORCH))}")
    try:
        found = _read_safetensors(path) if path.suffix in _SAFE else read_torch(path)
    except UnreadableError as error:
        raise SslMedError(f"{path}: {error}") from None
    while isinstance(found, dict) and (inner := [key for key in _CONTAINERS if isinstance(found.get(key), dict)]):
        found = found[inner[0]]
    state = (
        {str(key): value for key, value in found.items() if isinstance(value, Tensor) and value.layout == torch.strided}
        if isinstance(found, dict)
        else {}
    )
    if not state:
        raise SslMedError(f"{path}: holds no tensors by name")
    return state


def _read_safetensors(path: Path) -> Any:
    safetensors_header(path)
    try:
        return load_file(path)
    except Exception as error:  # the library has an error of its own, and lets others through
        raise UnreadableError(f"is not a readable file of weights ({first_line(error)[:120]})") from None


def _account(state: State, wanted: Mapping[str, Tensor], rename: Callable[[str], str]) -> tuple[Account, State]:
    used, dropped, unexplained, mismatched, renamed = [], [], [], [], {}
    for theirs, tensor in state.items():
        ours = rename(theirs)
        if not ours:
            dropped.append(theirs)
        elif ours not in wanted:
            unexplained.append(theirs)
        elif wanted[ours].shape != tensor.shape:
            mismatched.append(f"{ours} {list(tensor.shape)} for {list(wanted[ours].shape)}")
        else:
            used.append((theirs, ours))
            renamed[ours] = tensor.detach().clone()
    filled = {*renamed, *(text.split()[0] for text in mismatched)}
    missing = tuple(key for key in wanted if key not in filled)
    return Account(tuple(used), tuple(dropped), tuple(unexplained), missing, tuple(mismatched)), renamed


def _plain(config: BackboneConfig) -> dict[str, Any]:
    from dataclasses import asdict

    plain: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return plain


def _some(state: Mapping[str, Tensor]) -> str:
    keys = list(state)
    return f"{len(keys)} tensors: {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}"
