"""The restoration family: corrupt an image, restore the original."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ssl_med.distributed import all_reduce_mean
from ssl_med.evaluation.metrics import METRICS
from ssl_med.losses.restoration import mae, mse, ssim_loss
from ssl_med.methods.core.about import Family
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.restoring import Restores
from ssl_med.networks.heads import RestorationHead
from ssl_med.ranges import Natural, Share
from ssl_med.rng import seeded_generator
from ssl_med.spec import Batch, DataSpec, SslMedError
from ssl_med.transforms.cells import largest_side
from ssl_med.transforms.corruptions import local_shuffle, pooled_shuffle, shuffle_maps
from ssl_med.transforms.spatial import flip

_LOSSES = {"mse": mse, "mae": mae, "ssim": ssim_loss}
_POOL = 0x900C  # word of the generator of the pool


@dataclass
class RestorationConfig:
    """Settings of every restoration method."""

    loss: Literal["mse", "mae", "ssim"] = "mse"
    """distance between restored and original image"""
    skips: bool = True
    """whether the decoder sees the encoder's finer levels (U-Net) or only the last one"""
    flip: Share = 0.0
    """probability per axis that an image is mirrored, input and target alike"""


@dataclass
class GenesisConfig(RestorationConfig):
    """Settings of Models Genesis and of its corruptions used alone: images are mirrored."""

    flip: Share = 0.4
    """probability per axis that an image is mirrored, input and target alike"""


@dataclass
class ShuffleConfig(GenesisConfig):
    """Settings of local pixel shuffling."""

    windows: Natural = 1000
    """windows shuffled per image, each 1 to S//10 voxels wide"""
    pooled: Natural = 0
    """shufflings drawn once and used again, each image taking a random one: faster; 0: every image draws its own windows"""


class Restorer(Restores, Method):
    """A network that outputs an image: backbone, decoder and output layer."""

    family: ClassVar[tuple[Family, ...]] = ("restoration",)
    metric = METRICS["mse"]
    needs_decoder = True
    config: RestorationConfig

    @property
    def activation(self) -> Literal["sigmoid", "linear"]:
        """Activation of the output layer; images lie in [0, 1] unless they are standardised."""
        return "linear" if self.spec.intensity.standardised else "sigmoid"

    def build(self) -> None:
        """Adds the reconstruction path and the output layer."""
        if self.config.loss == "ssim" and self.spec.intensity.standardised:
            raise SslMedError(
                f"method.loss=ssim compares intensities in [0, 1], and data.normalisation={self.spec.intensity.normalisation} "
                "gives others; take method.loss=mse or mae"
            )
        self.head = RestorationHead(
            self.build_path(), self.spec.in_channels, self.spec.spatial_dims, activation=self.activation
        )

    def build_path(self) -> int:
        """Adds what leads from the pyramid to full resolution, and returns its channels there: the decoder, which travels."""
        self.decoder = self.backbone.build_decoder(skips=self.config.skips)
        return self.decoder.out_channels

    def reconstruct(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid -> features at full resolution."""
        assert self.decoder is not None
        features: Tensor = self.decoder(pyramid)
        return features

    def target(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The image to restore, mirrored at random with probability `flip` per axis."""
        return flip(image, generator, p=self.config.flip) if self.config.flip > 0 else image

    def restore(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, *S) -> restored image and the encoder's pyramid."""
        pyramid = self.backbone(image)
        return self.head(self.reconstruct(pyramid)), pyramid

    def distance(self, restored: Tensor, target: Tensor) -> Tensor:
        """The distance that the setting `loss` names."""
        return _LOSSES[self.config.loss](restored, target)


class Restoration(Restorer):
    """Restores an image from its corruption; a subclass defines `corrupt`."""

    @abstractmethod
    def corrupt(self, target: Tensor, generator: torch.Generator) -> Tensor:
        """(B, C, *S) -> the corrupted input, a new tensor."""

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """`target` and its corrupted `input`, both (B, C, *S)."""
        target = self.target(batch["image"], generator)
        return {"input": self.corrupt(target, generator), "target": target}

    def restored(self, image: Tensor, generator: torch.Generator) -> Tensors:
        """Of images that are not mirrored; and of the image without a corruption."""
        corrupted = self.corrupt(image, generator)
        shown = {"restored": corrupted, "unchanged": image}
        return {"corrupted": corrupted, **{name: self.restore(x)[0] for name, x in shown.items()}}

    def terms(self, views: Tensors) -> Tensors:
        """Restores the corrupted input and compares it with the target."""
        restored, pyramid = self.restore(views["input"])
        return self.compared(to_float32(restored), pyramid, views)

    def compared(self, restored: Tensor, pyramid: list[Tensor], views: Tensors) -> Tensors:
        """Loss, metric and baseline of a restored image."""
        target = views["target"]
        return {
            "loss": self.distance(restored, target),
            "features": self.backbone.pool(pyramid).detach(),
            "metric": mse(restored.detach(), target),
            "baseline": self.baseline(views),
        }

    def baseline(self, views: Tensors) -> Tensor:
        """Squared error of the better of two solvers that learned nothing: return the input, or one grey value."""
        return better_of(mse(views["input"], views["target"]), grey_error(views["target"]))


class Shuffling(Restoration):
    """Restoration whose corruption shuffles voxels locally, by `maps` (M, V) when there is a pool of them."""

    config: ShuffleConfig
    maps: Tensor | None

    def build(self) -> None:
        """Draws the pool from the run's seed: a resumed run draws it again instead of loading it."""
        super().build()
        pool = None
        if self.config.pooled:
            generator = seeded_generator(self.seed, _POOL, device=torch.device("cpu"))
            pool = shuffle_maps(self.config.pooled, self.spec.patch_size, generator, windows=self.config.windows)
        self.register_buffer("maps", pool, persistent=False)

    def shuffled(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Every sample shuffled, with windows of its own or by a map of the pool."""
        if self.maps is not None:
            return pooled_shuffle(x, generator, maps=self.maps, p=1.0)
        return local_shuffle(x, generator, p=1.0, windows=self.config.windows)


def better_of(one: Tensor, other: Tensor) -> Tensor:
    """The smaller of two errors, each as its mean over all processes: the smaller one may differ between parts of a batch."""
    return torch.minimum(all_reduce_mean(one), all_reduce_mean(other))


def grey_error(target: Tensor) -> Tensor:
    """Squared error of one grey value per image, the best there is: its mean."""
    flat = target.flatten(1)
    return (flat - flat.mean(1, keepdim=True)).square().mean()


def cell_side(
    key: str, given: Sequence[int], spec: DataSpec, *, limit: Sequence[int], cells: int = 1
) -> tuple[int, ...]:
    """Sides of the cells of a crop: what the user gave, or the longest divisors of the crop's sides up to `limit`.

    Raises:
        SslMedError: sides that do not divide the crop's, or fewer than `cells` cells.
    """
    size = spec.patch_size
    side = tuple(given) or largest_side(size, limit)
    if len(side) != len(size) or any(a < 1 or s % a for a, s in zip(side, size, strict=False)):
        raise SslMedError(
            f"{key} {list(side)} does not fit data.patch_size {list(size)}: give one number per axis, each a divisor of "
            "the crop's"
        )
    if math.prod(size) < cells * math.prod(side):
        raise SslMedError(
            f"{key} {list(side)} leaves fewer than {cells} in data.patch_size {list(size)}; make it smaller"
        )
    return side
