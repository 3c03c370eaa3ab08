"""The queue of negative keys of MoCo (He et al. 2020) and its heirs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.spec import SslMedError


class Queue(nn.Module):
    """Ring buffer of `size` L2-normalised keys; all of it is state, so a resumed run has the same negatives.

    keys: (dim, size). pointer: where the next key goes. filled: how many keys of their own there are by now.

    The first push fills all places with its keys, again and again, and later pushes overwrite them. Random directions in
    the remaining places, as in the official code of MoCo, are far from every image: to be close to all images at once is
    then the quickest way to a low loss, and a short training does not find out of it.

    Args:
        dim: length of a key.
        size: number of keys.
        generator: source of the random directions that the queue holds before the first push; by default the global one.

    Raises:
        SslMedError: no room for a single key.
    """

    keys: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, dim: int, size: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if size < 1:
            raise SslMedError(f"method.queue is {size}; a queue needs at least one key")
        self.register_buffer("keys", F.normalize(torch.randn(dim, size, generator=generator), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self._begun = False

    @property
    def full(self) -> bool:
        """Whether each place has had a key of its own; waits for the device."""
        return int(self.filled) == self.keys.shape[1]

    @torch.no_grad()
    def push(self, keys: Tensor) -> None:
        """Overwrites the oldest keys by (B, dim), which are normalised here; wraps around, and the last `size` win.

        With several processes the caller gathers the keys of all of them first.
        """
        size = self.keys.shape[1]
        dropped = max(0, len(keys) - size)
        kept = F.normalize(keys[dropped:].to(self.keys.dtype), dim=1)
        if not self._begun:
            self._begun = True
            if not int(self.filled):  # asked once: it waits for the device
                self.keys.copy_(kept[torch.arange(size, device=kept.device) % len(kept)].T)
        places = (self.pointer + dropped + torch.arange(len(kept), device=self.keys.device)) % size
        self.keys[:, places] = kept.T
        self.pointer.copy_((self.pointer + len(keys)) % size)
        self.filled.copy_((self.filled + len(keys)).clamp(max=size))


def own_keys(length: int, samples: int) -> list[str]:
    """A note where a queue holds more keys than there are images, so that an image finds former keys of its own in it."""
    if length <= samples:
        return []
    return [
        f"method.queue={length} is above the {samples} training samples: former keys of an image are among its negatives"
    ]
