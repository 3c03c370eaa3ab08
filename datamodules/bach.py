"""BACH: 400 microscopy images of breast tissue, 100 of each of four classes (Aresta et al., Medical Image Analysis 56, 2019).

Licence: see the distributor (ICIAR 2018 Grand Challenge).
Expected below the root, in any folder (ICIAR2018_BACH_Challenge/Photos as distributed): Normal/, Benign/, InSitu/ and Invasive/
with .tif images, 2048 x 1536 pixels, haematoxylin and eosin. The files name no patient, so an image counts as a subject: images
of one patient may fall into two parts, and test results are flattered by as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, match_files
from ssl_med.spec import RGB, Target

_FOLDERS = {"Normal": "normal", "Benign": "benign", "InSitu": "in situ carcinoma", "Invasive": "invasive carcinoma"}


class BachData(ImageData2D):
    """Four classes by folder."""

    Config = ImageConfig2D
    public_sets = ("BACH",)
    layout = "Normal/, Benign/, InSitu/ and Invasive/ with .tif images"
    public_names = r"(n|b|is|iv)\d+"
    group_key = "image"

    @classmethod
    def labels(cls, config: ImageConfig2D) -> tuple[Target, tuple[str, ...]]:
        """Four classes."""
        return "class", tuple(_FOLDERS.values())

    @classmethod
    def channels(cls, config: ImageConfig2D) -> tuple[str, ...]:
        """Colour."""
        return RGB

    def index(self, root: Path) -> Sequence[Image2D]:
        """Images in the four folders; the unlabelled test photos of the challenge lie elsewhere."""
        numbers = {folder: number for number, folder in enumerate(_FOLDERS)}
        images = []
        for path, _ in match_files(self, root, r"(n|b|is|iv)\d+\.tiff?", folders=numbers):
            number = numbers.get(path.parent.name)
            if number is not None:
                images.append(Image2D(path.stem, path.stem, str(path), (number,)))
        return images
