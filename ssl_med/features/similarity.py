"""How alike levels are, of one network and of several: linear CKA and the mean canonical correlation of pooled features.

Papers: Kornblith et al., "Similarity of neural network representations revisited", ICML 2019 (CKA); Nguyen, Raghu and
Kornblith, "Do wide and deep networks learn the same things?", ICLR 2021 (minibatch estimator); Song et al., "Feature selection
via dependence maximization", JMLR 13, 2012 (unbiased HSIC); Raghu et al., "SVCCA", NeurIPS 2017.

For features X (n, p) and Y (n, q) of the same n images, K = X X' and L = Y Y' with their diagonals set to 0,

    HSIC(K, L) = (tr(K L) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(K L) / (n - 2)) / (n (n - 3)),
    CKA = mean HSIC(K, L) / sqrt(mean HSIC(K, K) mean HSIC(L, L)), means over minibatches.

It is 1 where Y is X turned, shifted or scaled, 0 on average where both know nothing of each other, and may fall below 0.

The canonical correlations are the singular values of Qx' Qy, where Qx holds the directions of centred X that carry `variance`
of it. Among n images, directions of X and Y that are n or more together correlate whatever they hold: there the mean is nan.

Where we deviate: features are averaged over the image before, so that all levels and images of any size compare.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import heat_maps
from ssl_med.features.core.images import Images
from ssl_med.ranges import LARGEST, Range
from ssl_med.spec import SslMedError


@dataclass
class SimilarityConfig:
    """How the estimates are made."""

    batch: Annotated[int, Range(4, 2**16)] = 256
    """fewest images of a minibatch of the estimate, which the seed draws; all when there are fewer"""
    variance: Annotated[float, Range(above=0, high=1)] = 0.99
    """share of the variance of a level whose directions take part in the canonical correlations"""
    min_images: Annotated[int, Range(4, LARGEST)] = 16
    """fewest images"""


class Similarity(Analysis):
    """Linear CKA and mean CCA between levels of a network, and between networks."""

    Config = SimilarityConfig
    config: SimilarityConfig
    paper = "Kornblith et al. 2019; Nguyen et al. 2021; Raghu et al. 2017"

    def measure(self, images: Images) -> Findings:
        """Numbers `levelI-levelJ/cka` and `levelI-levelJ/cca` of each pair, level 0 the finest."""
        if images.count < self.config.min_images:
            raise SslMedError(
                f"kind=similarity needs {self.config.min_images} images or more, there are {images.count}; raise images.cases"
            )
        found = images.all_features(range(len(images.backbone.channels)))
        arrays = {f"level{k}": x.numpy() for k, x in enumerate(images.by_level(found.x))}
        order = np.random.default_rng([images.seed, 0x51A1]).permutation(images.count)
        arrays |= {"order": order, "names": np.array([zlib.crc32(name.encode()) for name in found.ids], np.int64)}
        cka, cca = self._pairs(arrays, arrays)
        last = len(cka) - 1
        numbers = {"images": float(images.count)}
        for one, other in combinations(range(len(cka)), 2):
            numbers[f"level{one}-level{other}/cka"] = float(cka[one, other])
            numbers[f"level{one}-level{other}/cca"] = float(cca[one, other])
        arrays |= {"cka": cka, "cca": cca}
        notes = []
        if np.isnan(cca).any():
            notes.append(
                f"mean CCA is undefined (nan) where two levels have {images.count} directions or more together, as many as "
                "there are images; raise images.cases or lower features.variance"
            )
        if np.isnan(cka).any():
            notes.append("CKA is undefined (nan) for a level whose features are the same for all images")
        return Findings(numbers, f"level0-level{last}/cka" if last else "images", arrays=arrays, notes=notes)

    def between(self, found: Mapping[str, Findings]) -> dict[str, float]:
        """`A | B/levelK/cka` and `/cca`, level by level, or of the last levels where the networks have other numbers of them.

        Raises:
            SslMedError: two networks looked at other images.
        """
        numbers: dict[str, float] = {}
        for (one, a), (other, b) in combinations(found.items(), 2):
            if not np.array_equal(a.arrays["names"], b.arrays["names"]):
                raise SslMedError(
                    f"kind=similarity: {one} and {other} looked at other images; remove their folders, and the same command "
                    "looks at the same ones"
                )
            tables = self._pairs(a.arrays, b.arrays)
            for name, table in zip(("cka", "cca"), tables, strict=True):
                if table.shape[0] == table.shape[1]:
                    numbers |= {f"{one} | {other}/level{k}/{name}": float(v) for k, v in enumerate(np.diag(table))}
                else:
                    numbers[f"{one} | {other}/last/{name}"] = float(table[-1, -1])
        return numbers

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """CKA of the levels of each network, and of those of each pair of networks."""
        own = {name: (findings.arrays["cka"], "level", "level") for name, findings in found.items()}
        drawings = [
            Drawing(
                "similarity",
                "CKA between levels",
                heat_maps(own, title="CKA between levels of a network", low=0, high=1),
                "1: two levels see the same differences between images; blocks are levels that add little.",
            )
        ]
        pairs = {
            f"{one} | {other}": (self._pairs(a.arrays, b.arrays)[0], f"level of {one}", f"level of {other}")
            for (one, a), (other, b) in combinations(found.items(), 2)
        }
        if pairs:
            figure = heat_maps(pairs, title="CKA between networks", low=0, high=1)
            caption = "1: a level of one network and one of the other see the same differences between images."
            drawings.append(Drawing("similarity_between", "CKA between networks", figure, caption))
        return drawings

    def _pairs(self, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """CKA and mean CCA of each level of one network (rows) and of another (columns)."""
        parts = np.array_split(one["order"], max(1, len(one["order"]) // self.config.batch))  # none is smaller
        xs, ys = levels_of(one), levels_of(other)
        cka = [[linear_cka(x, y, parts) for y in ys] for x in xs]
        first, second = ([directions(x, self.config.variance) for x in side] for side in (xs, ys))
        cca = [[mean_cca(x, y) for y in second] for x in first]
        return np.array(cka), np.array(cca)


def levels_of(arrays: Mapping[str, np.ndarray]) -> list[Tensor]:
    """The features of the levels among the arrays of findings, finest first: (N, channels[i]) float64."""
    count = sum(key.startswith("level") for key in arrays)
    return [torch.from_numpy(arrays[f"level{k}"]).double() for k in range(count)]


def linear_cka(x: Tensor, y: Tensor, parts: Sequence[np.ndarray]) -> float:
    """CKA of features (N, p) and (N, q), nan where one is constant; `parts`: the 4 or more images of each minibatch."""
    sums = torch.zeros(3, dtype=torch.float64)
    for part in parts:
        one, other = (_gram(features[torch.from_numpy(part)].double()) for features in (x, y))
        sums += torch.stack([hsic(one, other), hsic(one, one), hsic(other, other)])
    both, first, second = sums.tolist()
    return float(both / (first * second) ** 0.5) if first > 0 and second > 0 else float("nan")


def hsic(one: Tensor, other: Tensor) -> Tensor:
    """Unbiased HSIC of two Gram matrices (n, n), n >= 4, whose diagonals are not looked at."""
    n = len(one)
    k, j = (gram - torch.diag(gram.diagonal()) for gram in (one, other))
    whole = k.sum() * j.sum() / ((n - 1) * (n - 2))
    found: Tensor = ((k * j).sum() + whole - 2 * (k.sum(0) * j.sum(0)).sum() / (n - 2)) / (n * (n - 3))
    return found


def _gram(x: Tensor) -> Tensor:
    # HSIC does not change when x is shifted; centred, nothing cancels
    centred = x - x.mean(0)
    found: Tensor = centred @ centred.T
    return found


def directions(x: Tensor, variance: float) -> Tensor:
    """Orthonormal (N, r): the fewest directions of centred features (N, p) that carry a share of their variance."""
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    squares = s.square()
    held = squares.cumsum(0) / squares.sum()
    # rounding may keep the last sum below 1, and what it leaves are directions of no size
    kept = min(int((held < variance).sum()) + 1, int((squares > 1e-12 * squares[0]).sum()))
    found: Tensor = u[:, :kept]
    return found


def mean_cca(x: Tensor, y: Tensor) -> float:
    """Mean canonical correlation of two sets of `directions`; nan without any, or where they are as many as the images."""
    if min(x.shape[1], y.shape[1]) < 1 or x.shape[1] + y.shape[1] >= len(x):
        return float("nan")
    return float(torch.linalg.svdvals(x.T @ y).clamp(max=1).mean())
