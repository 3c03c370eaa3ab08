"""Settings of PCRL and the views of its branches: crops, their corruptions, transformed targets and mixtures of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssl_med.methods.core.base import Tensors
from ssl_med.methods.core.queue_contrast import QueueContrast
from ssl_med.methods.core.transatt import Form
from ssl_med.ranges import BelowOne, Count, Degrees, NonNegative, Positive, Share, Width
from ssl_med.setting import setting
from ssl_med.spec import Batch, SslMedError
from ssl_med.transforms.corruptions import local_shuffle, paint
from ssl_med.transforms.intensity import brightness_contrast, cutout, gaussian_blur
from ssl_med.transforms.spatial import apply_flip_rot, flip, flip_rot, indicator, small_rotation

_TRANSFORMED = {"reconstruct": (True,), "transform": ("flip", "flip_rot")}


@dataclass
class PCRLConfig:
    """Defaults of the paper but for what the module says; ablations (Tables 1 and 2) are the presets in conf/method/pcrl."""

    reconstruct: bool = True
    """false: contrastive loss only, no decoder"""
    rotnet: bool = False
    """instead of a decoder: predict by which quarter turn a crop was rotated (Gidaris et al. 2018)"""
    transform: Literal["none", "flip", "flip_rot"] = "flip_rot"
    """transforms T_k of the targets; none: plain self-reconstruction without attention"""
    crossmix: bool = True
    """the hybrid branch"""
    attention: Form = "gate"
    """form of TransAtt: channel gate from the indicator alone, outer product of indicator and features, or the official code's
    gate, which no convolution follows"""
    alpha: Positive = setting(default=1.0, needs=({"crossmix": (True,)}, {"mixup": (True,)}))
    """CrossMix and mixup: lambda ~ Beta(alpha, alpha)"""
    lambda_fold: bool = setting(default=False, needs=({"crossmix": (True,)}, {"mixup": (True,)}))
    """max(lambda, 1 - lambda): the ordinary branch always weighs more, as in the official code"""
    hybrid: Literal["own", "mixed"] = setting(default="own", before="own", needs={**_TRANSFORMED, "crossmix": (True,)})
    """the hybrid branch has a transform of its own, as in the paper, or mixes the others' attended features and transformed
    targets, as in the official code"""
    target: Literal["clean", "corrupted"] = setting(default="clean", before="clean", needs={"reconstruct": (True,)})
    """what is transformed to a target: the clean crop, or the network's own input, as in the official code"""
    restore_momentum: bool = setting(default=True, before=True, needs={"reconstruct": (True,)})
    """the momentum branch is restored too, as in eq. 8; in the official code it is not"""
    mixup: bool = setting(default=False, before=False)
    """a second pass on mixtures of images, as in the official code and C2L: two more contrasts, and clean mixtures restored"""
    loss: Literal["info_nce", "nce"] = setting(default="info_nce", before="info_nce")
    """contrast with the queue; nce: noise-contrastive estimation with the constant of the first batch, as in the official
    code"""
    contrast_after: bool = setting(default=False, before=False, needs=_TRANSFORMED)
    """the contrast compares features after TransAtt, F^(l+1) of eq. 7"""
    push: Literal["momentum", "branches", "contrasts"] = setting(default="momentum", before="momentum")
    """keys that enter the queue: the momentum branch's; those of every branch, as in the paper; the key of every contrast as
    soon as it is made, as in the official code"""
    temperature: Positive = 0.2
    """tau of the contrast"""
    queue: Count = 16384
    """number of keys N"""
    momentum: Share = 0.99
    """EMA coefficient beta of the momentum encoder"""
    out_dim: Width = 128
    """dimension of the contrasted embedding"""
    contrast_weight: NonNegative = 0.5
    """weight of the contrastive loss, the mean of the contrasts"""
    restore_weight: NonNegative = 0.5
    """weight of the sum of the branches' squared errors, or of RotNet's cross-entropy"""
    corruption: Literal["code", "paper"] = setting(default="code", before="code")
    """code: jitter, blur and cutout of images, blur, shuffling and painting of volumes; paper: painting and blur of both"""
    shuffle: Share = setting(default=0.5, needs={"dims": ("3D",), "corruption": ("code",)})
    """3D: probability of local pixel shuffling"""
    paint: Share = setting(default=0.9, needs=({"dims": ("3D",)}, {"corruption": ("paper",)}))
    """probability of in- or out-painting; it takes thousands of steps to tell painted crops from each other"""
    min_iou: BelowOne = 0.2
    """least overlap of the two crops of a pair"""
    pair_sizes: Literal["equal", "independent"] = setting(default="equal", before="equal", needs={"dims": ("3D",)})
    """3D: the two crops of a pair have one of five sizes, or each its own, as in the official code"""
    mirror: Share = setting(default=0.0, before=0.0)
    """probability that a crop is mirrored before it is corrupted: left-right in 2D, along each axis in 3D"""
    rotation_deg: Degrees = setting(default=10.0, needs={"dims": ("3D",)})
    """3D: largest in-plane rotation of a crop"""
    rotation_deg_2d: Degrees = setting(default=0.0, before=0.0, needs={"dims": ("2D",)})
    """2D: largest rotation of a crop"""

    def __post_init__(self) -> None:
        if self.crossmix and not self.reconstruct:
            raise SslMedError("method.crossmix needs a decoder: set method.crossmix=false or method.reconstruct=true")
        if self.rotnet and self.reconstruct:
            raise SslMedError("method.rotnet replaces the decoder: set method.reconstruct=false")
        if self.push == "contrasts" and not self.mixup:
            raise SslMedError(
                "method.push=contrasts needs further contrasts: set method.mixup=true or method.push=momentum"
            )


