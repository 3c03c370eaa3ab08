"""Semantic Genesis: the U-Net of Models Genesis, trained to restore and to tell recurring anatomical patterns apart.

Haghighi et al., "Learning semantics-enriched representation via self-discovery, self-classification, and self-restoration",
MICCAI 2020. Keys of Models Genesis behind `module.` and, from the first stage, `classficationNet.`; besides them clc_out.
{conv1,bn1,fc1}. Files of the first stage hold an encoder alone. TransVW's files have the same layout.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule
from ssl_med.weights.models_genesis import UNET, ModelsGenesis, bare, chest_ct, holds_unet, unet

HEADS = r"(module\.)?(classficationNet\.)?(clc_out|projection_head|prototypes)\..*"
_PATTERN_HEAD = re.compile(HEADS)


class SemanticGenesis(Family):
    """The U-Net with a head that classified anatomical patterns."""

    citation = "Haghighi, Hosseinzadeh Taher, Zhou, Gotway, Liang: Semantic Genesis, MICCAI 2020"
    licence = "Arizona State University: academic and other non-commercial research only"
    commercial = False
    source = "https://github.com/fhaghighi/SemanticGenesis: semantic_genesis_chest_ct.pt"
    saw = ("LUNA16",)
    traps = (
        *ModelsGenesis.traps,
        "TransVW has the same layout: nothing in a file tells them apart, so name the family.",
    )
    agreement = "SemanticGenesis bed8d90, batch statistics: encoder 0, decoder 3.6e-6 (features up to 7)"

    def recognises(self, file: ForeignFile) -> bool:
        """The U-Net of Models Genesis with a classification head."""
        heads = [key for key in file.state if _PATTERN_HEAD.fullmatch(key)]
        others = [bare(key) for key in file.state if not _PATTERN_HEAD.fullmatch(key)]
        known = re.compile(r"(down_tr|up_tr|out_tr).*")
        return bool(heads) and holds_unet(file) and all(known.fullmatch(key) for key in others)

    def architecture(self, file: ForeignFile) -> Architecture:
        """That of Models Genesis."""
        return unet(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """That of Models Genesis."""
        return chest_ct()

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Every head is left out."""
        return [Drop(HEADS, "head that classified anatomical patterns"), *UNET]
