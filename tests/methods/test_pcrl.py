"""PCRL against its equations."""

import pytest
import torch
from test_methods import batch_of, blobs, generator, make

from ssl_med.methods.core.branch_views import _beta
from ssl_med.methods.core.transatt import TransAtt


@pytest.mark.parametrize("dims", [2, 3])
def test_outer_product_attention_follows_the_equations(dims):
    """f_q = ReLU(W vec(f_p f_l^T)), weights = sigmoid(f_q), element by element in float64."""
    torch.manual_seed(0)
    c, v = 4, dims + 4
    attention = TransAtt(c, v, spatial_dims=dims, form="paper").double()
    attention.mix = torch.nn.Identity()
    features = torch.randn(3, c, *[4] * dims, dtype=torch.float64)
    indicators = torch.rand(3, v, dtype=torch.float64)
    got = attention(features, indicators)
    w1, b1 = attention.embed[0].weight, attention.embed[0].bias
    w2, b2 = attention.embed[2].weight, attention.embed[2].bias
    for b in range(3):
        f_p = w2 @ torch.relu(w1 @ indicators[b] + b1) + b2
        f_l = torch.stack([features[b, i].mean() for i in range(c)])
        for channel in range(c):
            total = attention.outer.bias[channel].clone()
            for i in range(c):
                for j in range(c):
                    total = total + attention.outer.weight[channel, i * c + j] * f_p[i] * f_l[j]
            expected = features[b, channel] * torch.sigmoid(torch.relu(total))
            assert torch.allclose(got[b, channel], expected, atol=1e-12)


def test_gate_form_depends_on_the_indicator_alone():
    torch.manual_seed(0)
    attention = TransAtt(4, 6, spatial_dims=2, form="gate")
    attention.mix = torch.nn.Identity()
    v = torch.rand(2, 6)
    x = torch.rand(2, 4, 3, 3) + 0.5
    ratio = attention(x, v) / x
    assert torch.allclose(ratio, (attention(x * 3, v) / (x * 3)), atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_targets_are_transforms_of_the_clean_crops_and_their_mix(dims):
    method = make("pcrl", dims, *(["method.rotation_deg=0"] if dims == 3 else []))
    first, second = blobs(4, dims, seed=1), blobs(4, dims, seed=2)
    views = method.views(batch_of(first, second), generator(5))
    mix = views["mix"]
    assert 0 <= float(mix) <= 1
    clean = {"o": first, "m": second, "h": mix * first + (1 - mix) * second}
    for k, crop in clean.items():
        for b in range(4):
            v = views[f"indicator_{k}"][b]
            expected = crop[b]
            for axis in range(dims):
                if v[axis] > 0.5:
                    expected = torch.flip(expected, (1 + axis,))
            expected = torch.rot90(expected, int(v[dims:].argmax()), (1, 2))
            assert torch.allclose(views[f"target_{k}"][b], expected, atol=1e-6)
    assert not torch.equal(views["input_o"], first)


@pytest.mark.parametrize(
    ("words", "present", "absent"),
    [
        (["method.reconstruct=false", "method.crossmix=false"], ["contrast"], ["restore_o", "restore_m", "restore_h"]),
        (["method.transform=none", "method.crossmix=false"], ["restore_o", "restore_m"], ["restore_h"]),
        (["method.transform=flip"], ["restore_h"], []),
        (["method.attention=paper"], ["restore_h"], []),
    ],
)
def test_ablations_are_configs(words, present, absent):
    method = make("pcrl", 3, *words)
    terms = method.losses(batch_of(blobs(4, 3)), generator(0))
    assert all(key in terms for key in present)
    assert not any(key in terms for key in absent)
    assert hasattr(method, "attention") == ("method.transform=none" not in words and "restore_o" not in absent)


def test_loss_is_half_contrast_plus_half_the_sum_of_squared_errors():
    method = make("pcrl", 3)
    terms = method.losses(batch_of(blobs(4, 3)), generator(0))
    expected = 0.5 * terms["contrast"] + 0.5 * sum(terms[f"restore_{k}"] for k in "omh")
    assert torch.allclose(terms["loss"], expected)


def test_momentum_branch_gets_no_gradient_and_follows_the_student():
    method = make("pcrl", 3)
    before = [p.clone() for p in method.teacher.parameters()]
    method.losses(batch_of(blobs(4, 3)), generator(0))["loss"].backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1.0)
    method.after_step()
    moved = [(a - b).abs().max() for a, b in zip(method.teacher.parameters(), before, strict=True)]
    backbone_parameters = len(list(method.backbone.parameters()))
    assert all(abs(float(m) - 0.1) < 1e-5 for m in moved[:backbone_parameters])  # 1 - momentum of this test


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_mixing_weight_is_beta_distributed(alpha):
    g = generator(0)
    draws = torch.stack([_beta(alpha, g, torch.zeros(1)) for _ in range(4000)])
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
