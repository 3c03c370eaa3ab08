"""Families whose files are MoCo's, trained on chest X-rays."""

from __future__ import annotations

from typing import ClassVar

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.wrapped import first_convolution
from ssl_med.weights.moco import MoCo


class MoCoOfRadiographs(MoCo):
    """MoCo's layout; the channels and the networks that were released tell the family."""

    prefixes = ("module.encoder_q.", "encoder_q.")
    channels: ClassVar[int]
    """of the images"""
    networks: ClassVar[tuple[str, ...]]
    """that were released"""
    mean: ClassVar[float]
    """of grey levels in [0, 1], of each channel alike"""
    std: ClassVar[float]
    """the same of their deviation"""
    side: ClassVar[int]
    """of the images, in pixels"""
    note: ClassVar[str]
    """what else must be known of the images"""

    def recognises(self, file: ForeignFile) -> bool:
        """One of the released networks for as many channels."""
        prefix = self.prefix(file)
        if prefix is None or first_convolution(file, prefix)[1] != self.channels:
            return False
        return self.architecture(file).config.name in self.networks

    def contract(self, file: ForeignFile) -> InputContract:
        """X-rays by their own mean and deviation."""
        channels = self.architecture(file).in_channels
        return InputContract(
            modality="X-ray",
            patch_size=(self.side, self.side),
            mean=(self.mean,) * channels,
            std=(self.std,) * channels,
            notes=(self.note,),
        )
