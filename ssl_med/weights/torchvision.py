"""ResNets and DenseNet-121 as torchvision names them: supervised ImageNet weights, and what was trained from them.

Networks: He et al., "Deep residual learning for image recognition", CVPR 2016; Huang et al., "Densely connected convolutional
networks", CVPR 2017. Keys of a ResNet: conv1, bn1, layerN.M.{conv,bn}K, downsample.{0,1}, fc; of a DenseNet: features.{conv0,
norm0}, denseblockN.denselayerM.{norm,conv}K (before 2018 norm.K, conv.K), transitionN.{norm,conv}, norm5, classifier. Images:
RGB, 224 x 224, scaled to [0, 1], then normalised by ImageNet's mean and standard deviation of each channel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule, strip

# bottleneck blocks?, blocks of each stage -> network
RESNETS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
DENSENET121 = (6, 12, 24, 16)
WRAPPERS = ("module.", "model.", "backbone.", "encoder.")
_STATISTICS = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_RESNET = re.compile(
    rf"conv1\.weight|bn1\.{_STATISTICS}|layer[1-4]\.\d+\.(conv[1-3]\.weight|bn[1-3]\.{_STATISTICS}|"
    rf"downsample\.0\.weight|downsample\.1\.{_STATISTICS})|fc\.(weight|bias)"
)
_DENSENET = re.compile(
    rf"features\.(conv0\.weight|norm[05]\.{_STATISTICS}|transition\d\.(norm\.{_STATISTICS}|conv\.weight)|"
    rf"denseblock\d\.denselayer\d+\.(norm\.?[12]\.{_STATISTICS}|conv\.?[12]\.weight))|classifier\.(weight|bias)"
)


class Torchvision(Family):
    """torchvision's ResNet and DenseNet-121."""

    citation = "He et al. 2016, Huang et al. 2017; torchvision"
    licence = "BSD-3-Clause (code); ImageNet's terms for the images"
    commercial = False
    source = "https://download.pytorch.org/models, or torchvision.models.resnet50(weights=...).state_dict()"
    saw = ("ImageNet-1k",)
    traps = (
        "ImageNet's mean and standard deviation belong to the network: images in [0, 1] without them give other features.",
        "DenseNet files of before 2018 name their layers norm.1 and conv.1; a load that is not strict leaves them random.",
        "A bottleneck's stride lies in its 3x3 convolution, in the original paper in its first 1x1.",
    )
    agreement = (
        "torchvision 0.29.1: 0 (ResNet-18, ResNet-50, DenseNet-121, all levels); 0.28.0 takes `to=torchvision` of each but for "
        "the head: 0"
    )

    def recognises(self, file: ForeignFile) -> bool:
        """Every key is one of a 2D ResNet's or DenseNet's, behind the prefixes of wrappers."""
        keys = [bare(key) for key in file.state]
        first = {"conv1.weight": _RESNET, "features.conv0.weight": _DENSENET}
        layout = next((pattern for key, pattern in first.items() if key in keys), None)
        if layout is None or not all(layout.fullmatch(key) for key in keys):
            return False
        return all(tensor.ndim == 4 for key, tensor in file.state.items() if re.search(r"conv\d?\.?\d?\.weight$", key))

    def architecture(self, file: ForeignFile) -> Architecture:
        """By the number of blocks, and whether they are bottlenecks."""
        return network(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's; of a network for another number of channels nobody knows the normalisation."""
        return photograph(network(file).in_channels)

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Prefixes of wrappers go, the classifier is left out, and MONAI's DenseNet has one more level of names."""
        return [*strip(*WRAPPERS), *ENCODER]


# of a network without prefixes, for other families that hold one
ENCODER: tuple[Rule, ...] = (
    Drop(r"(fc|classifier)\.(weight|bias)", "classification head"),
    Rename(r"(features\.denseblock\d\.denselayer\d+)\.(norm|conv)\.?([12]\..+)", r"\1.layers.\2\3"),
)


def bare(key: str) -> str:
    """A key without the prefixes of wrappers."""
    for prefix in WRAPPERS:
        key = key.removeprefix(prefix)
    return key


def network(file: ForeignFile, *, prefix: str = "") -> Architecture:
    """The ResNet or DenseNet whose keys lie behind `prefix` (and the prefixes of wrappers).

    Raises:
        SslMedError: wide or grouped convolutions, or a number of blocks that no network here has.
    """
    state = {bare(key.removeprefix(prefix)): value for key, value in file.state.items() if key.startswith(prefix)}
    if "features.conv0.weight" in state:
        layers = tuple(_count(state, rf"features\.denseblock{block}\.denselayer(\d+)\..*") for block in (1, 2, 3, 4))
        if layers != DENSENET121:
            raise SslMedError(
                f"is a DenseNet with {_shown(layers)} layers; only DenseNet-121 ({_shown(DENSENET121)}) exists here"
            )
        return Architecture(backbone_config("densenet121"), 2, state["features.conv0.weight"].shape[1])
    deep = "layer1.0.conv3.weight" in state
    blocks = tuple(_count(state, rf"layer{stage}\.(\d+)\..*") for stage in (1, 2, 3, 4))
    middle = state["layer1.0.conv2.weight"].shape
    if middle[0] != middle[1]:
        raise SslMedError(
            f"is a ResNeXt ({middle[0] // middle[1]} groups), which does not exist here; bring a plain ResNet"
        )
    if middle[0] != 64:
        raise SslMedError(
            f"is a wide ResNet ({middle[0]} channels in its first block), which does not exist here; bring one of 64"
        )
    name = RESNETS.get((deep, blocks))
    if name is None:
        kind = "bottleneck" if deep else "basic"
        raise SslMedError(f"is a ResNet with {_shown(blocks)} {kind} blocks; there are {', '.join(RESNETS.values())}")
    return Architecture(backbone_config(name), 2, state["conv1.weight"].shape[1])


def _count(state: Mapping[str, object], pattern: str) -> int:
    return len({match[1] for key in state if (match := re.fullmatch(pattern, key))})


def _shown(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
