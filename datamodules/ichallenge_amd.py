"""iChallenge-AMD (ADAM): 400 labelled photographs of the fundus, 89 with age-related macular degeneration.

Paper: Fang et al., "ADAM challenge: detecting age-related macular degeneration from fundus images", IEEE TMI 41(10), 2022.
Licence: see the distributor (Baidu Research Open-Access Dataset).
Assumed below the root, in any folder (Training400/AMD and Training400/Non-AMD as distributed): ANNNN.jpg with and NNNNN.jpg
without the disease; the letter decides, the folder is not looked at. The files name no patient: an image counts as a subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.core.image_samples import Image2D
from datamodules.core.images2d import ImageConfig2D, ImageData2D, match_files
from ssl_med.spec import RGB, Target


class IChallengeAmdData(ImageData2D):
    """Two classes, from the letter of the file name."""

    Config = ImageConfig2D
    layout = "ANNNN.jpg (AMD) and NNNNN.jpg (not) in any folder"
    public_names = r"[AN]\d{4}"
    group_key = "image"

    @classmethod
    def labels(cls, config: ImageConfig2D) -> tuple[Target, tuple[str, ...]]:
        """Two classes."""
        return "class", ("no AMD", "AMD")

    @classmethod
    def channels(cls, config: ImageConfig2D) -> tuple[str, ...]:
        """Colour."""
        return RGB

    def index(self, root: Path) -> Sequence[Image2D]:
        """Photographs by name."""
        other = ("Disc_Masks", "Lesion_Masks")
        found = match_files(self, root, r"([AN])\d{4}\.jpe?g", skip=other)
        return [Image2D(path.stem, path.stem, str(path), (int(match[1] in "Aa"),)) for path, match in found]
