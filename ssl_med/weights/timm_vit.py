"""Vision transformers as timm names them: supervised or self-supervised weights, with or without a classifier.

Networks: Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021, in timm (Wightman, 2019). Keys: cls_token, pos_embed,
reg_token, patch_embed.proj, blocks.N.{norm1, attn.qkv, attn.proj, ls1.gamma, norm2, mlp.fc1, mlp.fc2, ls2.gamma}, norm, head.
Positions for other grids: bicubic with antialiasing. Layer normalisation: eps 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import MEAN, STD, photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip
from ssl_med.weights.core.transformer import (
    ENCODER,
    TokenFamily,
    configuration,
    inner,
    is_transformer,
    network,
    side_of,
)

INCEPTION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # by which most of timm's vision transformers normalise
HEAD = r"(head|head_dist|fc_norm)\.(weight|bias)"
WRAPPERS = ("module.", "model.", "backbone.")
_PREFIX = r"(?:module\.|model\.|backbone\.)*"


class TimmViT(TokenFamily):
    """timm's vision transformers with a class token and learned positions."""

    citation = "Dosovitskiy et al. 2021; Wightman, timm"
    licence = "Apache-2.0 (code); each weight's card on Hugging Face says its own"
    commercial = None
    source = "https://huggingface.co/timm, or timm.create_model(NAME, pretrained=True).state_dict()"
    containers = ("state_dict", "model", "")
    traps = (
        "timm's own vision transformers normalise by 0.5, DeiT and DINO by ImageNet's mean and deviation; the tensors do not "
        "say which, config.json beside them does.",
        "Layer normalisation has eps 1e-6, PyTorch's default is 1e-5.",
    )

    saw = ("ImageNet, or what the card of the weights says",)
    agreement = "timm 1.0.31: 0 (ViT-Ti/16, ViT-S/16, DeiT-Ti, ViT-S/14 with registers; torch 2.13, a Xeon)"

    def recognises(self, file: ForeignFile) -> bool:
        """Nothing but a transformer and its classifier; in a container `model` with a classifier, as DeiT has it."""
        state = inner(file.state, _PREFIX)
        if any(key in state for key in ("register_tokens", "storage_tokens", "rope_embed.periods", "mask_token")):
            return False
        if "w12" in "".join(state) or "pos_embed" not in state:
            return False
        return (file.container != "model" or "head.weight" in state) and is_transformer(state, beside=HEAD)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        return network(inner(file.state, _PREFIX), resize="antialias")

    def contract(self, file: ForeignFile) -> InputContract:
        """That of config.json beside the tensors; else ImageNet's for DeiT and 0.5 for all others, which a note says."""
        found = self.architecture(file)
        about: Any = configuration(file).get("pretrained_cfg", {})
        mean, std = (tuple(about.get(key, ())) if isinstance(about, dict) else () for key in ("mean", "std"))
        notes: tuple[str, ...] = ()
        if not mean:
            mean, std = (MEAN, STD) if file.container == "model" else INCEPTION
            notes = (
                f"the file does not say how images are normalised: minus {mean[0]}, divided by {std[0]} is assumed for the "
                "first channel; bring the folder with config.json",
            )
        return photograph(found.in_channels, side_of(found), mean, std, notes)

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """Prefixes of wrappers go, the classifier is left out."""
        return [*strip(*WRAPPERS), Drop(r"(head|head_dist)\.(weight|bias)", "classification head"), *ENCODER]
