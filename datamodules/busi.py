"""BUSI: 780 breast ultrasound images of 600 women, normal, benign or malignant, with masks of the lesions.

Paper: Al-Dhabyani et al., "Dataset of breast ultrasound images", Data in Brief 28, 2020. Licence: see the distributor (Cairo
University).
Expected below the root, in any folder (Dataset_BUSI_with_GT as distributed): benign/benign (N).png, malignant/malignant
(N).png, normal/normal (N).png; for lesions also 'benign (N)_mask.png' beside it, and _mask_1.png, _mask_2.png for further
lesions. The files name no woman: an image counts as a subject, although some women have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from datamodules.core.files import spelled
from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, match_files
from ssl_med.spec import SslMedError, Target

CLASSES = ("normal", "benign", "malignant")
_NAME = rf"({'|'.join(CLASSES)}) \(\d+\)"


@dataclass
class BusiConfig(ImageConfig2D):
    """What a labelled run learns."""

    target: Literal["class", "lesion"] = "class"
    """normal, benign or malignant; or the mask of all lesions, empty in normal images"""


class BusiData(ImageData2D):
    """Class from the file name, lesions from the masks beside it."""

    Config = BusiConfig
    public_sets = ("BUSI",)
    layout = "{benign,malignant,normal}/NAME (N).png and NAME (N)_mask.png"
    public_names = _NAME
    group_key = "image"

    @classmethod
    def labels(cls, config: BusiConfig) -> tuple[Target, tuple[str, ...]]:
        """Three classes or one region."""
        return ("mask", ("lesion",)) if config.target == "lesion" else ("class", CLASSES)

    def index(self, root: Path) -> Sequence[Image2D]:
        """Images by name, with their masks when those are learned."""
        lesions = self.spec.target == "mask"
        masks: dict[str, list[Path]] = {}
        for path, match in match_files(self, root, rf"({_NAME})_mask(_\d+)?\.png") if lesions else ():
            masks.setdefault(spelled(match[1].lower()), []).append(path)
        images = []
        for path, match in match_files(self, root, rf"{_NAME}\.png"):
            own = sorted(map(str, masks.get(spelled(path.stem.lower()), ())))
            if lesions and not own:
                raise SslMedError(f"{path}: has no mask '{path.stem}_mask.png'; complete the download")
            label = () if lesions else (CLASSES.index(match[1].lower()),)
            images.append(Image2D(path.stem, path.stem, str(path), label, tuple(own), (0,) * len(own)))
        return images
