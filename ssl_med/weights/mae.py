"""MAE: the encoder of a masked autoencoder.

Paper: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. Official code: github.com/facebookresearch/mae.
Files: ["model"] with the encoder alone (mae_pretrain_vit_base.pth) or with mask_token and decoder_*. Positions are fixed sines
and cosines, the first half of the channels for columns, and stand in the file; the original resizes them bicubically without
antialiasing when it is fine-tuned. Layer normalisation: eps 1e-6; the encoder's last one is part of the pretraining.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule
from ssl_med.weights.core.transformer import ENCODER, TokenFamily, inner, is_transformer, network, sines

_DECODER = r"decoder_(embed|blocks|norm|pred|pos_embed)(\..*)?"


class Mae(TokenFamily):
    """ViT-B, L and H (patches of 14) of the paper's authors."""

    citation = "He et al., CVPR 2022"
    licence = "CC-BY-NC-4.0"
    commercial = False
    source = "https://github.com/facebookresearch/mae: mae_pretrain_vit_base.pth, also with decoder (mae_visualize_*)"
    containers = ("model", "")
    saw = ("ImageNet-1k",)
    traps = (
        "The official fine-tuning averages the patches and normalises afterwards (fc_norm); the pretraining normalises each "
        "token. Features here are those of the pretraining.",
        "Linear probes of a frozen MAE are weak; compare it fine-tuned, too.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """Positions are its fixed sines, or its decoder is there."""
        if not is_transformer(file.state, beside=_DECODER) or "pos_embed" not in file.state:
            return False
        return "decoder_embed.weight" in file.state or sines(file.state["pos_embed"], first="columns")

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes of the encoder."""
        return network(inner(file.state, r"(?!decoder_)"))

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's, 224 x 224."""
        return photograph(self.architecture(file).in_channels)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """The decoder and the token of masked patches are left out."""
        return [Drop(_DECODER, "decoder of the pretraining"), *ENCODER]
