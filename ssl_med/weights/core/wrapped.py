"""Families whose files hold a 2D encoder of torchvision under a prefix, beside what their training needed."""

from __future__ import annotations

import re
from typing import ClassVar

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Alias, Drop, Rule, strip
from ssl_med.weights.torchvision import ENCODER, WRAPPERS, Torchvision, network

_FIRST = ("conv1.weight", "features.conv0.weight")  # of a ResNet, of a DenseNet


class WrappedEncoder(Family):
    """A ResNet or DenseNet-121 whose keys are torchvision's behind a prefix.

    Where the user names the family, an encoder that has lost its prefix and all that stood beside it is accepted, too: many
    scripts save it so, and then it looks like torchvision's own, whose name alone is found by recognition.
    """

    prefixes: ClassVar[tuple[str, ...]]
    """of the encoder's keys, best first"""
    mark: ClassVar[str] = ".*"
    """pattern of a key, without which the file is of another family"""
    rest: ClassVar[tuple[Drop | Alias, ...]] = ()
    """what else such a file holds, and why it is left out"""
    head: ClassVar[str] = "projection head"
    """what stands in place of torchvision's classifier, `fc` or `classifier`"""

    def recognises(self, file: ForeignFile) -> bool:
        """An encoder behind one of the prefixes, and a key with the family's mark."""
        return self.prefix(file) is not None and any(re.fullmatch(self.mark, key) for key in file.state)

    def admits(self, file: ForeignFile) -> bool:
        """An encoder behind one of the prefixes, or a bare one."""
        return self.prefix(file) is not None or Torchvision().recognises(file)

    def architecture(self, file: ForeignFile) -> Architecture:
        """By the number of blocks, and whether they are bottlenecks."""
        return network(file, prefix=self.prefix(file) or "")

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's."""
        return photograph(self.architecture(file).in_channels)

    def rules(self, file: ForeignFile) -> list[Rule]:
        """What stands beside the encoder and its head are left out, the prefix goes."""
        prefix = self.prefix(file)
        bare = strip(*WRAPPERS) if prefix is None else [*self.rest, *strip(prefix)] if prefix else [*self.rest]
        return [*bare, Drop(r"(fc|classifier)\..+", self.head), *ENCODER]

    def prefix(self, file: ForeignFile) -> str | None:
        """The first of the prefixes behind which the file holds a 2D encoder; None where there is no such one."""
        found = (prefix for prefix in self.prefixes if first_convolution(file, prefix))
        return next(found, None)


def first_convolution(file: ForeignFile, prefix: str = "") -> tuple[int, ...]:
    """Shape (O, C, 7, 7) of the convolution that sees the image; () where no 2D encoder stands behind the prefix."""
    shapes = (file.shape(f"{prefix}{key}") for key in _FIRST)
    return next((shape for shape in shapes if len(shape) == 4), ())
