"""How well features repeat: small changes of an image against the differences between patients.

Each image is seen k times, each time moved by parts of a few voxels, turned by a few degrees and made a little noisy, as
positioning and scanner do it. With features x_ij of image i and repetition j, n images, per feature:

- intraclass correlation ICC(1,1) = (MSB - MSW) / (MSB + (k - 1) MSW), one-way random effects (Shrout and Fleiss,
  "Intraclass correlations: uses in assessing rater reliability", Psychological Bulletin 1979), where
  MSB = k sum_i (x_i. - x_..)^2 / (n - 1) and MSW = sum_ij (x_ij - x_i.)^2 / (n (k - 1)). 1: repetitions agree; 0: an image's
  repetitions differ as much as images do. Its mean over features is the headline; features that never change are left out;
- reliable: share of features of ICC >= 0.75, "good" after Koo and Li 2016;
- distance ratio: mean distance between repetitions of an image / mean distance between images of different patients;
- recognised: share of images whose second repetition is nearest to its own first one among those of all patients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.changes import CHANGES
from ssl_med.features.core.drawing import curves, panels
from ssl_med.features.core.images import Images
from ssl_med.finite import check_rows
from ssl_med.ranges import Degrees, NonNegative, Range, Share
from ssl_med.spec import SslMedError
from ssl_med.transforms import spatial

_RELIABLE = 0.75


@dataclass
class StabilityConfig:
    """How often an image is seen, and how much it changes; 0 leaves a change out."""

    repeats: Annotated[int, Range(2, 1024)] = 5
    """times that each image is seen"""
    shift: NonNegative = 2.0
    """largest shift along each axis, voxels"""
    rotation: Degrees = 3.0
    """largest rotation to either side, in the plane of the first two axes"""
    noise: Share = 0.02
    """standard deviation of the noise, share of the range of intensities"""


class Stability(Analysis):
    """Intraclass correlation of features over repetitions of an image."""

    Config = StabilityConfig
    paper = "Shrout and Fleiss 1979; Koo and Li 2016"

    def measure(self, images: Images) -> Findings:
        """Numbers `icc`, `reliable`, `distance_ratio`, `retest_distance`, `patient_distance`, `recognised`, `unchanging`."""
        subjects = torch.tensor(list(images.subjects))
        if len(set(images.subjects)) < 2:
            raise SslMedError("kind=stability compares with other patients, and there is one; raise images.cases")
        names: list[str] = []
        parts = []
        for batch in images.batches("images"):
            first = len(names)
            names += batch["id"]
            make = partial(self._repeated, images, batch["image"], range(first, len(names)))
            parts.append(torch.from_numpy(images.kept(f"stability-{first}-{len(names) - 1}", make)["features"]))
        x = torch.cat(parts).double()  # (N, k, d)
        check_rows(names, x, "features")
        each = icc(x)
        known = each[each.isfinite()]
        pairs = list(combinations(range(x.shape[1]), 2))
        retest = torch.stack([(x[:, a] - x[:, b]).norm(dim=1) for a, b in pairs], 1)  # (N, pairs)
        apart = torch.cdist(x[:, 0], x[:, 1])
        others = subjects[:, None] != subjects[None]
        own = apart.diagonal()
        nearest = apart.masked_fill(~others, math.inf).min(1).values
        within, between = float(retest.mean()), float(apart[others].mean())
        numbers = {
            "icc": float(known.mean()) if len(known) else math.nan,
            "reliable": float((known >= _RELIABLE).double().mean()) if len(known) else math.nan,
            "distance_ratio": within / between if between > 0 else math.nan,
            "retest_distance": within,
            "patient_distance": between,
            "recognised": float((own < nearest).double().mean()),
            "unchanging": float(len(each) - len(known)),
        }
        rows: list[dict[str, Any]] = [
            {"case": name, "retest_distance": float(a), "nearest_other_patient": float(b)}
            for name, a, b in zip(names, retest.mean(1), nearest, strict=True)
        ]
        scale = between if between > 0 else 1.0
        steps = torch.linspace(0, 1, 101, dtype=torch.float64)
        arrays = {
            "icc": known.sort(descending=True).values.numpy(),
            "same": np.quantile(retest.numpy(), steps.numpy()) / scale,
            "other": np.quantile(apart[others].numpy(), steps.numpy()) / scale,
        }
        return Findings(numbers, "icc", rows, arrays, self._notes())

    def passes(self, images: Images) -> int:
        """Each image as often as it is seen."""
        return images.count * int(self.config.repeats)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """The features in the order of their ICC, and the distances within and between patients."""
        lines = {name: (np.linspace(0, 1, len(one.arrays["icc"])), one.arrays["icc"]) for name, one in found.items()}
        drawings = []
        if all(len(up) for _, up in lines.values()):
            figure = curves(
                lines, title="Repeatability of features", x="share of the features, best first", y="ICC(1,1)"
            )
            caption = "1: repetitions of an image agree; 0: they differ as much as images do."
            drawings.append(Drawing("stability", "intraclass correlation of each feature", figure, caption))
        share = np.linspace(0, 1, 101)
        apart = {
            name: {"same image": (one.arrays["same"], share), "other patient": (one.arrays["other"], share)}
            for name, one in found.items()
        }
        across = dict.fromkeys(found, "distance, 1: mean of patients")
        figure = panels(apart, title="Distances of features", x=across, y="share of the pairs")
        caption = "The further apart the two lines are, the less a small change is mistaken for another patient."
        drawings.append(Drawing("stability_distances", "distances within and between patients", figure, caption))
        return drawings

    def _notes(self) -> list[str]:
        config = self.config
        changes = [
            f"moved by up to {config.shift:g} voxels" if config.shift else "",
            f"turned by up to {config.rotation:g} degrees" if config.rotation else "",
            f"with noise of {config.noise:g} of the range" if config.noise else "",
        ]
        return [f"each image was seen {config.repeats} times, {', '.join(filter(None, changes)) or 'unchanged'}"]

    def _repeated(self, images: Images, x: Tensor, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """(B, C, *S) -> features (B, k, d); `numbers`: of the images, by which their changes are drawn."""
        seen = []
        for repeat in range(self.config.repeats):
            generators = [np.random.default_rng([images.seed, number, repeat]) for number in numbers]
            seen.append(images.pooled(self._changed(x, generators)).cpu())
        return {"features": torch.stack(seen, 1).numpy()}

    def _changed(self, x: Tensor, generators: Sequence[np.random.Generator]) -> Tensor:
        """Each image changed by its own generator."""
        dims, config = x.ndim - 2, self.config
        drawn = torch.from_numpy(np.stack([one.uniform(-1, 1, dims + 1) for one in generators])).to(x)
        normal = np.stack([one.standard_normal(tuple(x.shape[1:]), dtype=np.float32) for one in generators])
        sides = torch.tensor(x.shape[2:]).to(x)
        y = spatial.apply_rotation(x, drawn[:, -1] * math.radians(config.rotation))
        if config.shift:
            y = spatial.apply_crop(
                y, spatial.Crop(drawn[:, :-1] * config.shift / sides, torch.ones_like(drawn[:, :-1]))
            )
        return CHANGES["noise"](y, (config.noise,), torch.from_numpy(normal).to(x))


def icc(x: Tensor) -> Tensor:
    """ICC(1,1) of each feature of x (images, repetitions, d), (d,) float64; nan where a feature never changes."""
    x = x.double()
    count, repeats = x.shape[:2]
    means = x.mean(1)
    between = repeats * (means - means.mean(0)).square().sum(0) / (count - 1)
    within = (x - means[:, None]).square().sum((0, 1)) / (count * (repeats - 1))
    constant = (x == x[0, 0]).all(0).all(0)
    found: Tensor = (between - within) / (between + (repeats - 1) * within)
    return torch.where(constant, math.nan, found)
