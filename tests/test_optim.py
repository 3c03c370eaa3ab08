import math

import pytest
import torch
from torch import nn

from ssl_med.optim import LARS, OptimConfig, build_optimizer, build_schedule, lr_factor
from ssl_med.spec import SslMedError


def test_lars_equals_a_loop():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 3, dtype=torch.float64)), nn.Parameter(torch.zeros(2, dtype=torch.float64))]
    plain = [nn.Parameter(torch.randn(3, dtype=torch.float64))]
    mine = [p.detach().clone() for p in (*weights, *plain)]
    momenta = [torch.zeros_like(p) for p in mine]
    optimizer = LARS(
        [{"params": weights}, {"params": plain, "weight_decay": 0.0, "adapt": False}], lr=0.3, weight_decay=0.01
    )
    for lr in (0.3, 0.3, 0.1, 0.2):  # a new rate acts on new gradients, not on the momentum gathered before
        for group in optimizer.param_groups:
            group["lr"] = lr
        gradients = [torch.randn_like(p) for p in mine]
        for p, g in zip((*weights, *plain), gradients, strict=True):
            p.grad = g.clone()
        optimizer.step()
        for i, g in enumerate(gradients):
            update = g + (0.01 * mine[i] if i < 2 else 0)
            norm_w, norm_g = math.sqrt(float((mine[i] ** 2).sum())), math.sqrt(float((update**2).sum()))
            if i < 2 and norm_w > 0 and norm_g > 0:
                update = update * (0.001 * norm_w / norm_g)
            momenta[i] = 0.9 * momenta[i] + lr * update
            mine[i] = mine[i] - momenta[i]
    for p, expected in zip((*weights, *plain), mine, strict=True):
        assert torch.allclose(p, expected, atol=1e-12)


def test_norm_and_bias_can_be_spared():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    config = OptimConfig(name="lars", lr=0.3, lr_per_256=True, weight_decay=0.1, decay_norm_bias=False)
    first, second = build_optimizer(config, net, batch_size=512).param_groups
    assert [p.ndim for p in first["params"]] == [2]
    assert [p.ndim for p in second["params"]] == [1, 1, 1]
    assert (first["lr"], first["weight_decay"], first["adapt"]) == (0.6, 0.1, True)
    assert (second["weight_decay"], second["adapt"]) == (0.0, False)
    net[0].weight.requires_grad_(False)
    assert len(build_optimizer(OptimConfig(), net, batch_size=1).param_groups[0]["params"]) == 3


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_every_optimizer_reduces_a_quadratic(name):
    net = nn.Linear(4, 1, bias=False)
    nn.init.ones_(net.weight)
    lr = {"sgd": 0.05, "adam": 0.1, "adamw": 0.1, "lars": 20.0}[name]
    optimizer = build_optimizer(OptimConfig(name=name, lr=lr), net, batch_size=1)
    for _ in range(30):
        optimizer.zero_grad()
        net.weight.square().sum().backward()
        optimizer.step()
    assert float(net.weight.square().sum()) < 1.0


