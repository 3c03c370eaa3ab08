"""RAD-DINO: DINOv2's ViT-B/14, trained further on chest radiographs.

Paper: Pérez-García et al., "Exploring scalable medical image encoders beyond text supervision", Nature Machine Intelligence
2025. File: backbone_compatible.safetensors of huggingface.co/microsoft/rad-dino, whose keys are those of DINOv2's
`dinov2_vitb14`. Images: 518 x 518, three equal channels in [0, 1], then normalised by 0.5307 and 0.2583.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rule
from ssl_med.weights.core.transformer import ENCODER, TokenFamily, is_transformer, network, register_tokens

MEAN, STD = (0.5307,) * 3, (0.2583,) * 3


class RadDino(TokenFamily):
    """ViT-B/14 for chest radiographs; its layout is DINOv2's, so family=rad_dino must be said."""

    citation = "Pérez-García et al., Nature Machine Intelligence 2025"
    licence = "MIT (earlier revisions of its page: Microsoft Research License, research only)"
    commercial = True
    source = "https://huggingface.co/microsoft/rad-dino: backbone_compatible.safetensors"
    containers = ("",)
    saw = ("MIMIC-CXR", "CheXpert", "ChestX-ray14", "PadChest", "BRAX")
    traps = (
        "Its keys and shapes are those of DINOv2's ViT-B: taken for DINOv2, images are normalised by ImageNet's values.",
        "The shorter side is resized to 518 pixels and the middle is cut out; radiographs are not stretched.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """DINOv2's ViT-B/14 without registers, bare."""
        state = file.state
        if "mask_token" not in state or register_tokens(state) or not any(".ls1." in key for key in state):
            return False
        return is_transformer(state) and file.shape("patch_embed.proj.weight")[:2] == (768, 3) and "pos_embed" in state

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        return network(file.state, resize="offset")

    def contract(self, file: ForeignFile) -> InputContract:
        """Radiographs of 518 x 518."""
        return InputContract("X-ray", (518, 518), mean=MEAN, std=STD)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """The token of masked patches is left out."""
        return ENCODER
