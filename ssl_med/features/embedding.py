"""Maps of the images in the plane by their pooled features: PCA, t-SNE and UMAP, coloured by label or by a column of yours.

Papers: van der Maaten and Hinton, "Visualizing data using t-SNE", JMLR 9, 2008; McInnes et al., "UMAP", JOSS 3, 2018;
Rousseeuw, "Silhouettes", J. Comput. Appl. Math. 20, 1987.

For an image of group A, a is the mean distance of its features to the others of A and b the smallest mean distance to another
group; its silhouette is (b - a) / max(a, b), 0 where it is alone in its group. The mean over images is near 1 for groups that
lie apart, 0 for mixed ones, negative where images lie nearer to another group. It is that of the features, not of a map, whose
distances between distant points mean nothing with t-SNE and UMAP.

Where we deviate: t-SNE and UMAP start from at most 50 principal components, as van der Maaten and Hinton do for t-SNE.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ssl_med.features.core.analysis import Analysis, Drawing, Findings
from ssl_med.features.core.drawing import scatter
from ssl_med.features.core.groups import Groups, groups_by_label, groups_by_table, read_groups
from ssl_med.features.core.images import Images
from ssl_med.features.core.tables import content_name
from ssl_med.ranges import LARGEST, Level, Positive, Range
from ssl_med.setting import setting
from ssl_med.spec import SslMedError

_COMPONENTS = 50
_MOST = 11  # groups with a colour of their own
_ROWS = 1024  # images whose distances to all others are held at once
_REST = ("others", "not known")
_TITLES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


@dataclass
class EmbeddingConfig:
    """Which maps are made, and by what they are coloured."""

    methods: tuple[Literal["pca", "tsne", "umap"], ...] = ("pca", "tsne")
    """maps: principal components; t-SNE and UMAP come with the extra `features`"""
    level: Level = -1
    """level of the pyramid, 0 the finest, -1 the last"""
    perplexity: Positive = 30.0
    """t-SNE: about how many neighbours an image has; a third of the images at most"""
    neighbours: Annotated[int, Range(2, LARGEST)] = 15
    """UMAP: how many neighbours an image has; all others at most"""
    finding: str = setting(default="", needs={"labels": ("findings",)})
    """finding by which images are coloured; empty: the one that is nearest to half of the images"""
    color_by: str = setting(default="", named=content_name, path=True)
    """CSV table with the columns case (as in features.csv) and group (site, scanner), which colours in place of labels"""
    min_images: Annotated[int, Range(4, LARGEST)] = 8
    """fewest images"""

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise SslMedError("features.methods needs different maps, such as features.methods=[pca,tsne]")
        if self.finding and self.color_by:
            raise SslMedError(
                "features.finding and features.color_by both say what colours images; leave one of them out"
            )


class Embedding(Analysis):
    """The plane by PCA, t-SNE and UMAP, and the silhouette of groups."""

    Config = EmbeddingConfig
    config: EmbeddingConfig
    paper = "van der Maaten and Hinton 2008; McInnes et al. 2018; Rousseeuw 1987"
    labels = "optional"

    def measure(self, images: Images) -> Findings:
        """Numbers `pca/explained` (share of the variance in the plane) and, with groups, `silhouette`; a row for each image."""
        config, count = self.config, images.count
        if count < config.min_images:
            raise SslMedError(
                f"kind=embedding needs {config.min_images} images or more, there are {count}; raise images.cases"
            )
        needed = {name: _library(name) for name in config.methods if name != "pca"}  # a missing one ends it at once
        table = read_groups(config.color_by) if config.color_by else {}
        found = images.all_features((config.level,))
        groups = None
        if config.color_by:
            groups = groups_by_table(table, found.ids)
        elif images.spec.target != "none":
            groups = groups_by_label(images.spec, found.label, config.finding)
        components, shares = principal(found.x)
        maps = {"pca": plane(components)}
        for name, library in needed.items():
            maps[name] = self._neighbourhood(name, library, components, images.seed)
        numbers: dict[str, float] = {"images": float(count), "pca/explained": float(shares[:2].sum())}
        headline, notes = "pca/explained", []
        if groups is not None:
            headline = "silhouette"
            numbers[headline], told = silhouette(found.x, groups.number), np.unique(groups.number, return_counts=True)
            present = {groups.names[k]: int(n) for k, n in zip(*told, strict=True) if k >= 0}
            notes.append("groups: " + ", ".join(f"{name} {n}" for name, n in present.items()))
            if (groups.number < 0).any():
                notes.append(
                    f"{int((groups.number < 0).sum())} images have no known group and no part in the silhouette"
                )
        arrays: dict[str, np.ndarray] = {name: maps[name] for name in config.methods}
        if groups is not None:
            arrays["group"] = groups.number
            arrays["names"] = np.frombuffer("\n".join(groups.names).encode(), np.uint8)
        rows: list[dict[str, Any]] = []
        for k, case in enumerate(found.ids):
            group = {} if groups is None else {"group": groups.names[groups.number[k]] if groups.number[k] >= 0 else ""}
            places = {f"{m}/{axis}": float(arrays[m][k, i]) for m in config.methods for i, axis in enumerate("xy")}
            rows.append({"case": case, **group, **places})
        return Findings(numbers, headline, rows, arrays, notes)

    def _neighbourhood(self, name: str, library: Any, components: Tensor, seed: int) -> np.ndarray:
        x = components[:, :_COMPONENTS].float().numpy()
        if name == "tsne":
            perplexity = min(self.config.perplexity, (len(x) - 1) / 3)
            maker = library.TSNE(init="pca", learning_rate="auto", perplexity=perplexity, random_state=seed)
        else:
            neighbours = min(self.config.neighbours, len(x) - 1)
            maker = library.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
        return np.asarray(maker.fit_transform(x), np.float32)

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """One figure for each map, the networks side by side."""
        drawings = []
        for name in self.config.methods:
            panels = {network: _points(findings, name) for network, findings in found.items()}
            title = f"{_TITLES[name]} of pooled features"
            caption = "Images that a network takes for alike lie near each other."
            if name != "pca":
                caption += " Distances between distant points mean nothing."
            drawings.append(
                Drawing(
                    f"embedding_{name}",
                    f"images by {_TITLES[name]}",
                    scatter(panels, title=title, faint=_REST),
                    caption,
                )
            )
        return drawings


def _points(findings: Findings, name: str) -> dict[str, np.ndarray]:
    """The points of a map by group; the smallest groups, for which there is no colour, are one."""
    points = findings.arrays[name]
    if "group" not in findings.arrays:
        return {"images": points}
    names = findings.arrays["names"].tobytes().decode().split("\n")
    groups = Groups(tuple(names), findings.arrays["group"])
    sizes = np.bincount(groups.number[groups.number >= 0], minlength=len(names))
    order = np.argsort(-sizes, kind="stable")
    own = order[: _MOST if len(names) <= _MOST else _MOST - 1]
    found = {names[k]: points[groups.number == k] for k in sorted(own)}
    rest = ~np.isin(groups.number, own) & (groups.number >= 0)
    found |= dict(zip(_REST, (points[rest], points[groups.number < 0]), strict=True))
    return {key: where for key, where in found.items() if len(where)}


def _library(name: str) -> Any:
    """The module that makes a map.

    Raises:
        SslMedError: it is not installed.
    """
    module = {"tsne": "sklearn.manifold", "umap": "umap"}[name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SslMedError(
            f"features.methods: {name} comes with the extra: pip install 'ssl-med[features]' (or features.methods=[pca])"
        ) from None


def principal(features: Tensor) -> tuple[Tensor, Tensor]:
    """Principal components of features (N, D), largest first, (N, min(N, D)) float64, and their shares of the variance.

    The sign of each is such that its largest entry is positive, so that maps do not turn between machines.
    """
    x: Any = features.double()
    u, s, _ = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()
    squares = s.square()
    return u * signs * s, squares / squares.sum().clamp(min=torch.finfo(torch.float64).tiny)


def plane(components: Tensor) -> np.ndarray:
    """The first two of principal components (N, R) as (N, 2) float32; the second is 0 where there is one."""
    first = components[:, :2].float()
    return torch.nn.functional.pad(first, (0, 2 - first.shape[1])).numpy()


def silhouette(features: Tensor, group: np.ndarray) -> float:
    """Mean silhouette of features (N, D) whose groups are known (>= 0); nan with fewer than two groups."""
    known = np.flatnonzero(group >= 0)
    names, number = np.unique(group[known], return_inverse=True)
    if len(names) < 2:
        return float("nan")
    x = features[torch.from_numpy(known)].double()
    member = torch.nn.functional.one_hot(torch.from_numpy(number)).double()  # (N, G)
    sizes = member.sum(0)
    values = []
    for start in range(0, len(x), _ROWS):
        own = member[start : start + _ROWS]
        sums = torch.cdist(x[start : start + _ROWS], x) @ member
        size = own @ sizes
        inside = (sums * own).sum(1) / (size - 1).clamp(min=1)
        outside = torch.where(own > 0, torch.inf, sums / sizes).amin(1)
        value = (outside - inside) / torch.maximum(inside, outside).clamp(min=torch.finfo(torch.float64).tiny)
        values.append(torch.where(size > 1, value, 0.0))
    return float(torch.cat(values).mean())
