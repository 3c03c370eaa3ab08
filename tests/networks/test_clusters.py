"""k-means, whitening and pseudo-labels against their definitions."""

import math

import pytest
import torch

from ssl_med.networks import clusters
from ssl_med.networks.clusters import Clusters, Whitening, kmeans, nearest, split_largest


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, d, seed=0):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.float64)


def slow_nearest(x, centroids):
    """The first centroid at the least distance, sample by sample."""
    distances = [[sum((a - b) ** 2 for a, b in zip(p, c, strict=True)) for c in centroids.tolist()] for p in x.tolist()]
    return [row.index(min(row)) for row in distances]


def slow_kmeans(x, centroids, iterations, spherical):
    """Lloyd's algorithm without empty clusters, in loops."""
    centroids = centroids.clone()
    for _ in range(iterations):
        labels = slow_nearest(x, centroids)
        for k in range(len(centroids)):
            members = [row for row, label in zip(x, labels, strict=True) if label == k]
            assert members, "this reference has no rule for an empty cluster"
            mean = sum(members) / len(members)
            centroids[k] = mean / mean.norm() if spherical else mean
    return centroids, slow_nearest(x, centroids)


@pytest.mark.parametrize("spherical", [False, True])
def test_kmeans_is_lloyds_algorithm(spherical, monkeypatch):
    monkeypatch.setattr(clusters, "_ROWS", 7)  # pieces that do not divide the samples
    x = points(60, 5)
    x = x / x.norm(dim=1, keepdim=True) if spherical else x
    start = x[torch.randperm(60, generator=generator(3))[:4]]
    expected, labels = slow_kmeans(x, start, 6, spherical)
    found, told = kmeans(x, 4, generator(3), iterations=6, spherical=spherical)
    assert torch.allclose(found, expected, atol=1e-12)
    assert told.tolist() == labels
    if spherical:
        assert told.tolist() == (x @ found.T).argmax(1).tolist()


def test_kmeans_finds_clusters_that_are_there_and_stops():
    centres = 20 * points(6, 3, seed=1)
    truth = torch.arange(120) % 6
    x = centres[truth] + 0.1 * points(120, 3, seed=2)
    best = min(
        float((x - c[labels]).square().sum())
        for c, labels in (kmeans(x, 6, generator(s), iterations=100) for s in range(20))
    )
    assert best == pytest.approx(sum(float((x[truth == k] - x[truth == k].mean(0)).square().sum()) for k in range(6)))
    a, b = (kmeans(x, 6, generator(4), iterations=n) for n in (50, 500))
    assert torch.equal(a[0], b[0])


def test_an_empty_cluster_takes_half_of_the_largest():
    centroids = torch.tensor([[4.0, 8.0], [1.0, 1.0], [5.0, 5.0], [9.0, 9.0]])
    found = split_largest(centroids, torch.tensor([10.0, 0.0, 3.0, 0.0]))
    e = 1 / 1024
    assert torch.allclose(found[2], centroids[2])
    # the first empty one shares with cluster 0 (10 -> 5 and 5), the second takes of the first of the two largest, 0 again
    assert torch.allclose(found[1], torch.tensor([4 * (1 + e), 8 * (1 - e)]))
    assert torch.allclose(found[3], torch.tensor([4 * (1 - e) * (1 + e), 8 * (1 + e) * (1 - e)]))
    assert torch.allclose(found[0], torch.tensor([4 * (1 - e) ** 2, 8 * (1 + e) ** 2]))
    assert torch.equal(split_largest(centroids, torch.ones(4)), centroids)


def test_kmeans_fills_empty_clusters():
    """Two samples that coincide start two clusters, of which one is empty."""
    x = torch.cat([torch.zeros(2, 2), 5 + points(30, 2).float()])
    seed = next(s for s in range(2000) if {0, 1} <= set(torch.randperm(32, generator=generator(s))[:3].tolist()))
    labels = kmeans(x, 3, generator(seed), iterations=30)[1]
    assert labels.bincount(minlength=3).min() > 0


def test_nearest_leaves_empty_clusters_out():
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    x = torch.tensor([[0.9, 0.1], [4.0, 0.0]])
    assert nearest(x, centroids).tolist() == slow_nearest(x, centroids) == [1, 2]
    assert nearest(x, centroids, torch.tensor([3, 0, 0])).tolist() == [0, 0]


def test_whitened_components_are_uncorrelated_of_unit_variance_and_ordered():
    mixing = torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5], dtype=torch.float64)) @ points(4, 4, seed=5)
    x = points(500, 4) @ mixing + 7
    whitening = Whitening(4, 3).double()
    whitening.fit(x)
    flat = (x - x.mean(0)) @ whitening.projection
    assert torch.allclose(flat.T @ flat / 500, torch.eye(3, dtype=torch.float64), atol=1e-9)
    # power iteration finds the first direction on its own
    centred, v = x - x.mean(0), torch.ones(4, dtype=torch.float64)
    for _ in range(500):
        v = centred.T @ (centred @ v)
        v = v / v.norm()
    first = whitening.projection[:, 0]
    assert abs(float(first @ v) / float(first.norm())) == pytest.approx(1, abs=1e-9)
    assert float(first.norm()) ** -2 == pytest.approx(float((centred @ v).square().mean()))
    unit = whitening(x)
    assert torch.allclose(unit, flat / flat.norm(dim=1, keepdim=True), atol=1e-12)
    assert all(column[column.abs().argmax()] > 0 for column in whitening.projection.T)


def test_whitening_of_few_samples_has_no_more_components_than_they_span():
    x = points(3, 6).float()
    whitening = Whitening(6, 5)
    whitening.fit(x)
    assert (whitening.projection.abs().sum(0) > 0).tolist() == [True, True, False, False, False]
    assert torch.isfinite(whitening(points(4, 6, seed=9).float())).all()


def test_pseudo_labels_by_number_weights_and_state():
    found = Clusters(2, 3, 2, 6)
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [9.0, 9.0]])
    index = torch.tensor([5, 0, 2, 3])
    found.fit(1, x, index, generator(), iterations=10)
    labels = found.known(1, torch.tensor([0, 1, 2, 3, 4, 5]))
    assert labels[[1, 4]].tolist() == [-1, -1]
    assert (found.known(0, index) == -1).all()
    assert labels[3] not in labels[[0, 2, 5]]
    assert found.nearest(1, x).tolist() == labels[index].tolist()
    # equal shares for the clusters that are used
    weights = found.weights(1, labels[index])
    used = len(set(labels[index].tolist()))
    assert float(weights.sum()) == pytest.approx(4)
    for k in set(labels[index].tolist()):
        assert float(weights[labels[index] == k].sum()) == pytest.approx(4 / used)
    few = Clusters(1, 3, 2, 6)
    few.fit(0, x[:2], index[:2], generator(), iterations=10)
    assert few.sizes.tolist() == [[1, 1, 0]]
    assert int(few.used(0)) == 2
    found.rounds = 7
    again = Clusters(2, 3, 2, 6)
    again.load_state_dict(found.state_dict())
    assert again.rounds == 7
    assert torch.equal(again.labels, found.labels)
    assert math.prod(again.centroids.shape) == 12
