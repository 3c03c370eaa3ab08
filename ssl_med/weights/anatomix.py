"""anatomix: a 3D U-Net trained on synthetic volumes to give the same features whatever the contrast.

Dey et al., "Learning general-purpose biomedical volume representations using randomized synthesis", ICLR 2025. Keys: model.N, a
sequence of convolution, normalisation, activation, pooling and upsampling, which the number of halvings determines. Two sizes:
anatomix (16 filters, 4 halvings, batch normalisation) and anatomix-dev (32, 5, instance normalisation, average pooling, linear
upsampling). `_orig_mod.` is torch.compile's.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rename, Rule, strip

_KEY = re.compile(r"(?:_orig_mod\.)?model\.(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)")


class AnatomixWeights(Family):
    """Encoder and decoder of both U-Nets; the transformer anatomix-dev-vit has another layout."""

    citation = "Dey, Billot, Wong, Wang, Ren, Grant, Dalca, Golland: anatomix, ICLR 2025"
    licence = "MIT"
    commercial = True
    source = "https://huggingface.co/neeldey/anatomix: anatomix.pth, anatomix-dev.pth"
    containers = ("state_dict", "model", "")
    saw = ("TotalSegmentator",)
    traps = (
        "It saw shapes of TotalSegmentator's labels under random contrasts, and no real scan.",
        "Borders are reflected, so each level needs two voxels along each axis: sides of 32 at least, of the larger one 64.",
        "Features of anatomix-dev must be normalised at each voxel before they are compared.",
    )
    agreement = "anatomix a29b8a8, anatomix and anatomix-dev, features of voxels: 0"

    def recognises(self, file: ForeignFile) -> bool:
        """A numbered sequence that begins with a 3D convolution and has as many layers as such a U-Net."""
        if not all(_KEY.fullmatch(key) for key in file.state):
            return False
        convolutions = _convolutions(file)
        return bool(convolutions) and convolutions[0] == 0 and set(convolutions) == set(_places(_halvings(file)))

    def architecture(self, file: ForeignFile) -> Architecture:
        """Filters, halvings and normalisation are those of the file.

        Raises:
            SslMedError: no such number of halvings.
        """
        first, last = _shape(file, 0), _shape(file, max(_convolutions(file)))
        halvings, batch = _halvings(file), any(key.endswith("running_mean") for key in file.state)
        bias = bool(file.shape("model.0.bias") or file.shape("_orig_mod.model.0.bias"))
        # nothing in a file of instance normalisation tells how it pools: only the larger network has it
        others = {} if batch else {"pooling": "average", "upsampling": "linear", "norm_eps": 1e-2, "affine": False}
        config = backbone_config(
            "anatomix",
            filters=first[0],
            halvings=halvings,
            features=last[0],
            norm="batch" if batch else "instance",
            bias=bias,
            **others,
        )
        return Architecture(config, len(first) - 2, first[1], decoder=True)

    def contract(self, file: ForeignFile) -> InputContract:
        """Any modality in [0, 1]."""
        return InputContract(
            modality="",
            patch_size=(128, 128, 128),
            scaling="percentile",
            low=0.0,
            high=100.0,
            unit="",
            notes=(
                "the authors scale each volume from its minimum and maximum, zeros included, to [0, 1]; of CT they clip a "
                "window first",
            ),
        )

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Places in the sequence become places in levels."""
        found: list[Rule] = strip("_orig_mod.")
        for place, ours in _places(_halvings(file)).items():
            if ours == "decoder.head":
                found.append(Rename(rf"model\.{place}\.(weight|bias)", rf"{ours}.\1"))
            else:
                found.append(Rename(rf"model\.{place}\.(weight|bias)", rf"{ours}.0.\1"))
                found.append(Rename(rf"model\.{place + 1}\.(.*)", rf"{ours}.1.\1"))
        return found


def _convolutions(file: ForeignFile) -> list[int]:
    """Places of the convolutions."""
    return sorted(
        int(match[1]) for key, value in file.state.items() if value.ndim == 5 and (match := _KEY.fullmatch(key))
    )


def _shape(file: ForeignFile, place: int) -> tuple[int, ...]:
    return file.shape(f"model.{place}.weight") or file.shape(f"_orig_mod.model.{place}.weight")


def _halvings(file: ForeignFile) -> int:
    """Halvings of a U-Net with so many convolutions: a stem, two a level on the way down and up, and the last one.

    Raises:
        SslMedError: no such number.
    """
    number = len(_convolutions(file))
    halvings = (number - 4) // 4
    if halvings < 1 or number != 4 * halvings + 4:
        raise SslMedError(f"has {number} convolutions; anatomix' U-Net has 8, 12, 16, 20 or more such numbers")
    return halvings


def _places(halvings: int) -> dict[int, str]:
    """Place of each convolution in the sequence -> our name of its unit.

    A unit takes three places, a pooling one, an upsampling one.
    """
    places, at = {0: "stem"}, 3
    for level in range(halvings + 1):
        for unit in (0, 1):
            places[at] = f"levels.{level}.{unit}"
            at += 3
        at += level < halvings  # the pooling
    for step in range(halvings):
        at += 1  # the upsampling
        for unit in (0, 1):
            places[at] = f"decoder.levels.{step}.{unit}"
            at += 3
    places[at] = "decoder.head"
    return places
