"""C2L: a ResNet-18 that was pretrained on radiographs by comparing mixtures of images and of their features.

Zhou et al., "Comparing to learn: surpassing ImageNet pretraining on radiographs by comparing image representations", MICCAI
2020. Container `model` (beside opt, contrast, optimizer, epoch, model_ema): `encoder.module.` with torchvision's keys, `fc`
of 128 outputs. Images are radiographs as colour images of 224 x 224, normalised by ImageNet's mean and deviation.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.wrapped import WrappedEncoder


class C2L(WrappedEncoder):
    """The student's encoder."""

    citation = "Zhou et al., C2L, MICCAI 2020"
    licence = "MIT; the terms of the four data sets for the images: research alone"
    commercial = False
    source = "https://github.com/funnyzhou/C2L_MICCAI2020"
    saw = ("ChestX-ray14", "MIMIC-CXR", "CheXpert", "MURA")
    traps = (
        "DataParallel wraps the encoder alone, so `module.` stands behind `encoder.`, where few loaders look for it.",
        "`model_ema` holds the teacher under the same keys; the student is what the paper transfers.",
    )
    agreement = "funnyzhou/C2L_MICCAI2020 3848fae: 0 (ResNet-18, all levels)"
    containers = ("model", "state_dict", "")
    prefixes = ("encoder.module.",)

    def contract(self, file: ForeignFile) -> InputContract:
        """Radiographs in ImageNet's normalisation."""
        found = replace(super().contract(file), modality="X-ray", channels=())
        return replace(found, notes=(*found.notes, "a grey image is repeated for the three channels"))
