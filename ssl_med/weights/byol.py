"""BYOL: DeepMind's ResNet-50 from arrays of Haiku, and what common PyTorch programs save.

Grill et al., "Bootstrap your own latent", NeurIPS 2020. Layouts:

- DeepMind's pickle runs code. Where it is trusted, its arrays are saved under the names that they have there, MODULE/ARRAY:
  state = pickle.load(file)["experiment_state"], then numpy.savez("byol.npz", **{f"{module}/{name}": array for found in
  (state.online_params, state.online_state) for module, arrays in found.items() for name, array in arrays.items()}).
  Modules: res_net50/~/{initial_conv, initial_batchnorm, block_group_G/~/block_B/~/{conv_N, batchnorm_N, shortcut_conv,
  shortcut_batchnorm}}; convolutions `w` are (H, W, I, O), `scale` and `offset` (1, 1, 1, C), running statistics
  BATCHNORM/~/{mean_ema, var_ema}/average.
- ajtejankar/byol-convert: torchvision's keys; the family must be named.
- lucidrains/byol-pytorch: `online_encoder.net.`, the same tensors once more as `net.`, `online_encoder.projector.`,
  `online_predictor.`, `target_encoder.`.
- PyTorch Lightning Bolts: `online_network.encoder.`, `online_network.projector.`, `target_network.`.
- sthalles/PyTorch-BYOL: container `online_network_state_dict`, a Sequential `encoder.{0,1,4,5,6,7}` and `projetion.`.

Images are ImageNet's.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import photograph
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Alias, Drop, Rename, Rule, apply
from ssl_med.weights.core.wrapped import WrappedEncoder
from ssl_med.weights.torchvision import network

_HAIKU = re.compile(r".*/initial_conv(_1)?/w")
_SEQUENTIAL = "encoder.0.weight"  # a list of torchvision's layers, without names
_GROUPS, _BLOCK = 4, r".*block_group_{group}/~/block_(\d+)/~/"


class BYOL(WrappedEncoder):
    """The online network's encoder."""

    citation = "Grill et al., BYOL, NeurIPS 2020"
    licence = "Apache-2.0 (DeepMind's weights); ImageNet's terms for the images"
    commercial = False
    source = (
        "https://github.com/google-deepmind/deepmind-research/tree/master/byol, its arrays saved by numpy.savez as "
        "ssl_med/weights/byol.py says"
    )
    saw = ("ImageNet-1k",)
    traps = (
        "JAX pads layers of stride 2 more on the right where a side is even, torch alike: of images of 224 x 224 the features "
        "differ from DeepMind's, with seeded numbers by 39 % of the largest. Sides of 32 n + 1, such as 225, give DeepMind's.",
        "The released file is a pickle of objects and runs code.",
        "An average over batches that Haiku saves as `hidden` is biased at first; `average` is the one that counts.",
    )
    containers = ("online_network_state_dict", "state_dict", "model_state_dict", "model", "net", "")
    prefixes = ("online_encoder.net.", "online_network.encoder.")
    rest = (
        Alias(r"net\.(.+)", r"online_encoder.net.\1"),
        Drop(r"target_(encoder|network)\..+", "target network"),
        Drop(r"online_(encoder|network)\.projector\..+", "projection head"),
        Drop(r"(online_)?predictor\..+", "predictor"),
    )

    def recognises(self, file: ForeignFile) -> bool:
        """Haiku's names, an online network, or a Sequential in its own container."""
        return self._translated(file) or self.prefix(file) is not None

    def admits(self, file: ForeignFile) -> bool:
        """A bare encoder, too."""
        return self._translated(file) or super().admits(file)

    def architecture(self, file: ForeignFile) -> Architecture:
        """By the number of blocks, and whether they are bottlenecks."""
        if not self._translated(file):
            return super().architecture(file)
        return network(replace(file, state=apply(self.rules(file), file.state).tensors))

    def contract(self, file: ForeignFile) -> InputContract:
        """ImageNet's."""
        found = photograph(self.architecture(file).in_channels)
        if not _haiku(file):
            return found
        return replace(found, notes=(*found.notes, "sides of 32 n + 1 give exactly the original's features"))

    def rules(self, file: ForeignFile) -> list[Rule]:
        """By layout."""
        if _haiku(file):
            return _from_haiku()
        if file.has(_SEQUENTIAL):
            stages = [Rename(rf"encoder\.{stage + 3}\.(.+)", rf"layer{stage}.\1") for stage in (1, 2, 3, 4)]
            stem = [Rename(r"encoder\.0\.(.+)", r"conv1.\1"), Rename(r"encoder\.1\.(.+)", r"bn1.\1")]
            return [Drop(r"projet(ion|tion)\..+|projection\..+", "projection head"), *stem, *stages]
        return super().rules(file)

    def _translated(self, file: ForeignFile) -> bool:
        return _haiku(file) or (file.has(_SEQUENTIAL) and file.container == self.containers[0])


def _haiku(file: ForeignFile) -> bool:
    return any(_HAIKU.fullmatch(key) for key in file.state)


def _turned(weight: torch.Tensor) -> torch.Tensor:
    """(H, W, I, O) -> (O, I, H, W)."""
    return weight.permute(3, 2, 0, 1).contiguous()


def _flat(values: torch.Tensor) -> torch.Tensor:
    """(1, 1, 1, C) -> (C,)."""
    return values.flatten()


def _from_haiku() -> list[Rule]:
    """Modules become torchvision's, then their arrays."""
    rules: list[Rule] = [
        Drop(r"(.*/)?(projector|predictor|classifier)(/.+)?", "projection head, predictor or classifier"),
        Drop(r".*/(hidden|counter)", "state of a moving average besides its value"),
        Rename(r".*/initial_conv(?:_1)?/(.+)", r"conv1/\1"),
        Rename(r".*/initial_batchnorm(?:_1)?/(.+)", r"bn1/\1"),
    ]
    for group in range(_GROUPS):
        block, to = _BLOCK.format(group=group), rf"layer{group + 1}.\1."
        rules += [Rename(rf"{block}shortcut_conv/(.+)", rf"{to}downsample.0/\2")]
        rules += [Rename(rf"{block}shortcut_batchnorm/(.+)", rf"{to}downsample.1/\2")]
        for number in range(3):
            rules += [Rename(rf"{block}conv_{number}/(.+)", rf"{to}conv{number + 1}/\2")]
            rules += [Rename(rf"{block}batchnorm_{number}/(.+)", rf"{to}bn{number + 1}/\2")]
    return [
        *rules,
        Rename(r"(.+)/w", r"\1.weight", _turned),
        Rename(r"(.+)/scale", r"\1.weight", _flat),
        Rename(r"(.+)/offset", r"\1.bias", _flat),
        Rename(r"(.+)/~/mean_ema/average", r"\1.running_mean", _flat),
        Rename(r"(.+)/~/var_ema/average", r"\1.running_var", _flat),
    ]
