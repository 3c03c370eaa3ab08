"""CheSS: a ResNet-50 for one grey channel that was pretrained on chest X-rays by momentum contrast.

Cho et al., "CheSS: chest X-ray pre-trained model via self-supervised contrastive learning", Journal of Digital Imaging 2023:
4.8 million chest X-rays of one hospital, 512 x 512. The layout is MoCo's (`state_dict`, `module.encoder_q.`).
"""

from __future__ import annotations

from ssl_med.weights.core.radiographs import MoCoOfRadiographs


class CheSS(MoCoOfRadiographs):
    """MoCo's layout, one channel."""

    citation = "Cho et al., CheSS, Journal of Digital Imaging 2023"
    licence = "none stands in the authors' repository; Apache-2.0 as TorchXRayVision states it"
    commercial = None
    source = "https://github.com/mi2rl/CheSS"
    saw = ()  # images of Asan Medical Center, which are not public
    traps = (
        "The README's loader keeps all keys but `fc` and is not strict.",
        "What the images looked like is not certain: see the contract's note, and compare both before you trust features.",
    )
    agreement = "mlmed/torchxrayvision 9275e00, its copy of the network: 0 (all levels)"
    channels = 1
    networks = ("resnet50",)
    mean, std, side = 0.2, 0.4, 512
    note = (
        "mean .2 and deviation .4 are the defaults of the authors' upstream/main_moco.py; torchxrayvision feeds the "
        "same weights grey levels of 0 to 255 without normalisation, and the authors' classifier z-scores"
    )
