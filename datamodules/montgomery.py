"""Montgomery: 138 chest radiographs, 58 with tuberculosis, with lung masks (Jaeger et al., Quant. Imaging Med. Surg. 4, 2014).

Licence: see the distributor (U.S. National Library of Medicine).
Expected below the root, in any folder (MontgomerySet as distributed): CXR_png/MCUCXR_NNNN_K.png, K = 0 normal, 1 tuberculosis;
for the lungs also ManualMask/leftMask/ and ManualMask/rightMask/ with files of the same name. One radiograph a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.core.files import spelled
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, has_ending, match_files
from ssl_med.spec import SslMedError, Target

_MASKS = ("leftMask", "rightMask")


@dataclass
class MontgomeryConfig(ImageConfig2D):
    """What a labelled run learns."""

    target: Literal["tuberculosis", "lungs"] = "tuberculosis"
    """normal or tuberculosis, or masks of the two lungs; Dice counts pixels of the image as resized to image_size"""


class MontgomeryData(ImageData2D):
    """Class from the file name, lung masks from ManualMask."""

    Config = MontgomeryConfig
    public_sets = ("Montgomery",)
    layout = "CXR_png/MCUCXR_NNNN_0.png and _1.png, and ManualMask/leftMask, rightMask"
    public_names = r"MCUCXR_\d+_[01]"

    @classmethod
    def labels(cls, config: MontgomeryConfig) -> tuple[Target, tuple[str, ...]]:
        """Two classes or two regions."""
        if config.target == "lungs":
            return "mask", ("left lung", "right lung")
        return "class", ("normal", "tuberculosis")

    def index(self, root: Path) -> Sequence[Image2D]:
        """Radiographs by name, with their masks when those are learned."""
        radiographs, lungs = [], self.spec.target == "mask"
        pictures = self.find(root, has_ending(".png")) if lungs else []
        masks = {(path.parent.name, spelled(path.name)): path for path in pictures}
        for path, match in match_files(self, root, r"MCUCXR_(\d+)_([01])\.png", skip=_MASKS):
            absent = [side for side in _MASKS if lungs and (side, spelled(path.name)) not in masks]
            if absent:
                raise SslMedError(f"{path}: has no mask ManualMask/{absent[0]}/{path.name}; complete the download")
            own = tuple(str(masks[side, spelled(path.name)]) for side in _MASKS) if lungs else ()
            radiographs.append(Image2D(path.stem, match[1], str(path), () if lungs else (int(match[2]),), own))
        return radiographs
