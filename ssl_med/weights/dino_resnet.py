"""DINO's ResNet-50, pretrained on ImageNet by self-distillation; its vision transformers have another layout.

Caron et al., "Emerging properties in self-supervised vision transformers", ICCV 2021. A full checkpoint has the containers
`teacher` and `student`, each with `module.backbone.` (torchvision's keys without `fc`) and `module.head.` (mlp.N, last_layer);
the file with the backbone alone has torchvision's own keys. Images are ImageNet's.
"""

from __future__ import annotations

from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder


class DINOResNet(WrappedEncoder):
    """The teacher's encoder; where a file has none, the student's."""

    citation = "Caron et al., DINO, ICCV 2021"
    licence = "Apache-2.0; ImageNet's terms for the images"
    commercial = False
    source = "https://github.com/facebookresearch/dino, dino_resnet50_pretrain.pth or its full checkpoint"
    saw = ("ImageNet-1k",)
    traps = (
        "The file with the backbone alone looks like torchvision's: name the family, so that the card cites the right paper.",
        "Published results are the teacher's; a loader that takes the first container of a full checkpoint gets the student.",
    )
    agreement = "torchvision 0.29.1, whose networks its code trains: 0"
    containers = ("teacher", "student", "state_dict", "model", "")
    prefixes = ("module.backbone.", "backbone.")
    mark = r"(module\.)?head\.(mlp|last_layer)\b.*"
    rest = (Drop(r"(module\.)?head\..+", "projection head"),)
