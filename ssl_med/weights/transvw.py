"""TransVW: the U-Net of Models Genesis, trained on transferable visual words; the layout is Semantic Genesis'.

Haghighi et al., "Transferable visual words: exploiting the semantics of anatomical patterns for self-supervised learning",
IEEE Transactions on Medical Imaging 2021.
"""

from __future__ import annotations

from ssl_med.weights.models_genesis import ModelsGenesis
from ssl_med.weights.semantic_genesis import SemanticGenesis


class TransVW(SemanticGenesis):
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
