"""Neighbours whose order and labels are known by construction."""

import math

import pytest
import torch
from looking import images_of, small_encoder

from ssl_med.evaluation.features import Features
from ssl_med.features.retrieval import (
    Retrieval,
    RetrievalConfig,
    Scans,
    agree,
    answerable,
    marked,
    neighbours,
    words,
)
from ssl_med.spec import DataSpec, SslMedError

FINDINGS = DataSpec("x", 2, 1, (8, 8), target="multilabel", class_names=("mass", "fluid"))


def on_circle(*degrees):
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return (
        torch.stack([angle.cos(), angle.sin()], 1) * torch.arange(1, len(degrees) + 1)[:, None]
    )  # length must not count


def test_neighbours_are_those_of_the_smallest_angle_from_other_patients():
    x = on_circle(0, 1, 10, 40, 100)
    near, cosine = neighbours(x, torch.tensor([0, 0, 1, 2, 3]), 3)
    assert near.tolist() == [[2, 3, 4], [2, 3, 4], [1, 0, 3], [2, 1, 0], [3, 2, 1]]
    assert cosine[0].tolist() == pytest.approx([math.cos(math.radians(d)) for d in (10, 40, 100)])


def test_labels_agree_by_class_by_a_shared_finding_or_by_none():
    label = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [0, 0], [math.nan, 0]])
    marks = marked(FINDINGS, label)
    near = torch.tensor([[1, 2, 3], [2, 0, 3], [0, 1, 3], [4, 5, 0], [3, 0, 1], [3, 4, 0]])
    assert agree(marks, near).int().tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert answerable(marks, torch.arange(6)).tolist() == [2, 1, 1, 1, 1, 0]
    assert answerable(marks, torch.tensor([0, 0, 1, 2, 2, 3])).tolist() == [1, 0, 1, 0, 0, 0]
    assert [words(FINDINGS, one) for one in label[[0, 3, 5]]] == ["mass, fluid", "no finding", "not known"]
    classes = DataSpec("x", 2, 1, (8, 8), target="class", class_names=("a", "b"))
    assert agree(marked(classes, torch.tensor([0, 1, 1])), torch.tensor([[1], [2], [0]]))[:, 0].tolist() == [0, 1, 0]


def test_recall_and_precision_by_hand():
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    # neighbours on the circle: 0-1-2 close together, 3-4, 5-6; 7 far off, alone in its class
    features = on_circle(0, 1, 3, 40, 41, 90, 91, 170)
    label = torch.tensor([0, 0, 1, 1, 1, 0, 1, 2])
    images = images_of(small_encoder(), x, labels=label, classes=("a", "b", "c"))
    images.all_features = lambda levels: Features(tuple("01234567"), features, label)
    found = Retrieval(RetrievalConfig(center=False, at=(1, 2), queries=2, neighbours=2)).measure(images)
    first = [1, 1, 0, 1, 1, 0, 0]  # 0->1, 1->0, 2->1, 3->4, 4->3, 5->6, 6->5
    second = [0, 0, 0, 1, 1, 0, 1]  # 0->2, 1->2, 2->0, 3->2, 4->2, 5->4, 6->4
    assert found.numbers["precision@1"] == pytest.approx(sum(first) / 7)
    assert found.numbers["precision@2"] == pytest.approx(sum(first + second) / 14)
    assert found.numbers["recall@2"] == pytest.approx(5 / 7)
    assert found.numbers["chance"] == pytest.approx((3 * 2 / 7 + 4 * 3 / 7) / 7)
    assert found.headline == "precision@1"
    assert found.notes == ["1 images have no right answer among other patients, and do not count"]
    assert found.rows[5] == {"case": "5", "neighbour": "6", "similarity": pytest.approx(math.cos(math.radians(1))),
                             "label": "a", "right": 0}  # fmt: skip
    assert found.arrays["gallery"].tolist() == [[0, 1, 2], [7, 6, 5]]
    assert torch.equal(torch.from_numpy(found.arrays["image6"]), x[6, 0])


def test_crops_of_a_scan_are_one():
    x = torch.arange(8.0).reshape(4, 2)
    found = Scans.of(Features(("a", "a", "b", "a"), x, torch.tensor([1, 1, 0, 1])), [4, 4, 5, 4])
    assert found.names == ["a", "b"]
    assert found.x.tolist() == [[8 / 3, 11 / 3], [4, 5]]
    assert found.subject.tolist() == [4, 5]
    assert found.label.tolist() == [1, 0]
    assert found.middle == [1, 2]


@pytest.mark.parametrize("dims", [2, 3])
def test_doubles_find_each_other_but_not_within_a_patient(dims):
    x = torch.rand(10, 1, *(8,) * dims, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, x])
    kind = Retrieval(RetrievalConfig(queries=3))
    found = kind.measure(images_of(small_encoder(dims), x))
    assert found.numbers["similarity"] == pytest.approx(1)
    assert found.numbers.keys() == {"images", "similarity"}
    assert [row["neighbour"] for row in found.rows[:10]] == [f"case{k + 10}" for k in range(10)]
    (drawing,) = kind.draw({"a": found})
    assert len(drawing.figure.axes) == 3 * 6
    found = kind.measure(images_of(small_encoder(dims), x, subjects=list(range(10)) * 2))
    assert all(int(row["neighbour"][4:]) % 10 != k % 10 for k, row in enumerate(found.rows))
    with pytest.raises(SslMedError, match="images of two patients or more"):
        kind.measure(images_of(small_encoder(dims), x, subjects=[0] * 20))
