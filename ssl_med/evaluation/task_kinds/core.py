"""What every task shares: its settings, its interface, and the axes it may mirror."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.ranges import BelowOne, Degrees, Natural, NonNegative, PositiveShare, Range
from ssl_med.setting import setting
from ssl_med.spec import Batch, DataSpec, SslMedError

Row = dict[str, Any]
_TRAINED = {"run": ("finetune",)}
_MASKS = {"labels": ("masks",)}
_CLASSIFIED = {**_TRAINED, "labels": ("classes", "findings")}
_DICE = {**_TRAINED, **_MASKS, "loss": ("auto", "dice", "dice_bce", "dice_ce")}
_FLIPPED = {**_TRAINED, "flips": (True,)}
_CUT = {**_TRAINED, "dims": ("2D",), "augment": ((),)}


@dataclass
class TaskConfig:
    """How a task is learned and scored."""

    name: str = ""
    """file name in conf/task"""
    loss: Literal["dice", "dice_bce", "dice_ce", "ce", "bce", "auto"] = setting(default="auto", needs=_TRAINED)
    """auto: Dice and cross-entropy for masks, cross-entropy for classes, binary cross-entropy per finding for multilabel.
    dice_ce: nnU-Net's sum of both, with a softmax where the data's regions exclude each other, else a sigmoid per region"""
    batch_dice: bool = setting(default=False, before=False, needs=_DICE)
    """masks: Dice losses sum over the voxels of a whole batch, not of each sample"""
    deep_supervision: bool = setting(default=False, before=False, needs={**_TRAINED, **_MASKS})
    """masks: the coarser levels of the decoder have losses too, of weights 1, 1/2, 1/4 ... and 0 for the coarsest, of sum 1"""
    hidden: Annotated[int, Range(0, 2**20)] = setting(default=0, needs=_CLASSIFIED)
    """width of a hidden layer in the classification head; 0: linear on pooled features"""
    dropout: BelowOne = setting(default=0.0, needs=_CLASSIFIED)
    """before the last linear layer of the classification head"""
    label_smoothing: BelowOne = setting(default=0.0, before=0.0, needs={**_TRAINED, "labels": ("classes",)})
    """classes: share of the target's probability that is spread evenly over all classes in training"""
    mixup: Annotated[float, Range(0, 100)] = setting(default=0.0, before=0.0, needs=_CLASSIFIED)
    """classes and findings: training images and labels are mixed in pairs by shares of Beta(mixup, mixup); 0: not"""
    class_weights: Literal["none", "balanced"] = setting(default="none", before="none", needs=_CLASSIFIED)
    """balanced: classes have the same weight in the training loss however often they occur; of findings, present and absent"""
    ordered: bool = setting(default=False, needs={"labels": ("classes",)})
    """classes are grades: kappa with quadratic weights is reported too"""
    overlap: BelowOne = setting(default=0.5, needs=_MASKS)
    """overlap of neighbouring windows in sliding-window prediction, as a share of the patch"""
    window_batch: Annotated[int, Range(1, 4096)] = setting(default=4, needs=_MASKS)
    """windows predicted at once"""
    largest_component: bool = setting(default=False, before=False, needs={**_TRAINED, **_MASKS})
    """masks: of a region only the largest connected piece is kept, where that raised its mean Dice on validation"""
    mirrored_test: bool = setting(default=False, before=False, needs=(_MASKS, _CLASSIFIED))
    """answers (logits), of the validation too, are means over the image mirrored along all axes that training mirrors: 2 to 8
    times the work"""
    flips: bool = setting(default=True, needs=_TRAINED)
    """training augmentation: random flips (images: left-right only)"""
    crop_scale: PositiveShare = setting(default=0.7, needs=_CUT)
    """2D training augmentation: smallest area share of the random resized crop; 1 switches it off"""
    rotation_deg: Degrees = setting(default=10.0, needs=_CUT)
    """2D training augmentation: largest in-plane rotation"""
    flip_axes: tuple[Literal["x", "y", "z", "row", "column"], ...] = setting(default=(), before=[], needs=_FLIPPED)
    """axes that flips mirror, those whose sides may be exchanged; empty: all in 3D, left and right (column) in 2D"""
    augment: tuple[Any, ...] | str = setting(default=(), before=[], needs=_TRAINED)
    """fine-tuning: MONAI transforms of training samples, [{_target_: NAME, keys: [image, mask], ...}, ...], or the name of a
    list (ssl-med list augment), or a file NAME.yaml; in place of crop_scale and rotation_deg, and of flips and flip_axes
    unless the list says ${mirror_axes}"""
    tolerance_mm: NonNegative = setting(default=1.0, needs=_MASKS)
    """surface Dice: distance up to which a piece of surface counts as found"""
    pictures: tuple[Natural, Natural, Natural, Natural] = (2, 4, 1, 1)
    """pictures of test cases: the first ones, which are the same in all runs; the worst; middle ones; the best"""


