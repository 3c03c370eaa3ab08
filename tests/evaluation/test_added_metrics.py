"""Metrics that are files of their own: values, direction, and the way into a task's results."""

import numpy as np
import pytest
import torch
from test_metrics import BACKBONE

from ssl_med.evaluation.metrics import added_metrics, conventions, metric_of
from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.spec import DataSpec


def cubes(side):
    mask = np.zeros((2, 8, 8, 8), bool)
    mask[0, :side, :side, :side] = True
    return mask


# a right and a worse answer for each file of the room; a new file needs a line here
ANSWERS = {
    "brier": (
        (np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])),
        (np.array([0, 1]), np.array([[0.4, 0.6], [0.5, 0.5]])),
    ),
    "volume_error_ml": ((cubes(5), cubes(5), (1.0, 1.0, 1.0)), (cubes(4), cubes(5), (1.0, 1.0, 1.0))),
}


@pytest.mark.parametrize("name", added_metrics())
def test_a_worse_answer_is_recognised_as_worse(name):
    metric, (right, wrong) = metric_of(f"test/{name}"), ANSWERS[name]
    score = added_metrics()[name].score
    assert metric.name == name
    assert metric.better(np.mean(score(*right)), np.mean(score(*wrong)))
    assert conventions([f"test/{name}"]) == {name: metric.convention}


def test_values():
    volume, brier = added_metrics()["volume_error_ml"], added_metrics()["brier"]
    assert volume.score(cubes(4), cubes(5), (1.0, 2.0, 0.5)) == [pytest.approx(0.061), 0.0]
    truth, probability = np.array([0, 2, 1]), np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.0, 1.0, 0.0]])
    slow = [sum((p - (k == y)) ** 2 for k, p in enumerate(row)) for y, row in zip(truth, probability, strict=True)]
    assert brier.score(truth, probability) == pytest.approx(sum(slow) / 3)


def task_of(target, names, dims):
    spec = DataSpec(
        name="x", spatial_dims=dims, in_channels=1, patch_size=(8,) * dims, target=target, class_names=names
    )
    return task_class(spec)(TaskConfig(), spec, BACKBONE, BACKBONE)


@pytest.mark.parametrize(
    ("dims", "spacing", "stated"), [(3, (1.0, 2.0, 0.5), True), (3, None, False), (2, (1.0, 1.0), False)]
)
def test_a_segmentation_states_it_for_each_region_where_it_is_defined(dims, spacing, stated):
    truth = torch.zeros(1, 2, *(8,) * dims)
    truth[:, 0, :4] = 1
    logits = 6 * truth - 3
    logits[:, 0, 4] = 3  # one plane too many
    batch = {"id": ["a"], "mask": truth}
    if spacing is not None:
        batch["spacing"] = torch.tensor([spacing])
    task = task_of("mask", ("liver", "tumor"), dims)
    found = task.summarize(task.test_rows(logits, batch))
    assert ("volume_error_ml" in found) == stated
    if stated:
        assert found["volume_error_ml/liver"] == pytest.approx(64 * 1e-3)
        assert found["volume_error_ml"] == pytest.approx(32 * 1e-3)


def test_a_classification_states_it():
    task = task_of("class", ("no", "yes"), 2)
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    found = task.summarize(task.test_rows(logits, {"id": ["a", "b"], "label": torch.tensor([0, 1])}))
    p = logits.softmax(1)
    assert found["brier"] == pytest.approx(float(((p - torch.eye(2)) ** 2).sum(1).mean()), rel=1e-5)
