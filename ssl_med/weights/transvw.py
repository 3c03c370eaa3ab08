"""TransVW: the U-Net of Models Genesis, trained on transferable visual words; the layout is Semantic Genesis'.

Haghighi et al., "Transferable visual words: exploiting the semantics of anatomical patterns for self-supervised learning",
IEEE Transactions on Medical Imaging 2021.
"""

from __future__ import annotations

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rule
from ssl_med.weights.models_genesis import ModelsGenesis, chest_ct, unet
from ssl_med.weights.semantic_genesis import WORDS, recognises_words


class TransVW(Family):
    """The U-Net with a head that classified visual words."""

    citation = "Haghighi, Hosseinzadeh Taher, Zhou, Gotway, Liang: Transferable Visual Words, IEEE TMI 2021"
    licence = "Arizona State University: academic and other non-commercial research only"
    commercial = False
    source = "https://github.com/fhaghighi/TransVW: TransVW_chest_ct.pt"
    saw = ("LUNA16",)
    traps = (
        *ModelsGenesis.traps,
        "Semantic Genesis has the same layout: nothing in a file tells them apart, so name the family.",
    )
    agreement = "TransVW bd4f3e3, batch statistics: encoder 0, decoder 3.6e-6 (features up to 7)"

    def recognises(self, file: ForeignFile) -> bool:
        """As Semantic Genesis does."""
        return recognises_words(file)

    def architecture(self, file: ForeignFile) -> Architecture:
        """That of Models Genesis."""
        return unet(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """That of Models Genesis."""
        return chest_ct()

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Every head is left out."""
        return [*WORDS]
