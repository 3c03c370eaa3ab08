"""DINOv2: vision transformers with patches of 14, layer scale, and registers in the newer ones.

Papers: Oquab et al., "DINOv2: learning robust visual features without supervision", TMLR 2024; Darcet et al., "Vision
transformers need registers", ICLR 2024. Official code: github.com/facebookresearch/dinov2. Keys: those of timm, mask_token,
register_tokens; the giant's perceptron is a SwiGLU (mlp.w12, mlp.w3). Checkpoints of the training name blocks
blocks.CHUNK.N. Positions for other grids: bicubic; without registers no antialiasing and an offset of 0.1 in the scale, with
registers antialiasing and no offset.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip
from ssl_med.weights.core.transformer import (
    ENCODER,
    TokenFamily,
    inner,
    is_transformer,
    network,
    register_tokens,
    side_of,
)

PREFIX = r"(?:module\.)?(?:backbone\.)?"
HEADS_OF_TRAINING = r"(dino_head|ibot_head|dino_loss|ibot_patch_loss)\..*"


class DinoV2(TokenFamily):
    """ViT-S, B, L and g with patches of 14, as torch.hub has them or as the training saves them."""

    citation = "Oquab et al., TMLR 2024; Darcet et al., ICLR 2024"
    licence = "Apache-2.0"
    commercial = True
    source = "https://github.com/facebookresearch/dinov2, such as dinov2_vitb14_pretrain.pth"
    containers = ("teacher", "model", "")
    saw = ("ImageNet-22k", "LVD-142M")
    traps = (
        "Loaders that resize positions in another way than the original give other features at every size but 518 x 518.",
        "Checkpoints of the training count blocks in chunks: the second number of blocks.0.5 is the block.",
    )

    agreement = (
        "facebookresearch/dinov2 b8931f7: 0 (ViT-S/14, with registers, with SwiGLU in chunks; torch 2.13, a Xeon)"
    )

    def recognises(self, file: ForeignFile) -> bool:
        """A 2D transformer with layer scale, positions and a token of masked patches."""
        return layout(file, dims=2)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        state = inner(file.state, PREFIX)
        return network(state, resize="antialias" if register_tokens(state) else "offset")

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's normalisation at the size of the positions, 518 x 518 in all that are published."""
        found = self.architecture(file)
        return photograph(found.in_channels, side_of(found))

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """Prefixes go; heads of the training and the token of masked patches are left out."""
        return [*strip("module.", "backbone."), Drop(HEADS_OF_TRAINING, "heads of the pretraining"), *ENCODER]


def layout(file: ForeignFile, *, dims: int) -> bool:
    """Whether a file holds DINOv2's encoder in 2D or 3D, whose heads may be beside it."""
    state = inner(file.state, PREFIX)
    if "mask_token" not in state or "pos_embed" not in state or "rope_embed.periods" in state:
        return False
    return any(key.endswith(".ls1.gamma") for key in state) and is_transformer(
        state, beside=HEADS_OF_TRAINING, dims=dims
    )
