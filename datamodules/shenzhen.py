"""Shenzhen: 662 chest radiographs, 336 with and 326 without tuberculosis (Jaeger et al., Quant. Imaging Med. Surg. 4, 2014).

Licence: see the distributor (U.S. National Library of Medicine).
Expected below the root, in any folder (ChinaSet_AllFiles/CXR_png as distributed): CHNCXR_NNNN_K.png, K = 0 normal, 1
tuberculosis. One radiograph a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, match_files
from ssl_med.spec import Target


class ShenzhenData(ImageData2D):
    """Normal or tuberculosis, from the file name."""

    Config = ImageConfig2D
    public_sets = ("Shenzhen",)
    layout = "CXR_png/CHNCXR_NNNN_0.png and _1.png"
    public_names = r"CHNCXR_\d+_[01]"

    @classmethod
    def labels(cls, config: ImageConfig2D) -> tuple[Target, tuple[str, ...]]:
        """Two classes."""
        return "class", ("normal", "tuberculosis")

    def index(self, root: Path) -> Sequence[Image2D]:
        """Radiographs by name."""
        found = match_files(self, root, r"CHNCXR_(\d+)_([01])\.png")
        return [Image2D(path.stem, match[1], str(path), (int(match[2]),)) for path, match in found]
