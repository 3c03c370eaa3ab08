"""Masks: regions that overlap or exclude each other, whole images by sliding windows, overlap and surface scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ssl_med.evaluation.components import drop_small_pieces
from ssl_med.evaluation.metrics import MaskMetric, added_metrics
from ssl_med.evaluation.scores import (
    dice_per_region,
    iou_per_region,
    surface_per_region,
)
from ssl_med.evaluation.task_kinds.core import Row, Task, TaskConfig, check_loss, mirrored_mean
from ssl_med.losses.segmentation import against_others, dice_bce, dice_ce, dice_loss, shrunk, supervision_weights
from ssl_med.networks.heads import SegmentationHead
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import Batch, DataSpec, SslMedError


class Segmentation(Task):
    """Region-based segmentation: one sigmoid per region, so regions may overlap (WT, TC, ET).

    With task.loss=dice_ce and regions that exclude each other, logits are those of a softmax against the background.
    """

    metric = "dice"
    needs_decoder = True

    def __init__(self, config: TaskConfig, spec: DataSpec, backbone: Backbone, decoder: Decoder | None) -> None:
        super().__init__(config, spec)
        assert decoder is not None
        check_loss(config, ("auto", "dice", "dice_bce", "dice_ce"), "masks")
        for key in ("label_smoothing", "mixup", "class_weights"):
            if getattr(config, key) not in (0, "none"):
                raise SslMedError(f"task.{key} is for classes and findings, and {spec.name} has masks; leave it out")
        self.largest: tuple[bool, ...] = ()  # regions of which small pieces are left out, once validation has decided
        regions = len(spec.class_names)
        self.head = SegmentationHead(decoder.out_channels, regions, spec.spatial_dims)
        self.softmax = config.loss == "dice_ce" and spec.exclusive
        levels = len(decoder.channels)
        if config.deep_supervision and levels < 3:
            raise SslMedError(
                f"task.deep_supervision: a decoder of {levels} level{'s' if levels > 1 else ''} has none between the finest "
                "and the coarsest, which counts 0; leave it out or take a deeper backbone"
            )
        weights = supervision_weights(levels) if config.deep_supervision else [1.0]
        self.weights = [weight for weight in weights if weight]  # of the scales, finest first
        widths = decoder.channels[::-1][1 : len(self.weights)]
        self.deep = nn.ModuleList(SegmentationHead(width, regions, spec.spatial_dims) for width in widths)

    @classmethod
    def test_metrics(cls, class_names: Sequence[str]) -> list[str]:
        """Names of all that a test may give, the headline first; distances need a voxel size."""
        names = [cls.metric, "iou", "iou_50_95", "hd95_mm", "surface_dice", *_mask_metrics()]
        return [*names, *(f"{name}/{region}" for name in names for region in class_names)]

    def logits(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:  # noqa: D102
        assert decoder is not None
        logits: Tensor = self.head(decoder(backbone(image)))
        return logits

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:  # noqa: D102
        logits, mask, over_batch = logits.float(), batch["mask"], self.config.batch_dice and self.training
        if self.config.loss == "dice_ce":
            return dice_ce(logits, mask, exclusive=self.softmax, over_batch=over_batch)
        # Dice alone hardly sees false positives in crops without foreground: its gradient there falls with their square
        return (dice_loss if self.config.loss == "dice" else dice_bce)(logits, mask, over_batch=over_batch)

    def training_loss(self, batch: Batch, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """With task.deep_supervision the weighted sum over the decoder's levels."""
        if not self.deep:
            return super().training_loss(batch, backbone, decoder)
        assert decoder is not None
        levels = [*decoder.scales(backbone(batch["image"]))][::-1]
        losses = []
        for weight, head, x in zip(self.weights, [self.head, *self.deep], levels, strict=False):
            mask = batch["mask"] if x is levels[0] else shrunk(batch["mask"], x.shape[2:])
            losses.append(weight * self.loss(head(x), {**batch, "mask": mask}))
        return torch.stack(losses).sum()

    def predict(self, image: Tensor, backbone: Backbone, decoder: Decoder | None) -> Tensor:
        """Gaussian-weighted sliding window over the whole image, each window mirrored where task.mirrored_test says so."""
        from monai.inferers import sliding_window_inference

        logits = sliding_window_inference(
            image,
            roi_size=self.spec.patch_size,
            sw_batch_size=self.config.window_batch,
            predictor=lambda patch: mirrored_mean(
                lambda x: self.logits(x, backbone, decoder).float(), patch, self.mirrored
            ),
            overlap=self.config.overlap,
            mode="gaussian",
        )
        assert isinstance(logits, Tensor)
        return logits

    def answers(self, logits: Tensor) -> Tensor:
        """Logits (B, K, *S) -> what is positive where a region is the answer: log odds.

        Where small pieces are left out, logits of overlapping regions are changed themselves: whole scans fill the memory.
        """
        answers = against_others(logits) if self.softmax else logits
        return drop_small_pieces(answers, self.largest) if any(self.largest) else answers

    def rows(self, logits: Tensor, batch: Batch) -> list[Row]:  # noqa: D102
        return self._overlaps(self.answers(logits), batch)

    def _overlaps(self, answers: Tensor, batch: Batch) -> list[Row]:
        rows = []
        for case, prediction, truth in zip(batch["id"], answers > 0, _inside(batch["mask"]), strict=True):
            values = dice_per_region(prediction, truth).tolist()
            regions = {f"dice/{name}": value for name, value in zip(self.spec.class_names, values, strict=True)}
            rows.append({"case": case, "dice": float(np.mean(values)), **regions})
        return rows

    def test_rows(self, logits: Tensor, batch: Batch) -> list[Row]:
        """Overlap and, where the voxel size is known, distances of surfaces; several regions also one by one."""
        answers = self.answers(logits)
        rows = self._overlaps(answers, batch)
        for k, row in enumerate(rows):
            truth = _inside(batch["mask"][k])
            found = dict(zip(("iou", "iou_50_95"), iou_per_region(answers[k], truth), strict=True))
            if "spacing" in batch:
                spacing, tolerance = batch["spacing"][k].tolist(), self.config.tolerance_mm
                distances = surface_per_region(answers[k] > 0, truth, spacing=spacing, tolerance=tolerance)
                found |= dict(zip(("hd95_mm", "surface_dice"), distances, strict=True))
            found |= self._added(answers[k] > 0, truth, batch["spacing"][k].tolist() if "spacing" in batch else None)
            for key, values in found.items():
                row[key] = float(values.mean())
                if len(values) > 1:
                    names = self.spec.class_names
                    row |= {f"{key}/{name}": x for name, x in zip(names, values.tolist(), strict=True)}
        return rows

    @staticmethod
    def _added(prediction: Tensor, truth: Tensor, spacing: Sequence[float] | None) -> dict[str, Tensor]:
        masks, size = (prediction.cpu().numpy(), truth.cpu().numpy()), None if spacing is None else tuple(spacing)
        return {
            name: torch.tensor(one.score(*masks, size), dtype=torch.float64)
            for name, one in _mask_metrics().items()
            if truth.ndim - 1 in one.dims and (size is not None or not one.needs_spacing)
        }

    def goodness(self, row: Row) -> float:  # noqa: D102
        return float(row["dice"])

    @torch.no_grad()
    def picture(self, logits: Tensor, batch: Batch) -> dict[str, np.ndarray]:  # noqa: D102
        masks = {
            "truth": _inside(batch["mask"][0]).cpu().numpy(),
            "prediction": (self.answers(logits)[0] > 0).cpu().numpy(),
        }
        return super().picture(logits, batch) | masks

    def summarize(self, rows: list[Row]) -> dict[str, float]:
        """Mean over cases, in all and by region."""
        keys = [key for key in rows[0] if key not in ("case", "subject")]
        return {key: float(np.mean([row[key] for row in rows])) for key in keys}


def _mask_metrics() -> dict[str, MaskMetric]:
    return {name: one for name, one in added_metrics().items() if isinstance(one, MaskMetric)}


def _inside(mask: Tensor) -> Tensor:
    """Truth values; a comparison would make a float32 copy of those of a whole scan."""
    return mask if mask.dtype == torch.bool else mask > 0.5
