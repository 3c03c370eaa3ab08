"""CheSS: a ResNet-50 for one grey channel that was pretrained on chest X-rays by momentum contrast.

Cho et al., "CheSS: chest X-ray pre-trained model via self-supervised contrastive learning", Journal of Digital Imaging 2023:
4.8 million chest X-rays of one hospital, 512 x 512. The layout is MoCo's (`state_dict`, `module.encoder_q.`).
"""

from __future__ import annotations

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.wrapped import first_convolution
from ssl_med.weights.moco import MoCo

MEAN, STD, SIDE = 0.2, 0.4, 512


class CheSS(MoCo):
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
    prefixes = ("module.encoder_q.", "encoder_q.")

    def recognises(self, file: ForeignFile) -> bool:
        """A ResNet-50 for grey images."""
        prefix = self.prefix(file)
        if prefix is None or first_convolution(file, prefix)[1] != 1:
            return False
        return self.architecture(file).config.name == "resnet50"

    def contract(self, file: ForeignFile) -> InputContract:
        """The defaults of the training script."""
        channels = self.architecture(file).in_channels
        return InputContract(
            modality="X-ray",
            patch_size=(SIDE, SIDE),
            mean=(MEAN,) * channels,
            std=(STD,) * channels,
            notes=(
                "mean .2 and deviation .4 are the defaults of the authors' upstream/main_moco.py; torchxrayvision feeds the "
                "same weights grey levels of 0 to 255 without normalisation, and the authors' classifier z-scores",
            ),
        )
