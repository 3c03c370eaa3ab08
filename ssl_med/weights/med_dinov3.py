"""MedDINOv3: DINOv3's ViT-B, trained further on slices of CT.

Paper: Li et al., "MedDINOv3: how to adapt vision foundation models for medical image segmentation?", 2025. Official code:
github.com/ricklisz/MedDINOv3. File: ["teacher"] with backbone.*, dino_head.*, ibot_*; queries, keys and values have
no bias, and the rotary positions are computed in bfloat16. Layer normalisation: eps 1e-6. Images: three equal channels, HU
clipped to [-1000, 1000], minus 65.1084, divided by 178.0166.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip
from ssl_med.weights.core.transformer import ENCODER, inner, is_transformer, network
from ssl_med.weights.dinov2 import PREFIX

MEAN, STD = 65.1084213256836, 178.01663208007812  # HU; github.com/ricklisz/MedDINOv3, inference/demo.ipynb
_HEADS = r"(dino_head|ibot\w*)\..*"


class MedDinoV3(Family):
    """ViT-B/16 with four storage tokens."""

    citation = "Li et al. 2025"
    licence = "Apache-2.0 (code); its weights began as DINOv3's, which have the DINOv3 License"
    commercial = None
    source = "https://github.com/ricklisz/MedDINOv3: model.pth"
    containers = ("teacher", "")
    saw = ("public CT, listed in the paper", "LVD-1689M")
    traps = (
        "One trainer of the same repository builds the network without storage tokens and loads without strictness: the "
        "tokens are lost silently.",
        "The paper lists the public data sets of its pretraining and this family does not: look there before you test on one.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """Rotary positions, and no bias of queries, keys and values."""
        state = inner(file.state, PREFIX)
        rotary = "rope_embed.periods" in state and "blocks.0.attn.qkv.bias" not in state
        return rotary and is_transformer(state, beside=_HEADS)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes; positions are rotated in bfloat16."""
        found = network(inner(file.state, PREFIX))
        settings = vars(found.config) | {"positions": "rotary_bf16"}
        return found._replace(config=backbone_config(**settings))

    def contract(self, file: ForeignFile) -> InputContract:
        """CT from -1,000 to 1,000 HU in three equal channels."""
        mean, std = ((MEAN + 1000) / 2000,) * 3, (STD / 2000,) * 3
        return InputContract("CT", (224, 224), low=-1000.0, high=1000.0, unit="HU", mean=mean, std=std)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """Prefixes go, heads of the training are left out."""
        return [*strip("module.", "backbone."), Drop(_HEADS, "heads of the pretraining"), *ENCODER]
