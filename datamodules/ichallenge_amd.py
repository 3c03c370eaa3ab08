"""iChallenge-AMD (ADAM): 400 labelled photographs of the fundus, 89 with age-related macular degeneration.

Paper: Fang et al., "ADAM challenge: detecting age-related macular degeneration from fundus images", IEEE TMI 41(10), 2022.
Licence: see the distributor (Baidu Research Open-Access Dataset).
Assumed below the root, in any folder (Training400/AMD and Training400/Non-AMD as distributed): ANNNN.jpg with and NNNNN.jpg
without the disease; the letter decides, the folder is not looked at. The files name no patient: an image counts as a subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.core.films import RGB, Film, FilmConfig, FilmData, match_files
from ssl_med.spec import Target


class IChallengeAmdData(FilmData):
    """Two classes, from the letter of the file name."""

    Config = FilmConfig
    layout = "ANNNN.jpg (AMD) and NNNNN.jpg (not) in any folder"
    public_names = r"[AN]\d{4}"
    group_key = "image"

    @classmethod
    def labels(cls, config: FilmConfig) -> tuple[Target, tuple[str, ...]]:
        """Two classes."""
        return "class", ("no AMD", "AMD")

    @classmethod
    def channels(cls, config: FilmConfig) -> tuple[str, ...]:
        """Colour."""
        return RGB

    def index(self, root: Path) -> Sequence[Film]:
        """Photographs by name."""
        other = ("Disc_Masks", "Lesion_Masks")
        found = match_files(root, r"([AN])\d{4}\.jpe?g", quarantined=self.quarantined, skip=other)
        return [Film(path.stem, path.stem, str(path), (int(match[1] in "Aa"),)) for path, match in found]
