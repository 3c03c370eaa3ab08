"""Clusters of training samples: k-means, PCA whitening, and the pseudo-labels they give (DeepCluster)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.finite import check_rows

_ROWS = 4096  # samples whose distances to all centroids are held at once
_SPLIT = 1 / 1024  # relative distance of the two halves of a cluster that is split
_RANK = 1e-10  # directions with less than this share of the largest variance are rounding errors


def nearest(x: Tensor, centroids: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Number of the centroid at the least Euclidean distance, the first of equals; empty clusters are left out.

    Args:
        x: (N, d).
        centroids: (K, d).
        sizes: (K,), samples of each cluster; None: none is empty.

    Returns:
        (N,) int64.
    """
    half = centroids.square().sum(1) / 2
    if sizes is not None:
        half = torch.where(sizes > 0, half, torch.inf)
    return torch.cat([(part @ centroids.T - half).argmax(1) for part in torch.split(x, _ROWS)])


def kmeans(
    x: Tensor, count: int, generator: torch.Generator, *, iterations: int, spherical: bool = False
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from `count` random samples; an empty cluster takes half of the largest one.

    The largest cluster's centroid c becomes c (1 + e s) and c (1 - e s), with signs s that alternate over dimensions and
    e = 1 / 1024. Sums are products of matrices, so that equal devices find equal clusters.

    Args:
        x: (N, d); unit rows when `spherical`.
        count: number of clusters, at most N.
        generator: on the CPU, the same in all processes.
        iterations: upper bound; it ends when no sample changes its cluster.
        spherical: centroids are L2-normalised, so that the nearest is the one of largest cosine.

    Returns:
        Centroids (count, d) and the cluster of each sample, (N,) int64.
    """
    centroids = x[torch.randperm(len(x), generator=generator)[:count].to(x.device)].clone()
    labels = nearest(x, centroids)
    for _ in range(iterations):
        sums, sizes = x.new_zeros(centroids.shape), x.new_zeros(count)
        for rows, chosen in zip(torch.split(x, _ROWS), torch.split(labels, _ROWS), strict=True):
            members = F.one_hot(chosen, count).to(x.dtype)
            sums += members.T @ rows
            sizes += members.sum(0)
        centroids = split_largest(sums / sizes.clamp_min(1)[:, None], sizes)
        if spherical:
            centroids = F.normalize(centroids, dim=1)
        before, labels = labels, nearest(x, centroids)
        if torch.equal(before, labels):
            break
    return centroids, labels


def split_largest(centroids: Tensor, sizes: Tensor) -> Tensor:
    """Centroids (K, d) of clusters with `sizes` (K,) samples -> the same with each empty one made half of the largest."""
    empty = (sizes == 0).nonzero().flatten().tolist()
    if not empty:
        return centroids
    centroids, sizes = centroids.clone(), sizes.clone()
    sign = 1 - 2 * (torch.arange(centroids.shape[1], device=centroids.device) % 2).to(centroids.dtype)
    for k in empty:
        largest = sizes.argmax()
        centroids[k] = centroids[largest] * (1 + _SPLIT * sign)
        centroids[largest] = centroids[largest] * (1 - _SPLIT * sign)
        sizes[k] = sizes[largest] / 2
        sizes[largest] = sizes[largest] / 2
    return centroids


class Whitening(nn.Module):
    """(x - mean) V / sqrt(variance) on the leading principal components, then L2-normalised (Caron et al. 2018).

    Components without variance are 0. A component's largest weight is positive, or its sign would depend on the machine.

    Args:
        width: length of x.
        components: number of components p, at most `width`.
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, width: int, components: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("projection", torch.eye(width, components))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Mean and components of x (N, width)."""
        check_rows((), x, "features to cluster")
        wide = x.double()
        centred = wide - wide.mean(0)
        variance, directions = torch.linalg.eigh(centred.T @ centred / len(x))
        count = self.projection.shape[1]
        variance, directions = variance.flip(0)[:count], directions.flip(1)[:, :count]
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        scale = torch.where(variance > _RANK * variance[0], variance.clamp_min(1e-300).rsqrt(), 0)
        self.mean.copy_(wide.mean(0))
        self.projection.copy_(directions * largest.sign() * scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, components) unit vectors."""
        return F.normalize((x - self.mean) @ self.projection, dim=1)


class Clusters(nn.Module):
    """H partitions of the training samples into K clusters each; all of it is state.

    centroids: (H, K, d). sizes: (H, K) samples that were clustered, 0 for an empty cluster. labels: (H, N), -1 for samples
    that were not there. rounds: how often partitions were made, a Python number.

    Args:
        partitions: H.
        count: K.
        dim: d.
        samples: N.
    """

    centroids: Tensor
    sizes: Tensor
    labels: Tensor

    def __init__(self, partitions: int, count: int, dim: int, samples: int) -> None:
        super().__init__()
        self.partitions, self.dim = partitions, dim
        self.resize(count, samples)

    def resize(self, count: int, samples: int) -> None:
        """Forgets everything and makes room for `count` clusters of `samples` samples."""
        h, device = self.partitions, self.centroids.device if "centroids" in self._buffers else None
        self.register_buffer("centroids", torch.zeros(h, count, self.dim, device=device))
        self.register_buffer("sizes", torch.zeros(h, count, dtype=torch.long, device=device))
        self.register_buffer("labels", torch.full((h, samples), -1, device=device))
        self.rounds = 0

    def get_extra_state(self) -> Tensor:
        """Rounds, as an int64 scalar."""
        return torch.tensor(self.rounds)

    def set_extra_state(self, state: Tensor) -> None:
        """Goes on from there."""
        self.rounds = int(state)

    @property
    def count(self) -> int:
        """K."""
        return self.centroids.shape[1]

    @torch.no_grad()
    def fit(
        self,
        partition: int,
        x: Tensor,
        index: Tensor,
        generator: torch.Generator,
        *,
        iterations: int,
        spherical: bool = False,
    ) -> None:
        """Makes a partition anew from x (n, d), samples `index` (n,); with n < K the last clusters are empty."""
        centroids, labels = kmeans(x, min(self.count, len(x)), generator, iterations=iterations, spherical=spherical)
        self.centroids[partition].zero_()[: len(centroids)] = centroids
        self.sizes[partition] = torch.bincount(labels, minlength=self.count)
        self.labels[partition].fill_(-1)[index] = labels

    def known(self, partition: int, index: Tensor) -> Tensor:
        """(B,) cluster of samples `index` (B,), -1 where they had no part."""
        return self.labels[partition, index.long()]

    @torch.no_grad()
    def nearest(self, partition: int, x: Tensor) -> Tensor:
        """(B, d) -> (B,) cluster of the nearest centroid."""
        return nearest(x, self.centroids[partition], self.sizes[partition])

    def used(self, partition: int) -> Tensor:
        """(), number of clusters that are not empty, at least 1."""
        return (self.sizes[partition] > 0).sum().clamp_min(1)

    def weights(self, partition: int, labels: Tensor) -> Tensor:
        """(B,) n / (K' n_k) of samples of clusters k: the weights of n samples that give the K' used clusters equal shares."""
        sizes = self.sizes[partition].to(self.centroids.dtype)
        return sizes.sum() / (self.used(partition) * sizes[labels].clamp_min(1))
