"""Volume error: by how many millilitres a segmented region is too large or too small."""

from __future__ import annotations

import math
from typing import Any

from ssl_med.evaluation.metrics import MaskMetric, Metric


class VolumeErrorMl(MaskMetric):
    """Absolute difference of the volumes of prediction and truth."""

    metric = Metric(
        "volume_error_ml",
        "ml",
        False,
        "absolute difference of the volumes of prediction and truth, per case and region, in ml; both empty -> 0; not "
        "stated for images, and for data without a voxel size",
    )
    needs_spacing = True
    dims = (3,)

    def score(self, prediction: Any, truth: Any, spacing: tuple[float, ...] | None) -> list[float]:
        """(K, *S) bool arrays and the voxel size in mm -> K volumes in ml, all >= 0."""
        assert spacing is not None
        voxel = math.prod(spacing) / 1000  # mm^3 -> ml
        pairs = zip(prediction, truth, strict=True)
        return [abs(int(found.sum()) - int(inside.sum())) * voxel for found, inside in pairs]
