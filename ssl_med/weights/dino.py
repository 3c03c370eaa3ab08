"""DINO: vision transformers trained without labels by self-distillation.

Paper: Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021. Official code:
github.com/facebookresearch/dino. Files: the backbone alone, bare, or a checkpoint with `student` (module.backbone.*,
module.head.*) and `teacher` (backbone.*, head.*), of which the teacher is evaluated. Positions for other grids: bicubic, no
antialiasing, with an offset of 0.1 in the scale. Layer normalisation: eps 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip
from ssl_med.weights.core.transformer import ENCODER, TokenFamily, inner, is_transformer, network

_PREFIX = r"(?:module\.)?(?:backbone\.)?"
_HEAD = r"head\.(mlp|last_layer)\..*"


class Dino(TokenFamily):
    """ViT-S and ViT-B with patches of 16 or 8."""

    citation = "Caron et al., ICCV 2021"
    licence = "Apache-2.0; ImageNet's terms for the images"
    commercial = False
    source = "https://github.com/facebookresearch/dino: backbone only, or full checkpoint"
    containers = ("teacher", "student", "")
    saw = ("ImageNet-1k",)
    traps = (
        "The teacher is the network that the paper evaluates; a full checkpoint holds the student, too.",
        "Positions are resampled with an offset of 0.1: an exact resize shifts all patches by a little.",
    )

    agreement = "facebookresearch/dino 7c446df: 3.8e-6 of values up to 4.4 (ViT-S/16; torch 2.13, a Xeon)"

    def recognises(self, file: ForeignFile) -> bool:
        """A transformer without layer scale, beside the head of the distillation or alone."""
        state = inner(file.state, _PREFIX)
        wide = any(key.endswith((".ls1.gamma", ".w12.weight", "_tokens")) or key == "mask_token" for key in state)
        return not wide and "pos_embed" in state and is_transformer(state, beside=_HEAD)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        return network(inner(file.state, _PREFIX), resize="offset")

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's, 224 x 224."""
        return photograph(self.architecture(file).in_channels)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """Prefixes of wrappers go, the head of the distillation is left out."""
        return [*strip("module.", "backbone."), Drop(_HEAD, "projection head"), *ENCODER]
