"""MoCo-CXR: ResNet-18 and DenseNet-121 that were pretrained on CheXpert by momentum contrast, from ImageNet's weights.

Sowrirajan et al., "MoCo pretraining improves representation and transferability of chest X-ray models", MIDL 2021. The
layout is MoCo's (`state_dict`, `module.encoder_q.`); images are chest X-rays of 320 x 320, three equal channels in [0, 1],
normalised by the mean .5020 and the deviation .085585 (moco_pretraining/moco/aihc_utils/image_transform.py).
"""

from __future__ import annotations

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.wrapped import first_convolution
from ssl_med.weights.moco import MoCo

MEAN, STD, SIDE = 0.5020, 0.085585, 320


class MoCoCXR(MoCo):
    """MoCo's layout, images of CheXpert."""

    citation = "Sowrirajan et al., MoCo-CXR, MIDL 2021"
    licence = "none is stated; CheXpert's terms for the images: research alone"
    commercial = False
    source = "https://github.com/stanfordmlgroup/MoCo-CXR"
    saw = ("CheXpert", "ImageNet-1k")
    traps = (
        "The repository's loader leaves out the keys of `fc` alone and is not strict: DenseNet-121's head is called "
        "`classifier`, so it is loaded where its size happens to fit.",
        "The deviation .085585 is a third of ImageNet's: with ImageNet's normalisation other features come out.",
    )
    agreement = "torchvision 0.29.1, whose networks its code trains: 0"
    prefixes = ("module.encoder_q.", "encoder_q.")

    def recognises(self, file: ForeignFile) -> bool:
        """The two networks that were released; a ResNet-18 may be anybody's."""
        prefix = self.prefix(file)
        if prefix is None or first_convolution(file, prefix)[1] != 3:
            return False
        return self.architecture(file).config.name in ("resnet18", "densenet121")

    def contract(self, file: ForeignFile) -> InputContract:
        """X-rays by their own mean and deviation."""
        channels = self.architecture(file).in_channels
        return InputContract(
            modality="X-ray",
            patch_size=(SIDE, SIDE),
            mean=(MEAN,) * channels,
            std=(STD,) * channels,
            notes=("the three channels were equal: a grey image is repeated",),
        )
