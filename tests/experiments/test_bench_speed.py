import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from experiments.bench import references as reference
from experiments.bench.__main__ import main
from experiments.bench.inputs import crops_like_ct, method_of_size
from experiments.bench.variants import BenchSpeedConfig, Variant, median_times
from ssl_med.losses.contrastive import info_nce, nt_xent
from ssl_med.losses.distillation import sinkhorn
from ssl_med.methods.pcrl import PCRL, PCRLConfig
from ssl_med.networks.ema import EMA
from ssl_med.spec import SslMedError
from ssl_med.transforms.intensity import Curve, apply_curve

TINY = [
    "repeats=1",
    "step_repeats=1",
    "ruler=8",
    "crops=2",
    "patch=[24,24,24]",
    "windows=20",
    "maps=2",
    "channels=[2,4,4]",
]
TINY += ["batch=4", "dim=8", "queue=16", "prototypes=6"]


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_every_row_is_measured(capsys):
    rows = main(["speed", *TINY])
    found = {}
    for row in rows:
        assert row["ms"] > 0
        found.setdefault(row["piece"], []).append(row)
    shuffling, steps = (
        "local shuffling, 20 windows",
        ["definition, fp32", "ours, fp32"],
    )
    expected = {
        "Models Genesis pair": ["definition", "ours", "ours, without numba", "ours, pooled"],
        shuffling: ["definition", "ours", "ours, without numba", "ours, pooled"],
        f"{shuffling}, against MONAI": ["MONAI RandCoarseShuffle", "ours", "ours, without numba", "ours, pooled"],
        **{piece: ["definition", "ours"] for piece in ("non-linear", "in-painting", "out-painting")},
        "Models Genesis step, batch 2": steps,
        "PCRL step, batch 1": steps,
        "InfoNCE, queue 16": steps,
        "NT-Xent": steps,
        "Sinkhorn, 6 prototypes": ["definition, fp32", "ours, fp32"],
    }
    assert list(found) == list(expected)
    for piece, names in expected.items():
        assert [row["variant"] for row in found[piece]][: len(names)] == names
        assert found[piece][0]["ratio"] == 1
        assert [row["ratio"] for row in found[piece]] == pytest.approx(
            [found[piece][0]["ms"] / row["ms"] for row in found[piece]]
        )
    for piece in ("Models Genesis step, batch 2", "PCRL step, batch 1"):
        slow, fast = found[piece]
        assert slow["flops"] >= fast["flops"] > 0
        assert fast["share"] > 0
    printed = capsys.readouterr().out
    assert "| non-linear | ours | approximate | " in printed
    assert "Convolution 8→8 in this run: fp32 " in printed
    assert "bf16 is left out, because SSL_MED_BF16=0; bf16=true measures it anyway" in printed


@pytest.mark.slow
def test_half_precision_is_measured_where_the_processor_has_it_or_on_demand(monkeypatch):
    variants = ["definition, fp32", "ours, fp32", "definition, bf16", "ours, bf16"]
    assert [row["variant"] for row in main(["speed", *TINY, "only=losses", "bf16=true"])][:4] == variants
    monkeypatch.setenv("SSL_MED_BF16", "1")
    tiny = [override for override in TINY if not override.startswith(("channels", "ruler"))]
    tiny += ["only=genesis", "genesis_batch=1", "ruler=2"]
    rows = main(["speed", *tiny, "channels=[2,2,2]"])
    assert {row["piece"] for row in rows} == {"Models Genesis step, batch 1"}
    assert [row["variant"] for row in rows] == variants


def test_variants_take_turns_and_the_first_round_is_not_counted():
    calls = []
    times = median_times([Variant(name, "", lambda name=name: calls.append(name), 2) for name in "ab"], 3)
    assert calls == list("abababab")
    assert all(t > 0 for t in times)


def test_wrong_requests_are_one_line():
    with pytest.raises(SslMedError, match="only=transform: is no table; choose of transforms, genesis, pcrl, losses"):
        main(["speed", "only=transform"])
    with pytest.raises(SslMedError, match=r"patch \[16, 64, 64\] must be three numbers of 24 at least"):
        main(["speed", "patch=[16,64,64]"])
    with pytest.raises(SslMedError, match="'repeats' is 0; it must be at least 1"):
        main(["speed", "repeats=0"])
    with pytest.raises(SslMedError, match="last is 9; there are only steps=3"):
        main(["precision", "steps=3", "last=9"])
    with pytest.raises(SslMedError, match="does not fit CTs of size"):
        main(["precision", "patch=[128,32,16]"])


