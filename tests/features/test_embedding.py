"""Maps and silhouettes of features whose place is known by construction."""

import math

import numpy as np
import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.evaluation.features import Features
from ssl_med.features.core.groups import groups_by_label, groups_by_table, read_groups
from ssl_med.features.embedding import Embedding, EmbeddingConfig, plane, principal, silhouette
from ssl_med.spec import DataSpec, SslMedError


def clouds(n=12, seed=0):
    """Two clouds of points around (0, 0, 0, 0) and (9, 0, 0, 0), and their groups."""
    x = 0.3 * torch.randn(2 * n, 4, generator=torch.Generator().manual_seed(seed))
    x[n:, 0] += 9
    return x, np.repeat([0, 1], n)


def test_the_plane_of_pca_is_that_of_the_largest_variances():
    q = torch.linalg.qr(torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    q = torch.linalg.qr(q - q.mean(0))[0]
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    components, shares = principal(q * torch.tensor([3.0, 2.0, 1.0]) @ turn + 7)
    assert shares.tolist() == pytest.approx([9 / 14, 4 / 14, 1 / 14])
    signs = q.gather(0, q.abs().argmax(0, keepdim=True)).sign()
    np.testing.assert_allclose(plane(components), (q * signs * torch.tensor([3.0, 2.0, 1.0]))[:, :2], atol=1e-5)
    assert plane(components[:, :1])[:, 1].tolist() == [0] * 20


def test_the_silhouette_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    x, group = clouds()
    group[3], group[20:] = 2, 1  # one is alone in its group
    assert silhouette(x, group) == pytest.approx(metrics.silhouette_score(x.numpy(), group), rel=1e-6)
    unknown = np.concatenate([group, [-1, -1]])
    assert silhouette(torch.cat([x, 100 * torch.ones(2, 4)]), unknown) == pytest.approx(silhouette(x, group))
    assert math.isnan(silhouette(x, np.zeros(24, int)))


def test_a_silhouette_by_hand():
    x = torch.tensor([[0.0], [1.0], [5.0], [7.0]])
    # a = 1, 1, 2, 2; b = 6, 5, 4.5, 6.5
    assert silhouette(x, np.array([0, 0, 1, 1])) == pytest.approx((5 / 6 + 4 / 5 + 2.5 / 4.5 + 4.5 / 6.5) / 4)


def test_groups_are_classes_a_finding_or_a_column_of_a_table(tmp_path):
    classes = DataSpec("x", 2, 1, (8, 8), target="class", class_names=("a", "b"))
    assert groups_by_label(classes, torch.tensor([1, 0])).number.tolist() == [1, 0]
    findings = DataSpec("x", 2, 1, (8, 8), target="multilabel", class_names=("mass", "fluid"))
    label = torch.tensor([[0, 1], [0, 0], [1, math.nan], [0, 1]])
    found = groups_by_label(findings, label)
    assert (found.names, found.number.tolist()) == (("no fluid", "fluid"), [1, 0, -1, 1])
    assert groups_by_label(findings, label, "mass").number.tolist() == [0, 0, 1, 0]
    with pytest.raises(SslMedError, match=r"features\.finding: 'fluids' is unknown; did you mean 'fluid'"):
        groups_by_label(findings, label, "fluids")
    table = tmp_path / "sites.csv"
    table.write_text("case,group\nc1,Bern\nc0,Ulm\nc9,Graz\n")
    found = groups_by_table(read_groups(str(table)), ["c0", "c1", "c2"])
    assert (found.names, found.number.tolist()) == (("Bern", "Ulm"), [1, 0, -1])
    with pytest.raises(
        SslMedError, match="none of the images is in the table; its column case needs names such as 'k'"
    ):
        groups_by_table(read_groups(str(table)), ["k"])
    table.write_text("case,site\nc1,Bern\n")
    with pytest.raises(SslMedError, match="column 'group' is missing"):
        read_groups(str(table))
    with pytest.raises(SslMedError, match="No such file"):
        read_groups(str(tmp_path / "none.csv"))


@pytest.mark.parametrize("dims", [2, 3])
def test_images_of_two_kinds_lie_apart_in_each_map(dims):
    pytest.importorskip("sklearn")
    x = 0.05 * torch.rand(24, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    label = torch.arange(24) % 2
    x[label == 1] += 5
    kind = Embedding(EmbeddingConfig(perplexity=5))
    images = images_of(small_encoder(dims), x, labels=label, classes=("dark", "bright"))
    found = kind.measure(images)
    assert found.headline == "silhouette"
    assert found.numbers["silhouette"] == pytest.approx(silhouette(images.pooled(x), label.numpy()), rel=1e-4)
    assert found.numbers["silhouette"] > 0.8
    for name in ("pca", "tsne"):
        assert silhouette(torch.from_numpy(found.arrays[name]), label.numpy()) > 0.6
        np.testing.assert_array_equal(found.arrays[name], kind.measure(images).arrays[name])
    assert found.rows[1]["group"] == "bright"
    assert found.rows[1]["tsne/y"] == pytest.approx(found.arrays["tsne"][1, 1])
    drawn = kind.draw({"a": found, "b": found})
    assert [one.stem for one in drawn] == ["embedding_pca", "embedding_tsne"]
    assert [len(axes.collections) for axes in drawn[0].figure.axes] == [2, 2]
    plain = Embedding(EmbeddingConfig(methods=("pca",))).measure(images_of(small_encoder(dims), x))
    assert plain.numbers.keys() == {"images", "pca/explained"}


def test_a_missing_library_and_contradictions_are_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(SslMedError, match=r"umap comes with the extra: pip install 'ssl-med\[features\]'"):
        Embedding(EmbeddingConfig(methods=("umap",))).measure(images_of(small_encoder(), torch.rand(9, 1, 8, 8)))
    with pytest.raises(SslMedError, match="leave one of them out"):
        EmbeddingConfig(finding="a", color_by="b")
    with pytest.raises(SslMedError, match="needs different maps"):
        EmbeddingConfig(methods=())


def test_umap_keeps_neighbours_together():
    pytest.importorskip("umap")
    x, group = clouds()
    images = images_of(small_encoder(), torch.rand(24, 1, 8, 8))
    images.all_features = lambda levels: Features(tuple(map(str, range(24))), x, torch.from_numpy(group))
    found = Embedding(EmbeddingConfig(methods=("umap",), neighbours=5)).measure(images)
    assert silhouette(torch.from_numpy(found.arrays["umap"]), group) > 0.5