def test_schedules():
    def at(step, total=100, **config):
        return lr_factor(OptimConfig(**config), step, total_steps=total, steps_per_epoch=10)

    assert at(50) == pytest.approx(0.5)
    assert at(100) == pytest.approx(0.0)
    assert at(0) == 1.0
    assert at(100, final_lr=1e-4) == pytest.approx(0.1)
    assert at(0, warmup_epochs=1) == pytest.approx(1 / 11)
    assert at(10, warmup_epochs=1) == pytest.approx(1.0)
    assert [at(s, schedule="step", step_epochs=(2, 5)) for s in (19, 20, 50)] == pytest.approx([1, 0.1, 0.01])
    assert [at(s, schedule="step", step_every_epochs=4, gamma=0.5) for s in (39, 40, 80)] == pytest.approx(
        [1, 0.5, 0.25]
    )
    assert at(99, schedule="constant") == 1.0
    assert at(50, schedule="poly") == pytest.approx(0.5**0.9)
    assert at(100, schedule="poly", power=2.0, final_lr=1e-4) == pytest.approx(0.1)
    for warmup in ({"warmup_steps": 20}, {"warmup_share": 0.2}):
        assert [at(s, schedule="poly", power=1.0, **warmup) for s in (9, 20, 60)] == pytest.approx([10 / 21, 1, 0.5])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adam", "nesterov": True}, "optim.nesterov=true needs optim.name=sgd"),
        ({"schedule": "step"}, "either optim.step_epochs or optim.step_every_epochs"),
        ({"nesterov": True, "momentum": 0.0}, "optim.momentum above 0"),
        ({"schedule": "step", "step_epochs": (2,), "step_every_epochs": 3}, "either"),
        (
            {"warmup_epochs": 1.0, "warmup_steps": 5},
            "warmup_epochs and optim.warmup_steps are both given; set one of them to 0",
        ),
        ({"warmup_epochs": 1.0, "warmup_share": 0.1}, "warmup_epochs and optim.warmup_share are both given"),
        ({"final_lr": 0.1}, "optim.final_lr is 0.1; it must not be above optim.lr=0.001"),
    ],
)
def test_contradictions(config, message):
    with pytest.raises(SslMedError, match=message):
        OptimConfig(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lr": 0}, "optim.lr is 0; it must be above 0"),
        ({"lr": math.nan}, "optim.lr is nan; it must be above 0 and at most 1000"),
        ({"weight_decay": -1}, "optim.weight_decay is -1; it must be at least 0"),
        ({"momentum": 1.0}, "optim.momentum is 1.0; it must be below 1"),
        ({"betas": (0.9, 1.5)}, r"optim.betas is \(0.9, 1.5\); each must be below 1"),
        ({"schedule": "step", "step_epochs": (0, 5)}, r"optim.step_epochs is \(0, 5\); each must be above 0"),
    ],
)
def test_a_value_out_of_range_is_refused_from_python_too(config, message):
    with pytest.raises(SslMedError, match=message):
        build_optimizer(OptimConfig(**config), nn.Linear(2, 2), batch_size=1)


def test_a_schedule_needs_room():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    with pytest.raises(SslMedError, match="shorten the warm-up or train longer"):
        build_schedule(OptimConfig(warmup_epochs=10), optimizer, total_steps=50, steps_per_epoch=5)
    with pytest.raises(SslMedError, match=r"optim.warmup_steps=50, but training ends after 50"):
        build_schedule(OptimConfig(warmup_steps=50), optimizer, total_steps=50, steps_per_epoch=5)
    endless = OptimConfig(schedule="constant", warmup_share=0.1)
    with pytest.raises(SslMedError, match="warmup_share needs an end"):
        build_schedule(endless, optimizer, total_steps=math.inf, steps_per_epoch=5)
    with pytest.raises(SslMedError, match="poly needs an end"):
        build_schedule(OptimConfig(schedule="poly"), optimizer, total_steps=math.inf, steps_per_epoch=5)
    with pytest.raises(SslMedError, match="cosine needs an end"):
        build_schedule(OptimConfig(), optimizer, total_steps=math.inf, steps_per_epoch=5)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("lars", LARS)])
def test_built_optimizer_resumes_from_its_state(name, kind):
    """Two runs, one of which is saved and loaded in the middle, end at the same weights."""

    def run(interrupted):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
        config = OptimConfig(name=name, lr=0.1, weight_decay=0.01, decay_norm_bias=False, warmup_epochs=0.5)
        optimizer = build_optimizer(config, net, batch_size=4)
        assert isinstance(optimizer, kind)
        schedule = build_schedule(config, optimizer, total_steps=8, steps_per_epoch=4)
        for step in range(8):
            if interrupted and step == 4:
                saved = optimizer.state_dict(), schedule.state_dict()
                optimizer = build_optimizer(config, net, batch_size=4)
                schedule = build_schedule(config, optimizer, total_steps=8, steps_per_epoch=4)
                optimizer.load_state_dict(saved[0])
                schedule.load_state_dict(saved[1])
            optimizer.zero_grad()
            net(torch.randn(4, 3, dtype=torch.float64)).square().mean().backward()
            optimizer.step()
            schedule.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    assert torch.equal(run(False), run(True))


def test_lars_runs_a_closure():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([p], lr=1.0)

    def closure():
        loss = p.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 4.0
    assert torch.allclose(p, torch.full((2, 2), 0.999))  # step of trust |w| in the direction of w
