"""Every loss against loops in float64, with the invariances that catch the known bugs."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssl_med.losses.contrastive import info_nce, nce, nce_mean, nt_xent
from ssl_med.losses.distillation import cosine_distance, sinkhorn, soft_cross_entropy
from ssl_med.losses.restoration import mae, mse, ssim_loss
from ssl_med.losses.segmentation import dice_bce, dice_loss


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(v):
    norm = math.sqrt(sum(a * a for a in v))
    return [a / norm for a in v]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_info_nce(q, k, queue, tau):
    total = 0.0
    for qi, ki in zip(q.tolist(), k.tolist(), strict=True):
        qi, ki = unit(qi), unit(ki)
        positive = math.exp(dot(qi, ki) / tau)
        negatives = sum(math.exp(dot(qi, column) / tau) for column in queue.T.tolist())
        total -= math.log(positive / (positive + negatives))
    return total / len(q)


def slow_nt_xent(z1, z2, tau):
    z = [unit(v) for v in [*z1.tolist(), *z2.tolist()]]
    n, total = len(z1), 0.0
    for i in range(2 * n):
        positive = (i + n) % (2 * n)
        denominator = sum(math.exp(dot(z[i], z[j]) / tau) for j in range(2 * n) if j != i)
        total -= math.log(math.exp(dot(z[i], z[positive]) / tau) / denominator)
    return total / (2 * n)


@pytest.mark.parametrize("tau", [0.07, 0.2, 1.0])
def test_info_nce_equals_its_formula(tau):
    q, k, queue = draw(5, 8), draw(5, 8, seed=1), F.normalize(draw(8, 20, seed=2), dim=0)
    assert float(info_nce(q, k, queue, temperature=tau)) == pytest.approx(slow_info_nce(q, k, queue, tau), abs=1e-12)


def test_info_nce_gradient_is_exact_and_survives_an_overwritten_queue():
    q, k, queue = draw(4, 6).requires_grad_(), draw(4, 6, seed=1), F.normalize(draw(6, 9, seed=2), dim=0)
    assert torch.autograd.gradcheck(lambda x: info_nce(x, k, queue, temperature=0.2), (q,))
    reference = torch.cat(
        [(F.normalize(q, dim=1) * F.normalize(k, dim=1)).sum(1, keepdim=True), F.normalize(q, dim=1) @ queue], 1
    )
    expected = torch.autograd.grad(F.cross_entropy(reference / 0.2, torch.zeros(4, dtype=torch.long)), q)[0]
    loss = info_nce(q, k, queue, temperature=0.2)
    queue.zero_()
    assert torch.allclose(torch.autograd.grad(loss, q)[0], expected, atol=1e-12)


def test_info_nce_invariances():
    q, k, queue = draw(5, 8), draw(5, 8, seed=1), F.normalize(draw(8, 20, seed=2), dim=0)
    base = info_nce(q, k, queue, temperature=0.2)
    assert torch.allclose(info_nce(q * 7, k * 0.1, queue, temperature=0.2), base), "q and k must be normalised"
    assert torch.allclose(info_nce(q, k, queue[:, torch.randperm(20)], temperature=0.2), base)
    assert float(info_nce(q, q, -F.normalize(q, dim=1).T[:, :1].repeat(1, 3), temperature=0.01)) >= 0, (
        "positive in the denominator"
    )
    assert float(info_nce(q, k, queue, temperature=1e6)) == pytest.approx(math.log(21), abs=1e-5)


def test_info_nce_leaves_out_what_is_no_negative():
    q, k, queue = draw(3, 6), draw(3, 6, seed=1), F.normalize(draw(6, 5, seed=2), dim=0)
    left_out = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    rows = [slow_info_nce(q[i : i + 1], k[i : i + 1], queue[:, ~left_out[i]], 0.2) for i in range(3)]
    loss = info_nce(q, k, queue, temperature=0.2, left_out=left_out)
    assert float(loss) == pytest.approx(sum(rows) / 3, abs=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: info_nce(x, k, queue, temperature=0.2, left_out=left_out), (q.requires_grad_(),)
    )


def slow_nce(q, k, queue, tau, samples, mean, left_out=None):
    """The definition, with normaliser Z = samples * mean and noise 1 / samples."""
    total, count = 0.0, queue.shape[1]
    noise = count / samples
    for i in range(len(q)):
        qi = unit(q[i].tolist())
        p = math.exp(dot(qi, unit(k[i].tolist())) / tau) / (samples * mean)
        total -= math.log(p / (p + noise))
        for n, column in enumerate(queue.T.tolist()):
            if left_out is None or not left_out[i, n]:
                p = math.exp(dot(qi, column) / tau) / (samples * mean)
                total -= math.log(noise / (p + noise))
    return total / len(q)


@pytest.mark.parametrize("samples", [10, 5000])
def test_nce_equals_its_formula_for_any_number_of_samples(samples):
    q, k, queue = draw(4, 6), draw(4, 6, seed=1), F.normalize(draw(6, 9, seed=2), dim=0)
    left_out = draw(4, 9, seed=3) > 1
    mean = torch.tensor(2.5, dtype=torch.float64)
    loss = nce(q, k, queue, temperature=0.3, mean=mean, left_out=left_out)
    assert float(loss) == pytest.approx(slow_nce(q, k, queue, 0.3, samples, 2.5, left_out), abs=1e-10)
    weights = [math.exp(dot(unit(a), unit(b)) / 0.3) for a, b in zip(q.tolist(), k.tolist(), strict=True)]
    weights += [math.exp(dot(unit(a), c) / 0.3) for a in q.tolist() for c in queue.T.tolist()]
    assert float(nce_mean(q, k, queue, temperature=0.3)) == pytest.approx(sum(weights) / len(weights), abs=1e-10)
    expected = slow_nce(q, k, queue, 0.3, samples, sum(weights) / len(weights))
    assert float(nce(q, k, queue, temperature=0.3)) == pytest.approx(expected, abs=1e-10)
    assert torch.autograd.gradcheck(
        lambda x: nce(x, k, queue, temperature=0.3, mean=mean, left_out=left_out), (q.requires_grad_(),)
    )


def test_nce_of_a_network_that_knows_nothing_is_the_measured_value():
    """10.70 for 16,384 negatives: log(K + 1) + 1."""
    q, queue = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(4, 16384, dtype=torch.float64)
    assert float(nce(q, q, queue, temperature=0.07)) == pytest.approx(10.70, abs=0.01)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_nt_xent_equals_its_formula(tau):
    z1, z2 = draw(6, 5), draw(6, 5, seed=1)
    assert float(nt_xent(z1, z2, temperature=tau)) == pytest.approx(slow_nt_xent(z1, z2, tau), abs=1e-12)


def test_nt_xent_known_value_and_invariances():
    z1, z2 = draw(16, 32), draw(16, 32, seed=1)
    assert float(nt_xent(z1, z2, temperature=1e6)) == pytest.approx(math.log(2 * 16 - 1), abs=1e-5)
    base = nt_xent(z1, z2, temperature=0.2)
    assert torch.allclose(nt_xent(z2, z1, temperature=0.2), base)
    order = torch.randperm(16)
    assert torch.allclose(nt_xent(z1[order], z2[order], temperature=0.2), base)
    assert not torch.allclose(nt_xent(z1[order], z2, temperature=0.2), base)
    assert torch.allclose(nt_xent(3 * z1, z2, temperature=0.2), base)
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent(a, b, temperature=0.3), (draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_())
    )


def test_nt_xent_of_parts_averages_to_the_whole():
    z1, z2 = draw(8, 5), draw(8, 5, seed=1)
    parts = [nt_xent(z1[i : i + 4], z2[i : i + 4], temperature=0.2, all1=z1, all2=z2, offset=i) for i in (0, 4)]
    assert torch.allclose(sum(parts) / 2, nt_xent(z1, z2, temperature=0.2))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 3, 4, 5)])
def test_mse_and_mae_equal_loops(shape):
    a, b = draw(*shape), draw(*shape, seed=1)
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    assert float(mse(a, b)) == pytest.approx(sum((x - y) ** 2 for x, y in pairs) / len(pairs), abs=1e-12)
    assert float(mae(a, b)) == pytest.approx(sum(abs(x - y) for x, y in pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_ssim_equals_window_by_window(dims):
    g = torch.Generator().manual_seed(0)
    shape = (9, 8, 8)[:dims]
    x, y = (torch.rand(1, 1, *shape, generator=g, dtype=torch.float64) for _ in range(2))
    side = 7  # the window is cut to the smallest side, odd
    w = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * 1.5**2))
    w /= w.sum()
    weight = w
    for _ in range(dims - 1):
        weight = np.multiply.outer(weight, w)
    values = []
    for start in np.ndindex(*[s - side + 1 for s in shape]):
        box = tuple(slice(a, a + side) for a in start)
        a, b = x[0, 0][box].numpy(), y[0, 0][box].numpy()
        ma, mb = (weight * a).sum(), (weight * b).sum()
        va, vb = (weight * (a - ma) ** 2).sum(), (weight * (b - mb) ** 2).sum()
        cov = (weight * (a - ma) * (b - mb)).sum()
        values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert float(ssim_loss(x, y)) == pytest.approx(1 - np.mean(values), abs=1e-9)
    assert float(ssim_loss(x, x)) == pytest.approx(0, abs=1e-9)


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def slow_dice(logits, target):
    losses = []
    for b in range(len(logits)):
        for k in range(logits.shape[1]):
            p = [sigmoid(v) for v in logits[b, k].flatten().tolist()]
            t = target[b, k].flatten().tolist()
            losses.append(1 - (2 * dot(p, t) + 1) / (sum(p) + sum(t) + 1))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 2, 3, 4, 2)])
def test_dice_equals_loops(shape):
    logits, target = draw(*shape), (draw(*shape, seed=1) > 0).double()
    assert float(dice_loss(logits, target)) == pytest.approx(slow_dice(logits, target), abs=1e-12)
    p, t = logits.sigmoid().flatten().tolist(), target.flatten().tolist()
    bce = -sum(math.log(a if b else 1 - a) for a, b in zip(p, t, strict=True)) / len(p)
    assert float(dice_bce(logits, target)) == pytest.approx((slow_dice(logits, target) + bce) / 2, abs=1e-10)


def test_dice_conventions():
    empty = torch.zeros(1, 1, 4, 4)
    assert float(dice_loss(torch.full((1, 1, 4, 4), -40.0), empty)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(torch.full((1, 1, 4, 4), 40.0), empty)) == pytest.approx(1 - 1 / 17, abs=1e-6)
    assert float(dice_loss(torch.full((1, 1, 4, 4), 40.0), empty + 1)) == pytest.approx(0, abs=1e-6)


def test_cosine_distance_equals_loops_and_is_the_distance_of_unit_vectors():
    p, z = draw(5, 7).requires_grad_(), draw(5, 7, seed=1).requires_grad_()
    pairs = [(unit(a), unit(b)) for a, b in zip(p.tolist(), z.tolist(), strict=True)]
    expected = sum(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) for a, b in pairs) / 5
    loss = cosine_distance(p, z)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-12)
    assert torch.allclose(cosine_distance(3 * p, 0.1 * z), loss)
    loss.backward()
    assert z.grad is None, "the target gets no gradient"


def test_soft_cross_entropy_equals_loops():
    target, logits = F.softmax(draw(4, 6), dim=1), draw(4, 6, seed=1)
    total = 0.0
    for t, row in zip(target.tolist(), logits.tolist(), strict=True):
        norm = math.log(sum(math.exp(v) for v in row))
        total -= sum(a * (v - norm) for a, v in zip(t, row, strict=True)) / 4
    assert float(soft_cross_entropy(target, logits)) == pytest.approx(total, abs=1e-12)
    hard = F.one_hot(torch.tensor([0, 3, 5, 1]), 6).double()
    assert torch.allclose(soft_cross_entropy(hard, logits), F.cross_entropy(logits, torch.tensor([0, 3, 5, 1])))


def slow_sinkhorn(scores, epsilon, iterations):
    q = [[math.exp(s / epsilon) for s in column] for column in scores.T.tolist()]  # K x B
    total = sum(map(sum, q))
    k, b = len(q), len(q[0])
    q = [[v / total for v in row] for row in q]
    for _ in range(iterations):
        for row in q:
            share = sum(row)
            row[:] = [v / share / k for v in row]
        for j in range(b):
            share = sum(row[j] for row in q)
            for row in q:
                row[j] = row[j] / share / b
    return torch.tensor([[q[i][j] * b for i in range(k)] for j in range(b)], dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_its_definition(epsilon, iterations):
    scores = draw(9, 4).tanh()
    got = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    assert torch.allclose(got, slow_sinkhorn(scores, epsilon, iterations), atol=1e-12)
    assert torch.allclose(got.sum(1), torch.ones(9, dtype=torch.float64))


def test_sinkhorn_uses_clusters_equally_and_follows_the_samples():
    scores = draw(24, 6).tanh()
    q = sinkhorn(scores, epsilon=0.05, iterations=200)
    assert torch.allclose(q.sum(0), torch.full((6,), 4.0, dtype=torch.float64), atol=1e-6)
    order = torch.randperm(24)
    few = sinkhorn(scores, epsilon=0.05)
    assert torch.allclose(sinkhorn(scores[order], epsilon=0.05), few[order])
    assert torch.allclose(sinkhorn(scores + 7, epsilon=0.05), few)
    single = sinkhorn(scores.float(), epsilon=0.05)
    assert torch.isfinite(sinkhorn(scores.float() * 1000, epsilon=0.05)).all()
    assert torch.allclose(single, few.float(), atol=1e-5)
