"""MoCo v3: vision transformers trained by contrast without a queue.

Paper: Chen, Xie and He, "An empirical study of training self-supervised vision transformers", ICCV 2021. Official code:
github.com/facebookresearch/moco-v3. File: ["state_dict"] with module.base_encoder.*, module.momentum_encoder.* and
module.predictor.*; the projector lies under head.N. Positions are fixed sines and cosines, the first half of the channels for
rows, and stand in the file; the original has no other grid than that of 224 x 224, ours resizes them bicubically. ViT-S has 12
heads of 32 channels, not 6. Layer normalisation: eps 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule
from ssl_med.weights.core.transformer import ENCODER, TokenFamily, inner, is_transformer, network

HEADS = {384: 12, 768: 12, 1024: 16, 1280: 16}
_BASE = r"(?:module\.)?base_encoder\."
_PROJECTOR = r"head\.\d+\..*"


class MocoV3(TokenFamily):
    """ViT-S and ViT-B; its ResNet-50 has the layout of other MoCo files."""

    citation = "Chen, Xie and He, ICCV 2021"
    licence = "CC-BY-NC-4.0"
    commercial = False
    source = "https://github.com/facebookresearch/moco-v3: vit-s-300ep.pth.tar, vit-b-300ep.pth.tar"
    containers = ("state_dict",)
    saw = ("ImageNet-1k",)
    traps = ("Its ViT-S has 12 heads; with the usual 6 every key loads and all features are others.",)

    def recognises(self, file: ForeignFile) -> bool:
        """A transformer under base_encoder."""
        return is_transformer(inner(file.state, _BASE), beside=_PROJECTOR)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes of the base encoder."""
        return network(inner(file.state, _BASE), heads=HEADS)

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's, 224 x 224."""
        return photograph(self.architecture(file).in_channels)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """The base encoder is taken, as the official evaluation does."""
        return [
            Drop(r"(?:module\.)?momentum_encoder\..*", "momentum encoder"),
            Drop(r"(?:module\.)?predictor\..*", "predictor"),
            Rename(_BASE + "(.*)", r"\1"),
            Drop(_PROJECTOR, "projector"),
            *ENCODER,
        ]
