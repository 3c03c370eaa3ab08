"""TorchXRayVision: networks for one channel that were trained to name the findings of chest X-rays of several hospitals.

Cohen et al., "TorchXRayVision: a library of chest X-ray datasets and models", MIDL 2022. A DenseNet-121 for 224 x 224 with
torchvision's keys, 18 outputs and the buffer `op_threshs`; a ResNet-50 for 512 x 512. Grey levels are scaled to
[-1024, 1024]. The released DenseNets are pickled models, which cannot be read without running code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder, first_convolution

FINDINGS, RANGE = 18, 1024


class TorchXRayVision(WrappedEncoder):
    """The encoder of its classifiers."""

    citation = "Cohen et al., TorchXRayVision, MIDL 2022"
    licence = "Apache-2.0 (code); the terms of the data sets for the images: research alone"
    commercial = False
    source = "https://github.com/mlmed/torchxrayvision/releases: the state_dict() of xrv.models.DenseNet(weights=NAME)"
    saw = ("ChestX-ray14", "PadChest", "CheXpert", "MIMIC-CXR", "Open-i", "RSNA pneumonia")
    traps = (
        "Grey levels go from -1024 to 1024, not from 0 to 1: the first layer's statistics belong to that range.",
        "These are supervised weights: they saw the labels of their images, too.",
        "Files called densenet121-res224-nih, -pc, -chex, -mimic_ch, -mimic_nb and -rsna saw one of the data sets alone.",
        "The released files pickle a whole model and run code when they are loaded.",
    )
    agreement = "mlmed/torchxrayvision f4087a0: 0 (DenseNet-121, all levels)"
    pickles: ClassVar[Mapping[str, str]] = {
        "torchxrayvision": "where you trust it, torch.save(torchxrayvision.models.DenseNet(weights=NAME).state_dict(), FILE)"
    }
    prefixes = ("", "module.", "model.")
    rest = (Drop(r"((module|model)\.)?op_threshs", "operating points of the classifier"),)
    head = "classification head"

    def recognises(self, file: ForeignFile) -> bool:
        """An encoder for one channel with operating points, or a DenseNet with 18 findings."""
        prefix = self.prefix(file)
        if prefix is None or first_convolution(file, prefix)[1] != 1:
            return False
        named = any(file.has(f"{wrapper}op_threshs") for wrapper in self.prefixes)
        return named or file.shape(f"{prefix}classifier.weight")[:1] == (FINDINGS,)

    def contract(self, file: ForeignFile) -> InputContract:
        """Grey levels that the data scale to [0, 1], and the network to [-1024, 1024]."""
        architecture = self.architecture(file)
        config, channels = architecture.config, architecture.in_channels
        side = 224 if config.name == "densenet121" else 512
        return InputContract(
            modality="X-ray",
            patch_size=(side, side),
            mean=(0.5,) * channels,
            std=(0.5 / RANGE,) * channels,
            notes=("images were cut to a square in the middle, then resized",),
        )
