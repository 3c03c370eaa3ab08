"""MoCo-CXR: ResNet-18 and DenseNet-121 that were pretrained on CheXpert by momentum contrast, from ImageNet's weights.

Sowrirajan et al., "MoCo pretraining improves representation and transferability of chest X-ray models", MIDL 2021. The
layout is MoCo's (`state_dict`, `module.encoder_q.`); images are chest X-rays of 320 x 320, three equal channels in [0, 1],
normalised by the mean .5020 and the deviation .085585 (moco_pretraining/moco/aihc_utils/image_transform.py).
"""

from __future__ import annotations

from ssl_med.weights.core.radiographs import MoCoOfRadiographs


class MoCoCXR(MoCoOfRadiographs):
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
    channels = 3
    networks = ("resnet18", "densenet121")
    mean, std, side = 0.5020, 0.085585, 320
    note = "the three channels were equal: a grey image is repeated"
