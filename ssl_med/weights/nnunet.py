"""Checkpoints of nnU-Net version 2: PlainConvUNet and ResidualEncoderUNet, with their decoder.

Isensee et al., "nnU-Net", Nature Methods 2021; "nnU-Net revisited", MICCAI 2024. Tensors lie in `network_weights`, the
plans in `init_args`. A file without plans (for `-pretrained_weights`) tells its strides by the kernels of its
transposed convolutions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_med.contract import InputContract
from ssl_med.spec import SslMedError
from ssl_med.weights.core import nnunet_layout as layout
from ssl_med.weights.core import nnunet_plans as plans
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rule

_DECATHLON = 10  # tasks
_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")


class NNUNet(Family):
    """A segmentation network of nnU-Net: encoder, and the decoder where it has as many convolutions in each stage."""

    citation = "Isensee et al., Nature Methods 2021 and MICCAI 2024"
    licence = "the terms of whoever trained the file; nnU-Net itself: Apache-2.0"
    commercial = None
    source = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION/fold_N/checkpoint_final.pth"
    containers = ("network_weights",)
    saw = ("the data set that its plans name",)
    traps = (
        "nnU-Net reads scans as (z, y, x): the kernels are turned for our (x, y, z), by the plans' transpose_forward too.",
        "Each tensor of a convolution stands twice in the file, and the encoder once more in the decoder.",
        "CT is clipped and normalised by numbers of the training set's foreground, which lie in the plans.",
        "The scan is not turned to one orientation: the network knows the one in which its training set was stored.",
    )
    agreement = "nnU-Net (0e49508), both ways: 3e-6 of 4.8, decoder 9e-6"

    def recognises(self, file: ForeignFile) -> bool:
        """nnU-Net's names, and no plan of nnssl."""
        pretrained = "nnssl_adaptation_plan" in file.extra or "adaptation_plan.json" in file.extra
        first = ("encoder.stages.0.0.convs.0.conv.weight", "encoder.stages.0.blocks.0.conv1.conv.weight")
        return not pretrained and any(file.has(key) for key in first)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Widths, kernels and blocks from the tensors, strides and normalisation from the plans.

        Raises:
            SslMedError: also where the decoder is not there, which every file of nnU-Net has.
        """
        if not layout.holds_decoder(file.state):
            raise SslMedError("holds no whole decoder, which every file of nnU-Net has: bring the file as it was saved")
        chosen, _ = _chosen(file)
        kwargs = _kwargs(chosen)
        return layout.architecture(
            file.state,
            strides=plans.strides_of(chosen, kwargs),
            axes=_axes(file),
            norm=plans.norm_of(kwargs),
            with_decoder=True,
        )

    def contract(self, file: ForeignFile) -> InputContract:
        """From the plans; without any: z-scores."""
        chosen, whole = _chosen(file)
        notes = () if whole else ("the file has no plans: how images were prepared is not known",)
        properties = whole.get("foreground_intensity_properties_per_channel") or {}
        return plans.contract(chosen, properties, axes=_axes(file), modality="", notes=notes)

    def seen(self, file: ForeignFile) -> Sequence[str]:
        """The data set of the plans; nnU-Net numbers those of the Medical Segmentation Decathlon from 1 to 10."""
        named = str(_chosen(file)[1].get("dataset_name", ""))
        match = re.fullmatch(r"Dataset(\d{3})_(\w+)", named)
        if match is None:
            return (named or "a data set that the file does not name",)
        known = "MSD" if 1 <= int(match[1]) <= _DECATHLON else match[2]
        return (f"{known} ({named})",)

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Second names are compared, then every name becomes ours."""
        carried = self.architecture(file).decoder
        reason = "decoder with another number of convolutions in each stage"
        return layout.import_rules(file.state, _axes(file), decoder=carried, why_not=reason)


def _chosen(file: ForeignFile) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The configuration that was trained, and the plans; both empty without plans."""
    about = file.extra.get("init_args") or {}
    whole: Mapping[str, Any] = about.get("plans") or file.extra.get("plans.json") or {}
    return (plans.configuration(whole, str(about.get("configuration", ""))) if whole else {}), whole


def _kwargs(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Keywords of the architecture; plans of before version 2.4 have none.

    Raises:
        SslMedError: another network.
    """
    about = chosen.get("architecture") or {}
    name = str(about.get("network_class_name") or chosen.get("UNet_class_name") or _NETWORKS[0]).rpartition(".")[2]
    if name not in _NETWORKS:
        raise SslMedError(f"is a {name}; of nnU-Net's networks {' and '.join(_NETWORKS)} exist here")
    kwargs: Mapping[str, Any] = about.get("arch_kwargs") or {}
    return kwargs


def _axes(file: ForeignFile) -> layout.Axes:
    """The network's axis for each of ours."""
    _, whole = _chosen(file)
    weight = next(value for key, value in file.state.items() if key.endswith(".conv.weight"))
    return layout.axes_of(whole.get("transpose_forward") or (0, 1, 2), weight.ndim - 2)
