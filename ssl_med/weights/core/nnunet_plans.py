"""What the plans of nnU-Net and nnssl say: strides, the kind of normalisation, and what images must be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ssl_med.contract import InputContract
from ssl_med.spec import SslMedError
from ssl_med.weights.core.nnunet_layout import Axes, turned

_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}
_CT, _Z, _RGB, _NONE = "CTNormalization", "ZScoreNormalization", "RGBTo01Normalization", "NoNormalization"


def configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Raises:
        SslMedError: there is none of that name, or one inherits from itself.
    """
    found: dict[str, Any] = {}
    seen: list[str] = []
    while name:
        chosen = plans.get("configurations", {}).get(name)
        if chosen is None or name in seen:
            raise SslMedError(f"its plans have no configuration '{name}'")
        seen.append(name)
        found = {**chosen, **found}
        name = str(chosen.get("inherits_from", ""))
    return found


def norm_of(kwargs: Mapping[str, Any]) -> str:
    """Our name of the normalisation that keywords of an architecture ask for; without any: instance.

    Raises:
        SslMedError: layers that ours does not have.
    """
    text = str(kwargs.get("norm_op", "InstanceNorm")).rpartition(".")[2]
    norm = next((ours for theirs, ours in _NORMS.items() if text.startswith(theirs)), "")
    if not norm:
        raise SslMedError(f"normalises by {text}; ours has instance and batch normalisation")
    slope = (kwargs.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    activation = str(kwargs.get("nonlin", "LeakyReLU")).rpartition(".")[2]
    if activation != "LeakyReLU" or slope != 0.01:
        raise SslMedError(f"has the activation {activation} (slope {slope}); ours has LeakyReLU of slope 0.01")
    if kwargs.get("nonlin_first") or (kwargs.get("norm_op_kwargs") or {}).get("eps", 1e-5) != 1e-5:
        raise SslMedError("has its activation before its normalisation, or another epsilon; ours has neither")
    return norm


def strides_of(chosen: Mapping[str, Any], kwargs: Mapping[str, Any]) -> Sequence[Sequence[int]]:
    """Strides of the stages in the network's order of axes; () where nothing is said."""
    found: Sequence[Sequence[int]] = kwargs.get("strides") or chosen.get("pool_op_kernel_sizes") or ()
    return found


def contract(
    chosen: Mapping[str, Any], properties: Mapping[str, Any], *, axes: Axes, modality: str, notes: Sequence[str] = ()
) -> InputContract:
    """What images must be, from a configuration and the properties of its data's foreground.

    nnU-Net clips CT to two percentiles of the foreground and divides by its deviation: the clipping is the window of
    the contract, mean and deviation are what follows it.

    Raises:
        SslMedError: a patch or a spacing for another number of axes.
    """
    lines = [*notes, "axes are as the file has them: the network was trained without turning scans"]
    patch = turned([int(side) for side in chosen.get("patch_size") or (128,) * len(axes)], axes)
    spacing = chosen.get("spacing")
    mm = None
    if spacing and len(spacing) == len(axes):
        mm = turned([float(step) for step in spacing], axes)
    schemes = [str(name) for name in chosen.get("normalization_schemes") or [_Z]]
    masked = chosen.get("use_mask_for_norm") or [False]
    masked = list(masked) if isinstance(masked, list | tuple) else [masked]
    if len(set(schemes)) > 1:
        lines.append(f"channels were normalised differently ({', '.join(schemes)}); the first one's is said here")
    first = properties.get("0") or {}
    if schemes[0] == _CT and first:
        low, high = float(first["percentile_00_5"]), float(first["percentile_99_5"])
        mean, sd = float(first["mean"]), float(first["std"])
        whole = InputContract("CT", patch, low=low, high=high, unit="HU", spacing_mm=mm, notes=tuple(lines))
        return replace(whole, after="dataset", after_mean=mean, after_sd=sd)
    if schemes[0] == _RGB:
        return InputContract(modality, patch, spacing_mm=mm, notes=tuple(lines))
    if schemes[0] != _Z:
        lines.append(f"intensities were prepared by {schemes[0]}, which the z-score here only stands for")
    if masked[0]:
        lines.append("outside the mask of the image, which is zero before, values are zero after the z-score too")
    over = "nonzero" if masked[0] else "image"
    return InputContract(modality, patch, scaling="zscore", over=over, spacing_mm=mm, notes=tuple(lines))  # type: ignore[arg-type]
