"""MedicalNet: 3D ResNets that segmented the organs and lesions of many public data sets.

Chen et al., "Med3D: transfer learning for 3D medical image analysis", 2019. Keys, behind `module.`: conv1, bn1,
layerN.M.{convK,bnK}, downsample.{0,1} with shortcut B (10, 50 and deeper; 18 and 34 have shortcut A, which has no tensors),
conv_seg. The third and fourth stage keep stride 8 and dilate their convolutions by 2 and 4.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights import torchvision
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip

RESNETS = {(False, (1, 1, 1, 1)): "resnet10", **torchvision.RESNETS}
_STATISTICS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_LAYOUT = re.compile(
    rf"(module\.)?(conv1\.weight|bn1\.{_STATISTICS}|conv_seg\..*|fc\.(weight|bias)|layer[1-4]\.\d+\."
    rf"(conv[1-3]\.weight|bn[1-3]\.{_STATISTICS}|downsample\.(0\.weight|1\.{_STATISTICS})))"
)


class MedicalNet(Family):
    """3D ResNet-10 to ResNet-152."""

    citation = "Chen, Ma, Zheng: Med3D, arXiv 1904.00625, 2019"
    licence = "MIT"
    commercial = True
    source = "https://github.com/Tencent/MedicalNet, or TencentMedicalNet/MedicalNet-ResnetN on Hugging Face"
    saw = ("MSD", "LiTS", "BraTS")
    traps = (
        "MONAI loads every tensor into stages of stride 2 without dilation, which is another function. Here the network is "
        "the original's; backbone.dilated=false makes it MONAI's.",
        "ResNet-18 and 34 have shortcuts without parameters (A), the others projections (B).",
        "The original replaced a background of zeros by noise drawn from N(0, 1) after the z-score; the contract does not.",
        "The authors do not list their 23 data sets in full, so a test set may be among them that is not named here.",
    )
    agreement = "MedicalNet 20f76aa, ResNet-10, 18 and 50, dilated: 0"

    def recognises(self, file: ForeignFile) -> bool:
        """Every key is one of a 3D ResNet's."""
        first = file.shape("module.conv1.weight") or file.shape("conv1.weight")
        return len(first) == 5 and first[2:] == (7, 7, 7) and all(_LAYOUT.fullmatch(key) for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """By the number of blocks, whether they are bottlenecks, and whether shortcuts have parameters.

        Raises:
            SslMedError: a number of blocks that no network here has, such as ResNet-200's.
        """
        keys = {key.removeprefix("module.") for key in file.state}
        deep = "layer1.0.conv3.weight" in keys
        counts = tuple(
            len({match[1] for key in keys if (match := re.match(rf"layer{stage}\.(\d+)\.", key))})
            for stage in (1, 2, 3, 4)
        )
        name = RESNETS.get((deep, counts))
        if name is None:
            shown = ", ".join(map(str, counts))
            raise SslMedError(
                f"is a ResNet with {shown} {'bottleneck' if deep else 'basic'} blocks; there are "
                f"{', '.join(RESNETS.values())}"
            )
        shortcut = "B" if any(".downsample." in key for key in keys) else "A"
        channels = (file.shape("module.conv1.weight") or file.shape("conv1.weight"))[1]
        return Architecture(backbone_config(name, dilated=True, shortcut=shortcut), 3, channels)

    def contract(self, file: ForeignFile) -> InputContract:
        """Any modality as z-scores over the voxels above zero."""
        return InputContract(
            modality="",
            patch_size=(56, 448, 448),
            scaling="zscore",
            over="positive",
            notes=(
                "axes were depth, height, width, which data.orientation=SPL gives; the authors say no directions",
                "volumes were cut to what is not background, and resized to the patch by the nearest voxel",
            ),
        )

    def rules(self, file: ForeignFile) -> list[Rule]:
        """The segmentation head is left out."""
        return [
            *strip("module."),
            Drop(r"conv_seg\..*", "segmentation head"),
            Drop(r"fc\.(weight|bias)", "classification head"),
        ]
