"""The contrastive and distillation methods against their equations."""

import math

import pytest
import torch
from test_methods import batch_of, blobs, generator, make, step

from ssl_med.methods._schedule import Schedule, ScheduleConfig, cosine_to
from ssl_med.spec import SslMedError


def train(method, images, steps, lr=1e-2):
    optimizer = torch.optim.SGD(method.parameters(), lr=lr)
    return [step(method, optimizer, batch_of(images), s) for s in range(steps)]


# --- schedules -------------------------------------------------------------------------------------------------------


class Run:
    """What a schedule asks of a trainer."""

    def __init__(self, steps):
        self.estimated_stepping_batches = steps


class Module:
    """What a schedule asks of a method."""

    def __init__(self, steps=None):
        self._trainer = None if steps is None else Run(steps)


def test_schedule_follows_trainer_config_or_nothing_and_resumes():
    own, trainers = Schedule(ScheduleConfig(schedule_steps=10)), Schedule(ScheduleConfig())
    for _ in range(4):
        own.advance(), trainers.advance()
    assert own.share(Module()) == own.share(Module(1000)) == 0.4
    assert trainers.share(Module(16)) == 0.25
    assert trainers.share(Module(2)) == 1.0
    assert trainers.share(Module()) == 0.0  # nobody says where it ends
    assert trainers.share(Module(float("inf"))) == 0.0
    resumed = Schedule(ScheduleConfig(schedule_steps=10))
    resumed.load_state_dict(own.state_dict())
    assert resumed.done == 4
    with pytest.raises(SslMedError, match="schedule_steps"):
        ScheduleConfig(schedule_steps=-1)


# --- BYOL ------------------------------------------------------------------------------------------------------------


def test_byol_coefficient_rises_as_in_the_paper():
    method = make("byol", 2, "method.momentum=0.996", "method.schedule_steps=8")
    for k in range(9):
        assert method.tau == pytest.approx(1 - (1 - 0.996) * (math.cos(math.pi * k / 8) + 1) / 2, abs=1e-12)
        method.schedule.advance()
    assert method.tau == 1.0
    assert cosine_to(2.0, 4.0, 0.5) == pytest.approx(3.0)


def test_byol_loss_takes_both_directions_and_only_the_student_learns():
    method = make("byol", 2)
    views = method.views(batch_of(blobs(4, 2)), generator(0))
    method.eval()  # one batch of two views then equals two batches
    loss = method.terms(views)["loss"]
    expected = 0.0
    for mine, other in (("view1", "view2"), ("view2", "view1")):
        p = method.predictor(method.projector(method.backbone.pool(method.backbone(views[mine]))))
        z = method.teacher(views[other])[1]
        for a, b in zip(p.double().tolist(), z.double().tolist(), strict=True):
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
            expected += (2 - 2 * cosine) / 4
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in method.predictor.parameters() if p.ndim > 1)


def test_byol_views_differ_in_law():
    """View 1 is always blurred, view 2 rarely; view 2 is solarised now and then."""
    method = make("byol", 2, "method.view.jitter=0", "method.view2.jitter=0", "method.view2.blur=0")
    white = torch.ones(400, 1, 32, 32)
    views = method.views(batch_of(white), generator(0))
    assert float(views["view1"].min()) > 0.99
    assert float((views["view2"].flatten(1).mean(1) < 0.01).float().mean()) == pytest.approx(0.2, abs=0.06)
    noise = torch.rand(64, 1, 32, 32, generator=generator(1))
    rough = [v.flatten(1).std(1).mean() for v in method.views(batch_of(noise), generator(0)).values()]
    assert rough[0] < 0.7 * rough[1]
