"""PCRLv2: a 2D ResNet-18 of chest X-rays, and a 3D U-Net of chest CT whose decoder has no skip connections.

Zhou et al., "A unified visual information preservation framework for self-supervised pre-training in medical image analysis",
IEEE TPAMI 2023. 3D: Models Genesis' names with ordinary batch normalisation; each step of the decoder also has bn,
predictor_head (contrast) and deep_supervision_head. 2D: `state_dict` is torchvision's ResNet-18 without fc.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule
from ssl_med.weights.models_genesis import UNET, bare, chest_ct, holds_unet, unet
from ssl_med.weights.pcrl import is_resnet18, resnet18, xray


class PCRLv2(Family):
    """Encoder in 2D; encoder and decoder without skips in 3D."""

    citation = "Zhou, Lu, Chen, Yang, Yu: PCRLv2, IEEE TPAMI 2023"
    licence = "MIT"
    commercial = True
    source = "https://github.com/RL4M/PCRLv2: simance_multi_crop_{luna,chest,chexpter}_pretask_1.0_240.pt"
    saw = ("LUNA16", "ChestX-ray14", "CheXpert")
    traps = (
        "The decoder has no skip connections: a U-Net with skips takes its transposed convolutions only, if it does not "
        "fail; a task that starts from it here has a decoder without skips, unless transfer.decoder=false.",
        "Crops are clipped to [-1000, 1000] HU and then z-scored, unlike PCRL's, which stay in [0, 1].",
    )
    agreement = "PCRLv2 6634bef, 3D: encoder 0, decoder 1.6e-7"

    def recognises(self, file: ForeignFile) -> bool:
        """3D: the U-Net with a predictor at each step; 2D: an encoder beside the options of PCRLv2's training."""
        keys = [bare(key) for key in file.state]
        return (holds_unet(file) and "up_tr256.predictor_head.0.weight" in keys) or is_resnet18(file, "pcrlv2")

    def architecture(self, file: ForeignFile) -> Architecture:
        """The U-Net without skips, or a ResNet-18."""
        return unet(file, skips=False) if holds_unet(file) else resnet18(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """Clipped crops of chest CT as z-scores, or ImageNet's normalisation."""
        if not holds_unet(file):
            return xray(file)
        return replace(chest_ct("the authors took the z-score of each crop"), after="zscore")

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Every head is left out."""
        if not holds_unet(file):
            return []
        return [
            Drop(r"(module\.)?up_tr\d+\.(bn|predictor_head)\..*", "contrast head"),
            Drop(r"(module\.)?up_tr\d+\.deep_supervision_head\..*", "restoration head of a coarser level"),
            *UNET,
        ]
