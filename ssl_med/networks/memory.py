"""What a network last made of each training sample: the memory of PIRL and DeepCluster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNKNOWN = 1024  # samples there is room for until their number is known


class Memory(nn.Module):
    """One vector for each training sample, by its number; all of it is state.

    entries: (size, dim), random directions until they are written. seen: (size,) which ones are real.
    written: how many were written so far, some of them repeatedly; a Python number, so that reading it waits for no device.

    Args:
        dim: length of an entry.
        normalize: entries are L2-normalised.
    """

    entries: Tensor
    seen: Tensor

    def __init__(self, dim: int, *, normalize: bool) -> None:
        super().__init__()
        self.dim, self.normalize, self.written = dim, normalize, 0
        self.resize(UNKNOWN)

    def resize(self, size: int) -> None:
        """Forgets everything and makes room for `size` samples."""
        device = self.entries.device if "entries" in self._buffers else None
        start = torch.randn(size, self.dim, generator=torch.Generator().manual_seed(0))  # the same in all processes
        self.register_buffer("entries", F.normalize(start, dim=1).to(device))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool, device=device))
        self.written = 0

    def get_extra_state(self) -> Tensor:
        """Entries written, as an int64 scalar."""
        return torch.tensor(self.written)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from there."""
        self.written = int(state)

    @torch.no_grad()
    def write(self, index: Tensor, values: Tensor, *, momentum: float = 0.0) -> None:
        """Moves entries `index` (B,) to momentum * entry + (1 - momentum) * value, unseen ones to the value itself.

        With several processes the caller gathers both of all of them first. Of a sample that comes twice the last value
        counts, on every device.
        """
        row = torch.arange(len(index), device=index.device)
        last = torch.zeros(len(self.entries), dtype=torch.long, device=index.device)
        last.scatter_reduce_(0, index, row, "amax")
        values = values[last[index]].to(self.entries.dtype)
        values = F.normalize(values, dim=1) if self.normalize else values
        kept = momentum * self.seen[index].to(values.dtype)[:, None]
        values = torch.lerp(values, self.entries[index], kept)
        self.entries[index] = F.normalize(values, dim=1) if self.normalize else values
        self.seen[index] = True
        self.written += len(index)
