"""Features of each image as vectors, pooled or dense, for whoever wants these and nothing else: `ssl-med embed` writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ssl_med.evaluation.features import check_levels
from ssl_med.features.core.analysis import Analysis, Findings
from ssl_med.features.core.images import Images
from ssl_med.finite import check_rows
from ssl_med.ranges import Level
from ssl_med.spec import SslMedError


@dataclass
class VectorsConfig:
    """Which features."""

    levels: tuple[Level, ...] = (-1,)
    """levels of the encoder, 0: finest, -1: last; pooled ones are joined"""
    dense: bool = False
    """keep the positions: (N, C, *S) of one level in place of its averages (N, D)"""


class Vectors(Analysis):
    """Features of every image."""

    Config = VectorsConfig
    paper = "common practice"
    labels = "optional"

    def measure(self, images: Images) -> Findings:
        """Arrays `x` (N, D), or (N, C, *S) where dense, float32, and `label` where there are labels; a row for each image.

        Raises:
            SslMedError: a level that the encoder has not, or several dense ones.
        """
        levels = check_levels(images.backbone, self.config.levels)
        if self.config.dense and len(levels) > 1:
            raise SslMedError(f"features.dense=true keeps one level, features.levels names {len(levels)}")
        parts, labels, rows = [], [], []
        for batch in images.batches("features"):
            pyramid = images.encode(batch["image"])
            if self.config.dense:
                found = pyramid[levels[0]]
            else:
                found = torch.cat([images.backbone.pool(pyramid[: level + 1]) for level in levels], 1)
            check_rows(batch["id"], found.flatten(1), "features")
            parts.append(found.float().cpu().numpy())
            rows += [{"case": name} for name in batch["id"]]
            if "label" in batch:
                labels.append(batch["label"].cpu().numpy())
        x = np.concatenate(parts)
        numbers = {"images": float(len(x)), "numbers_of_each": float(x[0].size)}
        return Findings(
            numbers, "numbers_of_each", rows, {"x": x, **({"label": np.concatenate(labels)} if labels else {})}
        )
