"""PIRL as PyContrast trained it: a ResNet-50 that was pretrained on ImageNet against its jigsawed patches.

Misra and van der Maaten, "Self-supervised learning of pretext-invariant representations", CVPR 2020; the released file is of
HobbitLong/PyContrast. Container `model` (beside opt, contrast, optimizer, epoch): `module.encoder.` with torchvision's keys
without `fc`, `module.head.`, `module.head_jig.{fc1,fc2}`. Images are ImageNet's.
"""

from __future__ import annotations

from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder


class PIRL(WrappedEncoder):
    """The encoder that images and patches share."""

    citation = "Misra and van der Maaten, PIRL, CVPR 2020; Tian, PyContrast, 2020"
    licence = "BSD-2-Clause (PyContrast); ImageNet's terms for the images"
    commercial = False
    source = "https://github.com/HobbitLong/PyContrast, pycontrast/docs/MODEL_ZOO.md"
    saw = ("ImageNet-1k",)
    traps = (
        "InfoMin of the same repository has a jigsaw head, too, and the same keys: the file does not say which one it is.",
        "InsDis and others of it have no jigsaw head; name the family to load them, and cite their own paper.",
    )
    agreement = "HobbitLong/PyContrast 84f94ea: 0 (ResNet-50, all levels)"
    containers = ("model", "state_dict", "resnet", "")
    prefixes = ("module.encoder.", "encoder.")
    mark = r"(module\.)?head_jig\..+"
    rest = (
        Drop(r"(module\.)?head\..+", "projection head"),
        Drop(r"(module\.)?head_jig\..+", "jigsaw head"),
    )
