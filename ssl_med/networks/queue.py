"""The queue of negative keys of MoCo (He et al. 2020) and its heirs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Queue(nn.Module):
    """Ring buffer of `size` L2-normalised keys; all of it is state, so a resumed run has the same negatives.

    keys: (dim, size), random directions until they are overwritten. pointer: where the next key goes.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(dim, size), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrites the oldest keys by (B, dim), of all processes; wraps around, and the last `size` win."""
        size = self.keys.shape[1]
        dropped = max(0, len(keys) - size)
        kept = F.normalize(keys[dropped:].to(self.keys.dtype), dim=1)
        places = (self.pointer + dropped + torch.arange(len(kept), device=self.keys.device)) % size
        self.keys[:, places] = kept.T
        self.pointer.copy_((self.pointer + len(keys)) % size)
