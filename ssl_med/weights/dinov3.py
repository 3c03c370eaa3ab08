"""DINOv3: vision transformers with rotary positions, storage tokens and a masked bias of the keys.

Paper: Siméoni et al., "DINOv3", 2025. Official code: github.com/facebookresearch/dinov3. Keys: those of DINOv2 without
pos_embed; storage_tokens, rope_embed.periods, blocks.N.attn.qkv.bias_mask; a SwiGLU (mlp.w1, w2, w3) in S+ and H+;
local_cls_norm, which is used in training alone. The mask, 0 for keys and 1 elsewhere, multiplies the bias. Layer normalisation:
eps 1e-5.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.spec import SslMedError
from ssl_med.weights.core.contracts import MEAN, STD, photograph
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile, State
from ssl_med.weights.core.rules import Drop, Rule
from ssl_med.weights.core.transformer import ENCODER, is_transformer, network

SATELLITE = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)
HEADS = {384: 6, 768: 12, 1024: 16, 1280: 20, 4096: 32}
MASK = ".attn.qkv.bias_mask"


class DinoV3(Family):
    """ViT-S, S+, B, L, H+ and 7B with patches of 16, bare as torch.hub loads them."""

    citation = "Siméoni et al. 2025"
    licence = "DINOv3 License (access on request)"
    commercial = True
    source = "https://github.com/facebookresearch/dinov3: dinov3_vitb16_pretrain_lvd1689m-*.pth"
    containers = ("",)
    saw = ("LVD-1689M",)
    traps = (
        "Trainers that build the network without storage tokens and load without strictness lose them silently.",
        "Weights of satellite images are normalised by other values; only the name of the file says so (sat493m).",
    )

    agreement = "facebookresearch/dinov3 6876159: 0 (ViT-S and S+ with random weights; torch 2.13, a Xeon)"

    def recognises(self, file: ForeignFile) -> bool:
        """Rotary positions and a bias of queries, keys and values."""
        rotary = "rope_embed.periods" in file.state and "blocks.0.attn.qkv.bias" in file.state
        return rotary and is_transformer(file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        if file.has("cls_norm.weight"):
            raise SslMedError("has a layer normalisation of its own for the class token, which does not exist here")
        return network(file.state, heads=HEADS, eps=1e-5)

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's normalisation, or that of satellite images where the file's name says sat493m."""
        values = SATELLITE if "sat493m" in file.path.name else (MEAN, STD)
        return photograph(self.architecture(file).in_channels, 224, *values)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """The mask of the bias goes into the bias; what only training uses is left out."""
        return [
            Drop(r"blocks\.\d+\.attn\.qkv\.bias_mask", "mask of the bias, multiplied with it"),
            Drop(r"local_cls_norm\.(weight|bias)", "normalisation of local crops, used in training alone"),
            *ENCODER,
        ]

    def adjust(self, tensors: State, file: ForeignFile) -> list[str]:
        """Biases are multiplied by their mask."""
        masks = {key.removesuffix(MASK): value for key, value in file.state.items() if key.endswith(MASK)}
        for block, mask in masks.items():
            key = f"{block}.attn.qkv.bias"
            tensors[key] = tensors[key] * mask.to(tensors[key].dtype)
        return [f"biases of {len(masks)} blocks multiplied by their mask: keys have none"] if masks else []
