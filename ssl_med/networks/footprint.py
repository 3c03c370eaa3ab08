"""How much memory a training step takes, counted on torch's meta device: nothing is computed and nothing allocated.

Every tensor that a step makes is followed from its birth to its end, through forward and backward pass, so that what autograd
keeps, when it lets go, and what is alive at the worst moment follow from the network itself, whatever it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOMENTS = {"sgd": 1, "lars": 1, "adam": 2, "adamw": 2}  # tensors that an optimiser keeps for each parameter


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages that exist, and the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        for tensor in made:
            self.add(tensor)
        if "convolution" in func.__name__:
            # libraries work on copies in a layout of their own
            copies = [*made, *(tensor for tensor in tree_leaves(args) if isinstance(tensor, Tensor))]
            self.peak = max(self.peak, self.now + sum(tensor.nbytes for tensor in copies))
        return result

    def add(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor unless it is counted already; it ends by itself."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def step_bytes(build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor], *, moments: int) -> int:
    """Most bytes that are alive at a time in a training step after the first, without workspaces of a library.

    Args:
        build: makes the network; called on the meta device.
        loss: network -> scalar loss of a batch, which it makes itself; called on the meta device.
        moments: tensors that the optimiser keeps for each parameter.
    """
    with torch.device("meta"):
        network = build().train()
        weights = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
        with _Alive() as alive:
            for tensor in (*network.parameters(), *network.buffers()):
                alive.add(tensor)
            loss(network).backward()  # type: ignore[no-untyped-call]
    return int(alive.peak + moments * weights)
