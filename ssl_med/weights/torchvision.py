"""ResNet-18 and ResNet-50 as torchvision names their tensors: supervised ImageNet weights, and what was trained from them.

Network: He et al., "Deep residual learning for image recognition", CVPR 2016. Keys: conv1, bn1, layerN.M.*, downsample.{0,1},
fc; they are also those of MONAI's 2D ResNet, which is our encoder. Images: RGB, 224 x 224, scaled to [0, 1], then normalised
by ImageNet's mean and standard deviation of each channel.

Where we deviate: our data modules hand out [0, 1] without that normalisation, so it is folded into the first layer: weights are
divided by the standard deviation, and the constant that the mean contributes moves into the running mean of the first batch
normalisation. The features are the same except where the first convolution reaches over the border of the image, since zero
padding is black here and ImageNet's mean grey there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssl_med.networks.backbone import backbone_config
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.spec import DataSpec, Intensity
from ssl_med.weights.core.family import Family, State

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images in [0, 1]
_PREFIXES = ("module.", "backbone.", "encoder.")


class Torchvision(Family):
    """torchvision's ResNet-18 and ResNet-50."""

    citation = "He et al. 2016; torchvision"
    licence = "BSD-3-Clause (code); ImageNet's terms for the images"

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        """The stem and four stages are there; the classifier may be."""
        keys = {self._bare(key) for key in state}
        return {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer4.1.conv2.weight"} <= keys

    def architecture(self, state: Mapping[str, Tensor]) -> tuple[BackboneConfig, DataSpec]:
        """ResNet-50 has bottleneck blocks of three convolutions."""
        deep = any(self._bare(key) == "layer1.0.conv3.weight" for key in state)
        channels = next(value.shape[1] for key, value in state.items() if self._bare(key) == "conv1.weight")
        config = backbone_config("resnet50" if deep else "resnet18")
        spec = DataSpec(
            name="imagenet",
            spatial_dims=2,
            in_channels=channels,
            patch_size=(224, 224),
            intensity=Intensity("window", 0.0, 255.0, unit="grey level"),
            orientation="",
            channel_names=("red", "green", "blue") if channels == 3 else (),
        )
        return config, spec

    def rename(self, key: str) -> str:
        """Prefixes of wrappers go; the classifier is left out."""
        bare = self._bare(key)
        return "" if bare in ("fc.weight", "fc.bias") else bare

    def adjust(self, state: State) -> list[str]:
        """Folds the normalisation by ImageNet's mean and standard deviation into the first layer."""
        weight = state["conv1.weight"]
        if weight.shape[1] != len(MEAN):
            return [f"first layer kept: it has {weight.shape[1]} channel(s), and ImageNet's normalisation has three"]
        mean, std = (torch.tensor(values, dtype=weight.dtype).view(1, 3, 1, 1) for values in (MEAN, STD))
        state["conv1.weight"] = weight / std
        state["bn1.running_mean"] = state["bn1.running_mean"] + (weight * mean / std).sum((1, 2, 3))
        return ["ImageNet's mean and standard deviation are folded into the first layer: images in [0, 1] are right"]

    @staticmethod
    def _bare(key: str) -> str:
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        return key
