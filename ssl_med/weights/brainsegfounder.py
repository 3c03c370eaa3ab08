"""BrainSegFounder: SwinUNETR pretrained on brain MR of the UK Biobank, then on BraTS.

Cox et al., "BrainSegFounder: towards 3D foundation models for neuroimage segmentation", Medical Image Analysis 2024.
Keys are those of the pretraining of Tang et al.: `module.swinViT.*` in `state_dict`, so a user has to name the family.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rule, strip
from ssl_med.weights.swin_unetr import KEEPS, MERGING, WRAPPERS, first_key, network, swin_rules

_FIRST = re.compile(r"module\.swinViT\.patch_embed\.proj\.weight")


class BrainSegFounder(Family):
    """The layout of SwinUNETR's pretraining, on MR."""

    citation = "Cox et al., Medical Image Analysis 2024"
    licence = "not said with the weights"
    commercial = None
    source = "lab-smile/BrainSegFounder"
    containers = ("state_dict",)
    keeps = KEEPS
    saw = ("UK Biobank", "BraTS 2021")
    traps = (
        MERGING,
        "The range of intensities of the first stage was never published.",
        "The file of ATLAS is a pickled network, which would run code when it is read.",
        "Files of SwinUNETR's own pretraining have the same keys: name the family.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """What the pretraining of SwinUNETR saves from several graphics cards."""
        return first_key(file, _FIRST) != "" and not any(".layers1c." in key for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes are those of the tensors."""
        return network(file, _FIRST)

    def contract(self, file: ForeignFile) -> InputContract:
        """Brain MR; how it was scaled is not published."""
        return InputContract(
            modality="MR",
            patch_size=(96, 96, 96),
            scaling="zscore",
            over="nonzero",
            orientation="RAS",
            notes=("how intensities were scaled is not published; the z-score of the brain is BraTS' usual one",),
        )

    def rules(self, file: ForeignFile) -> list[Rule]:
        """SwinUNETR's."""
        return [*strip(*WRAPPERS), *swin_rules(file)]