def test_losses_of_the_definitions_are_ours():
    z1, z2 = (torch.randn(6, 5, generator=gen(k), dtype=torch.float64, requires_grad=True) for k in range(2))
    queue = F.normalize(torch.randn(5, 9, generator=gen(2), dtype=torch.float64), dim=0)
    pairs = [
        (info_nce(z1, z2, queue, temperature=0.2), reference.info_nce(z1, z2, queue, temperature=0.2)),
        (nt_xent(z1, z2, temperature=0.2), reference.nt_xent(z1, z2, temperature=0.2)),
    ]
    for ours, theirs in pairs:
        assert torch.allclose(ours, theirs, atol=1e-12)
        gradients = (torch.autograd.grad(loss, [z1, z2], allow_unused=True) for loss in (ours, theirs))
        for a, b in zip(*gradients, strict=True):
            assert (a is None and b is None) or torch.allclose(a, b, atol=1e-12)
    scores = torch.rand(7, 4, generator=gen(3), dtype=torch.float64)
    theirs = reference.sinkhorn(scores.clone(), epsilon=0.1, iterations=3)
    assert torch.allclose(sinkhorn(scores, epsilon=0.1, iterations=3), theirs, atol=1e-12)


def test_the_teacher_of_the_definition_is_ours():
    online = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    ours, theirs = EMA(online), EMA(online)
    for _ in range(3):
        online(torch.rand(4, 3))
        torch.nn.init.uniform_(online[0].weight)
        ours.update(online, 0.9)
        reference.update_teacher(theirs, online, 0.9)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_pcrl_step_of_the_definition_is_ours():
    config = BenchSpeedConfig(patch=(24, 24, 24), channels=(2, 4, 4))
    plain, fast = (method_of_size(PCRL, PCRLConfig(queue=8), config, fast_up=up) for up in (False, True))
    images = crops_like_ct(4, config.patch, gen())
    views = fast.views({"image": images[:2], "image2": images[2:]}, gen(1))
    ours, theirs = fast.terms(views)["loss"], reference.pcrl_loss(plain, views)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-5)
    ours.backward()
    theirs.backward()
    for a, b in zip(fast.parameters(), plain.parameters(), strict=True):
        assert a.grad is b.grad or torch.allclose(a.grad, b.grad, atol=1e-4)
    assert torch.allclose(fast.queue.keys, plain.queue.keys, atol=1e-6)


def test_transforms_of_the_definitions_follow_the_same_law():
    random.seed(0)
    np.random.seed(0)
    noise = np.random.default_rng(0).random((1, 64, 64, 32), np.float32)
    assert float((reference.local_shuffle(noise, windows=1000) != noise).mean()) == pytest.approx(0.160, abs=0.006)
    flat = np.full((1, 64, 64, 32), 2.0, np.float32)
    for transform, share in ((reference.inpaint, 0.055), (reference.outpaint, 0.68)):
        drawn = np.mean([(transform(flat) != 2).mean() for _ in range(100)])
        assert drawn == pytest.approx(share, abs=0.03)


def test_the_curve_of_the_definition_is_ours(monkeypatch):
    x = torch.linspace(0, 1, 2001).view(1, 1, -1, 1)
    for falling in (False, True):
        draws = iter([0.2, 0.7, 0.9, 0.4, 0.0 if falling else 1.0])  # x1, x2, y1, y2, direction
        monkeypatch.setattr(random, "random", lambda draws=draws: next(draws))
        theirs = reference.nonlinear(x[0].numpy())
        curve = Curve(torch.tensor([[[0.2, 0.9], [0.7, 0.4]]]), torch.tensor([falling]), torch.tensor([True]))
        assert np.abs(apply_curve(x, curve)[0].numpy() - theirs).max() < 3e-5


def test_half_precision_trains_like_single(capsys):
    tiny = ["steps=12", "last=4", "seeds=1", "batch=1", "volumes=1", "size=[48,48,32]", "patch=[8,8,8]"]
    tiny += ["channels=[2,4,4]", "lr=0.01"]
    assert main(["precision", *tiny]) == []
    assert "left out, because SSL_MED_BF16=0" in capsys.readouterr().out
    (row,) = main(["precision", *tiny, "bf16=true"])
    assert row["bf16"] != row["fp32"]
    assert row["bf16"] == pytest.approx(row["fp32"], rel=0.1)
    assert row["fp32"] < row["first"]
    assert "| mean | | | " in capsys.readouterr().out
