"""iChallenge-PM (PALM): 400 labelled photographs of the fundus for pathological myopia.

Paper: Fang et al., "Open fundus photograph dataset with pathologic myopia recognition and anatomical structure annotation",
Scientific Data 11, 2024.
Licence: see the distributor (Baidu Research Open-Access Dataset).
Assumed below the root, in any folder (PALM-Training400 as distributed): PNNNN.jpg pathological myopia, HNNNN.jpg high but not
pathological myopia, NNNNN.jpg normal. P is the positive class; H and N are the other. The files name no patient: an image
counts as a subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, match_files
from ssl_med.spec import RGB, Target


class IChallengePmData(ImageData2D):
    """Two classes, from the letter of the file name."""

    Config = ImageConfig2D
    layout = "PNNNN.jpg (pathological), HNNNN.jpg and NNNNN.jpg (not) in any folder"
    public_names = r"[PHN]\d{4}"
    group_key = "image"

    @classmethod
    def labels(cls, config: ImageConfig2D) -> tuple[Target, tuple[str, ...]]:
        """Two classes."""
        return "class", ("not pathological", "pathological myopia")

    @classmethod
    def channels(cls, config: ImageConfig2D) -> tuple[str, ...]:
        """Colour."""
        return RGB

    def index(self, root: Path) -> Sequence[Image2D]:
        """Photographs by name."""
        found = match_files(self, root, r"([PHN])\d{4}\.jpe?g")
        return [Image2D(path.stem, path.stem, str(path), (int(match[1] in "Pp"),)) for path, match in found]
