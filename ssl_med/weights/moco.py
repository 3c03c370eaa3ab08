"""MoCo v1, v2 and v3: ResNets that were pretrained on ImageNet by momentum contrast.

He et al., "Momentum contrast for unsupervised visual representation learning", CVPR 2020; Chen et al., "Improved baselines
with momentum contrastive learning", 2020; Chen et al., "An empirical study of training self-supervised vision transformers",
ICCV 2021, whose vision transformers have another layout. Container `state_dict`. v1 and v2: `module.encoder_q.`,
`module.encoder_k.`, `module.queue`, `module.queue_ptr`, and `fc`, which is a linear layer in v1 and fc.0, fc.2 in v2. v3:
`module.base_encoder.` with five layers in `fc`, `module.momentum_encoder.`, `module.predictor.`.
"""

from __future__ import annotations

from typing import ClassVar

from ssl_med.weights.core.contracts import MEAN
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder, first_convolution


class MoCo(WrappedEncoder):
    """The query encoder of v1 and v2, the base encoder of v3."""

    citation = "He et al., CVPR 2020 (v1); Chen et al., 2020 (v2); Chen et al., ICCV 2021 (v3)"
    licence = "CC-BY-NC-4.0"
    commercial: ClassVar[bool | None] = False
    source = "https://github.com/facebookresearch/moco and https://github.com/facebookresearch/moco-v3"
    saw: ClassVar[tuple[str, ...]] = ("ImageNet-1k",)
    traps = (
        "Networks that others trained by MoCo on other images have the same keys: a ResNet-18 may be MoCo-CXR's, so that its "
        "family has to be named.",
        "The key encoder is an average of the query encoder and has running statistics of its own; published results use the "
        "query encoder.",
    )
    agreement = "torchvision 0.29.1, whose networks its code trains: 0"
    prefixes: ClassVar[tuple[str, ...]] = ("module.encoder_q.", "encoder_q.", "module.base_encoder.", "base_encoder.")
    rest = (
        Drop(r"(module\.)?(encoder_k|momentum_encoder)\..+", "momentum encoder"),
        Drop(r"(module\.)?queue(_ptr)?", "queue of keys"),
        Drop(r"(module\.)?predictor\..+", "predictor"),
    )

    def recognises(self, file: ForeignFile) -> bool:
        """ResNets for colour images: those were released."""
        prefix = self.prefix(file)
        colour = prefix is not None and first_convolution(file, prefix)[1] == len(MEAN)
        return colour and file.has(f"{prefix}conv1.weight")