class BranchViews(QueueContrast):
    """What `PCRL` learns from, by its settings: o is the ordinary branch, m the momentum branch, h the hybrid one."""

    config: PCRLConfig

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Inputs of both encoders, per branch k the target T_k(X_k) with its indicator v_k, and mixtures of images."""
        c = self.config
        crops = {k: self.turn(crop, generator) for k, crop in (("o", batch["image"]), ("m", batch["image2"]))}
        inputs = {k: self.corrupt(x, generator) for k, x in crops.items()}
        views = {f"input_{k}": x for k, x in inputs.items()}
        if c.rotnet:
            views["turned"], params = flip_rot(crops["o"], generator, flips=False)
            views["turns"] = params.turns
        if c.reconstruct:
            views |= self.targets(crops if c.target == "clean" else inputs, generator)
        return views | self.mixtures(crops, inputs, generator) if c.mixup else views

    def turn(self, crop: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) crop of the data -> mirrored and rotated clean crop X_k."""
        images = self.spec.spatial_dims == 2
        degrees = self.config.rotation_deg_2d if images else self.config.rotation_deg
        crop = small_rotation(crop, generator, degrees=degrees) if degrees > 0 else crop
        return (
            flip(crop, generator, p=self.config.mirror, axes=(1,) if images else None) if self.config.mirror else crop
        )

    def corrupt(self, crop: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) clean -> corrupted network input."""
        c, images = self.config, self.spec.spatial_dims == 2
        x = crop
        if images and c.corruption == "code":
            x = brightness_contrast(x, generator, brightness=0.4, contrast=0.4, p=1.0)
        shrink = (
            min(self.spec.patch_size) / 224 if images else 1
        )  # the official widths are those of crops of 224 pixels
        x = gaussian_blur(x, generator, sigma=(0.1 * shrink, 2.0 * shrink), p=0.5)
        if c.corruption == "code":
            if images:
                return cutout(x, generator, holes=3, fraction=32 / 224)
            x = local_shuffle(x, generator, p=c.shuffle)
        return paint(x, generator, p=c.paint, inpaint_rate=0.2)

    def targets(self, crops: Tensors, generator: torch.Generator) -> Tensors:
        """`target_k` and `indicator_k` of the branches, and lambda as `mix`, from (B, C, *S) crops of o and m."""
        c = self.config
        views, shown = {}, dict(crops)
        if c.crossmix:
            views["mix"] = self.share(generator, crops["o"])
            if c.hybrid == "own" or c.transform == "none":
                shown["h"] = torch.lerp(crops["m"], crops["o"], views["mix"])
        for k, crop in shown.items():
            if c.transform == "none":
                views[f"target_{k}"] = crop
                continue
            params = flip_rot(crop, generator, flips=True, rotations=c.transform == "flip_rot")[1]
            views[f"target_{k}"], views[f"indicator_{k}"] = apply_flip_rot(crop, params), indicator(params)
        if c.crossmix and "h" not in shown:
            views["target_h"] = torch.lerp(views["target_m"], views["target_o"], views["mix"])
        return views

    def mixtures(self, crops: Tensors, inputs: Tensors, generator: torch.Generator) -> Tensors:
        """Mixtures of each image with a `partner` of the batch: of the inputs and, for a decoder, of the clean crops."""
        device, count = inputs["o"].device, len(inputs["o"])
        views = {"partner": torch.randperm(count, generator=generator, device=device)}
        views["share"] = self.share(generator, inputs["o"])
        wanted = {f"mixed_{k}": x for k, x in inputs.items()}
        if self.config.reconstruct:
            wanted |= {f"target_mixed_{k}": x for k, x in crops.items()}
        views |= {key: torch.lerp(x[views["partner"]], x, views["share"]) for key, x in wanted.items()}
        if self.config.crossmix:
            views["mixed_mix"] = self.share(generator, inputs["o"])
            views["target_mixed_h"] = torch.lerp(views["target_mixed_m"], views["target_mixed_o"], views["mixed_mix"])
        return {key: x for key, x in views.items() if key != "target_mixed_m"}

    def share(self, generator: torch.Generator, like: Tensor) -> Tensor:
        """() lambda ~ Beta(alpha, alpha), folded where the settings say so."""
        mix = _beta(self.config.alpha, generator, like)
        return torch.maximum(mix, 1 - mix) if self.config.lambda_fold else mix


def _beta(alpha: float, generator: torch.Generator, like: Tensor) -> Tensor:
    """One draw from Beta(alpha, alpha) as a ratio of gamma draws."""
    pair = torch._standard_gamma(torch.full((2,), alpha, device=like.device), generator=generator)
    return (pair[0] / pair.sum()).to(like.dtype)
