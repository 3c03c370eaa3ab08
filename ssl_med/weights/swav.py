"""SwAV, and DeepCluster-v2 and SeLa-v2 of the same repository: ResNets that were pretrained on ImageNet by clustering.

Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments", NeurIPS 2020. Tensors lie in the
file itself or in `state_dict`: torchvision's keys behind `module.`, `projection_head.*`, `prototypes.weight` (SwAV) or
`prototypes.prototypesN.weight` (the two others). Images are ImageNet's.
"""

from __future__ import annotations

from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder


class SwAV(WrappedEncoder):
    """The encoder without its projection head and prototypes."""

    citation = "Caron et al., SwAV, NeurIPS 2020"
    licence = "CC-BY-NC-4.0"
    commercial = False
    source = "https://github.com/facebookresearch/swav"
    saw = ("ImageNet-1k",)
    traps = (
        "The original pads the image by 1 and its first convolution by 2: with zeros that is torchvision's padding of 3.",
        "The head is called neither fc nor classifier: loaders that drop those alone find unexpected keys.",
    )
    agreement = "facebookresearch/swav 06b1b7c: 0 (ResNet-50, all levels)"
    prefixes = ("module.", "")
    mark = r"(module\.)?(projection_head|prototypes)\..+"
    rest = (
        Drop(r"(module\.)?projection_head\..+", "projection head"),
        Drop(r"(module\.)?prototypes\..+", "prototypes"),
    )
