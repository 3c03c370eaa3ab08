"""PCRL (version 1): a 2D ResNet-18 of chest X-rays, and a 3D U-Net of chest CT.

Zhou et al., "Preservational learning improves self-supervised medical image models by reconstructing diverse contexts", ICCV
2021; layouts from the authors' training code. 2D: `state_dict` is torchvision's ResNet-18 without fc; the decoder lies in a
container of its own and is not read. 3D: Models Genesis' names with ordinary batch normalisation, besides them fc1, fc2
(contrast) and aug_fc1, aug_fc2 (which tell the decoder the transformation). `model_ema` is the teacher, behind `module.`.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule
from ssl_med.weights.models_genesis import UNET, bare, chest_ct, holds_unet, unet

_STATISTICS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET18 = re.compile(
    rf"conv1\.weight|bn1\.{_STATISTICS}|"
    rf"layer[1-4]\.[01]\.(conv[12]\.weight|bn[12]\.{_STATISTICS}|downsample\.(0\.weight|1\.{_STATISTICS}))"
)


class PCRL(Family):
    """Encoder in 2D; encoder and decoder in 3D."""

    citation = "Zhou, Lu, Yang, Han, Yu: Preservational Learning (PCRL), ICCV 2021"
    licence = "none is stated by the authors"
    commercial = None
    source = "https://github.com/Luchixiang/PCRL: files that its training writes"
    containers = ("state_dict", "model_ema", "")
    saw = ("LUNA16", "ChestX-ray14")
    traps = (
        "The decoder was trained on a last level that was multiplied by a code of the transformation; without it, as here "
        "and in the authors' fine-tuning, it gets other values than in pretraining.",
        "The authors' fine-tuning repeats a first convolution over n modalities without dividing it by n: its activations "
        "are n times as large. Here channels=N keeps their scale.",
        "The file holds the student as state_dict and the teacher as model_ema: the student is read where both are there.",
        "A 2D encoder that was saved alone is a plain ResNet-18, which family=torchvision reads with the same input.",
    )
    agreement = "PCRL 197bf91, 3D: encoder 0, decoder 2.4e-7"

    def recognises(self, file: ForeignFile) -> bool:
        """3D: the U-Net with the layers that code a transformation; 2D: an encoder beside the options of PCRL's training."""
        keys = [bare(key) for key in file.state]
        return (holds_unet(file) and "aug_fc1.weight" in keys) or is_resnet18(file, "pcrl")

    def architecture(self, file: ForeignFile) -> Architecture:
        """The U-Net, or a ResNet-18."""
        return unet(file) if holds_unet(file) else resnet18(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """That of Models Genesis, or ImageNet's normalisation."""
        return chest_ct() if holds_unet(file) else xray(file)

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Every head is left out."""
        if not holds_unet(file):
            return []
        return [
            Drop(r"(module\.)?fc[12]\..*", "contrast head"),
            Drop(r"(module\.)?aug_fc[12]\..*", "code of the transformation"),
            *UNET,
        ]


def is_resnet18(file: ForeignFile, model: str) -> bool:
    """Whether it is an encoder without fc whose file says that the training was one of `model`."""
    options = file.extra.get("opt")
    return (
        isinstance(options, dict)
        and options.get("model") == model
        and file.has("conv1.weight", "layer4.1.bn2.weight")
        and all(_RESNET18.fullmatch(key) for key in file.state)
    )


def resnet18(file: ForeignFile) -> Architecture:
    """A ResNet-18 of the file's channels."""
    return Architecture(backbone_config("resnet18"), 2, file.shape("conv1.weight")[1])


def xray(file: ForeignFile) -> InputContract:
    """Chest X-rays as grey RGB images with ImageNet's normalisation."""
    made = photograph(file.shape("conv1.weight")[1])
    return InputContract(
        "X-ray", made.patch_size, mean=made.mean, std=made.std, channels=made.channels, notes=made.notes
    )
