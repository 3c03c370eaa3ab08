"""Features of a frozen encoder: extracted in one pass, kept in a file that is keyed by weights and data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssl_med.files import new_file
from ssl_med.finite import NotFiniteError, check_rows
from ssl_med.networks.pyramid import Backbone
from ssl_med.reading import UnreadableError, mismatch, parse_json
from ssl_med.spec import Batch, SslMedError


@dataclass(frozen=True)
class Features:
    """N samples: their names, features (N, D) float32, and labels (N,) int64 or (N, K) float32, nan where unknown.

    Raises:
        NotFiniteError: a feature is nan or infinite; no protocol can say anything of such a sample.
    """

    ids: tuple[str, ...]
    x: Tensor
    label: Tensor

    def __post_init__(self) -> None:
        check_rows(self.ids, self.x, "features")

    def __len__(self) -> int:
        return len(self.ids)

    def __add__(self, other: Features) -> Features:
        return Features(self.ids + other.ids, torch.cat([self.x, other.x]), torch.cat([self.label, other.label]))

    def rows(self, chosen: np.ndarray) -> Features:
        """Some of the samples, by number."""
        some = torch.from_numpy(chosen).to(self.x.device)
        return Features(tuple(self.ids[k] for k in chosen.tolist()), self.x[some], self.label[some])

    def to(self, device: torch.device) -> Features:
        """The same on another device."""
        return Features(self.ids, self.x.to(device), self.label.to(device))


def check_levels(backbone: Backbone, levels: Sequence[int]) -> tuple[int, ...]:
    """Levels of the pyramid as numbers from the finest, 0; negative ones count from the last.

    Raises:
        SslMedError: none, one that the backbone has not, or one twice.
    """
    count = len(backbone.channels)
    found = [level + count if level < 0 else level for level in levels]
    if not found or len(set(found)) < len(found) or not all(0 <= level < count for level in found):
        raise SslMedError(
            f"probe.levels {list(levels)} must be different levels of the backbone, 0 (finest) to {count - 1} or -1 (last)"
        )
    return tuple(found)


def pooled(backbone: Backbone, image: Tensor, levels: Sequence[int]) -> Tensor:
    """Global averages of the levels, joined: (B, C, *S) -> (B, D)."""
    pyramid = backbone(image)
    return torch.cat([backbone.pool(pyramid[: level + 1]) for level in levels], 1)


@torch.inference_mode()
def extract(
    backbone: Backbone,
    batches: Iterable[Batch],
    features_of: Callable[[Batch], tuple[Sequence[str], Tensor, Tensor]],
    *,
    device: torch.device,
    precision: str = "32",
) -> Features:
    """One pass over a loader with the encoder in evaluation mode: batch statistics are neither used nor changed.

    Args:
        backbone: the encoder; it is moved to `device`.
        batches: of `ssl_med.spec.Batch`.
        features_of: batch on the device -> names, features (N, D), labels.
        device: where to compute.
        precision: as trainer.precision.
    """
    backbone.to(device).eval()
    ids: list[str] = []
    parts: list[tuple[Tensor, Tensor]] = []
    for batch in batches:
        there: Any = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        with arithmetic(device, precision):
            names, x, label = features_of(there)
        ids += names
        parts.append((x.float().cpu(), label.cpu()))
    if not parts:
        raise SslMedError("no sample to take features of; look at data.split and labels")
    return Features(tuple(ids), torch.cat([x for x, _ in parts]), torch.cat([label for _, label in parts]))


def arithmetic(device: torch.device, precision: str) -> torch.autocast:
    """What trainer.precision means for a forward pass: automatic casts, or none."""
    kind = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=kind, enabled=kind is not None)


def weights_key(module: nn.Module) -> str:
    """16 hex digits, a digest of all weights and statistics of a network."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def settings_key(*parts: Any) -> str:
    """16 hex digits, a digest of plain settings."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def cached(path: Path, make: Callable[[], Features]) -> tuple[Features, bool]:
    """The features in a file, or new ones, which are then kept there; and whether they were there already."""
    if path.is_file():
        try:
            with safe_open(path, framework="pt") as file:
                names = parse_json((file.metadata() or {})["ids"])
                held = Features(tuple(names), file.get_tensor("x"), file.get_tensor("label"))
            if mismatch(list[str], names) or not held.x.ndim == 2 or not len(held.x) == len(held.label) == len(names):
                raise UnreadableError("ids, features and labels do not belong together")
            return held, True
        except (SafetensorError, NotFiniteError, OSError, KeyError, ValueError, TypeError):
            path.unlink()  # damaged: it is made again
    found = make()
    tensors = {"x": found.x.contiguous(), "label": found.label.contiguous()}
    with new_file(path) as file:
        save_file(tensors, file, metadata={"ids": json.dumps(found.ids)})
    return found, False


@contextmanager
def kept_mode(module: nn.Module) -> Iterator[None]:
    """Training and evaluation mode of every part are afterwards as they were."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
