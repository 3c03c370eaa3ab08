"""The capability of methods that learn to restore images, besides what every method can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssl_med.methods.core.base import Method, Tensors


class Restores(ABC):
    """A method that can show what its whole network makes of images."""

    @property
    def restores(self) -> bool:
        """Whether it does with its settings."""
        return True

    @abstractmethod
    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """What it makes of clean images (B, C, *S).

        Returns:
            `corrupted`, what the network is shown, `restored`, what it makes of it, and `unchanged`, what it makes of the image
            as it is, where it has learned to; all (B, C, *S).
        """


def restoring(method: Method) -> Restores | None:
    """The method as one that restores images; None where it does not."""
    return method if isinstance(method, Restores) and method.restores else None
