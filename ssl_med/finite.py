"""NaN and infinity in weights and features: found before anything is made of them, by one check with one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ssl_med.spec import SslMedError


class NotFiniteError(SslMedError):
    """Numbers that are NaN or infinite, where a result would be made of them."""


@torch.no_grad()
def first_bad(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """Name of the first tensor that holds NaN or infinity; '' when all are finite. One synchronisation in all."""
    items = [
        (name, value)
        for name, value in (tensors.items() if isinstance(tensors, Mapping) else tensors)
        if value.is_floating_point() and value.numel()
    ]
    if not items:
        return ""
    flags = torch.stack([value.isfinite().all().to(items[0][1].device) for _, value in items])
    if bool(flags.all()):
        return ""
    return items[int(flags.int().argmin())][0]


def check_tensors(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuses weights that are not finite.

    Args:
        tensors: by name.
        what: whose they are, such as a file.

    Raises:
        NotFiniteError: names the first one.
    """
    name = first_bad(tensors)
    if name:
        raise NotFiniteError(f"{what}: tensor {name} holds NaN or infinity; its training diverged, take other weights")


@torch.no_grad()
def check_rows(names: Sequence[str], values: Tensor, what: str) -> None:
    """Refuses samples whose values are not finite.

    Args:
        names: of N samples.
        values: (N, ...).
        what: they are, "features" or "logits".

    Raises:
        NotFiniteError: names the first sample, and how many there are.
    """
    bad = ~values.flatten(1).isfinite().all(1) if values.ndim > 1 else ~values.isfinite()
    count = int(bad.sum())
    if count:
        first = names[int(bad.int().argmax())] if len(names) == len(values) else "a sample"
        raise NotFiniteError(
            f"the {what} of {first} hold NaN or infinity ({count} of {len(values)} samples): the weights have diverged or the "
            "arithmetic overflows; try trainer.precision=32, or other weights"
        )