class Task(nn.Module, ABC):
    """Head and loss on a pyramid of features, and what its test metrics are."""

    metric: str
    needs_decoder: bool

    def __init__(self, config: TaskConfig, spec: DataSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.mirrored = mirror_axes(config, spec) if config.mirrored_test else ()
        if config.mirrored_test and not self.mirrored:
            raise SslMedError(
                "task.mirrored_test mirrors as training does, and task.flips=false; leave one of them out"
            )

    @abstractmethod
    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """(B, C, *S) -> logits of the patch."""

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar training loss."""

    def training_loss(self, batch: Batch, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Scalar loss of a training batch."""
        return self.loss(self.logits(batch["image"], backbone, decoder), batch)

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Logits for an evaluation image, which may be larger than a patch."""
        return self.logits(image, backbone, decoder)

    def answers(self, logits: Tensor) -> Tensor:
        """Logits as they are read class by class, by another task too."""
        return logits

    @abstractmethod
    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """One row per sample: its "case" and what the summary needs."""

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """`rows` with what is too costly, or of no use, for validation."""
        return self.rows(logits, batch)

    @abstractmethod
    def goodness(self, row: Row) -> float:
        """How right a case is, in [0, 1]: the order in which cases are looked at."""

    @torch.no_grad()
    def picture(self, logits: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """First sample of a batch as arrays: image (C, *S), and with masks truth and prediction (K, *S) bool."""
        return {"image": batch["image"][0].float().cpu().numpy()}

    @abstractmethod
    def summarize(self, rows: list[Row]) -> dict[str, float]:
        """Metrics over all rows; the headline metric is the entry `self.metric`."""


def mirror_axes(config: TaskConfig, spec: DataSpec) -> tuple[int, ...]:
    """Spatial axes that a task may mirror, 0 the first after the channels: what flips and flip_axes say.

    Raises:
        SslMedError: flip_axes names an axis that the data do not have, or flips is off.
    """
    if config.flip_axes and not config.flips:
        raise SslMedError("task.flip_axes has no effect with task.flips=false; leave it out")
    for axis in config.flip_axes:
        if axis not in spec.axis_order:
            raise SslMedError(
                f"task.flip_axes: '{axis}' is no axis of '{spec.name}', which has {', '.join(spec.axis_order)}"
            )
    if not config.flips:
        return ()
    if config.flip_axes:
        return tuple(sorted({spec.axis_order.index(axis) for axis in config.flip_axes}))
    return (1,) if spec.spatial_dims == 2 else (0, 1, 2)


def mirrored_mean(
    network: Callable[[Tensor], Tensor], image: Tensor, axes: Sequence[int], *, spatial: bool = True
) -> Tensor:
    """Mean of a network's answers to an image (B, C, *S) mirrored along every subset of `axes`.

    Args:
        network: images -> answers (B, K, *S), or (B, K) without `spatial`.
        image: the image.
        axes: spatial axes, 0 the first after the channels.
        spatial: answers lie on the grid of the image, and are mirrored back.
    """
    total = network(image)
    subsets = [subset for size in range(1, len(axes) + 1) for subset in combinations(axes, size)]
    for subset in subsets:
        dims = [axis + 2 for axis in subset]
        answer = network(image.flip(dims))
        total = total + (answer.flip(dims) if spatial else answer)
    return total / (1 + len(subsets)) if subsets else total


def check_loss(config: TaskConfig, allowed: tuple[str, ...], kind: str) -> None:
    """Refuses a task.loss that is not among the `allowed` ones of what is learned."""
    if config.loss not in allowed:
        raise SslMedError(
            f"task.loss is '{config.loss}', which does not fit {kind}; choose one of {', '.join(allowed)}"
        )
