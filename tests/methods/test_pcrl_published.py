"""PCRL as the paper and as the official code have it, against loops in float64."""

import math

import pytest
import torch
from test_methods import SIZE, batch_of, blobs, generator, make

from ssl_med.methods.pcrl import PAIR_SCALES_3D
from ssl_med.spec import SslMedError


def views_of(*words, dims=2, images=4, name="pcrl", seed=0):
    """Views of a method in float64, its first and second crops, and the method in training."""
    method = make(name, dims, *words).double().train()
    first, second = (blobs(images, dims, seed=s).double() for s in (1, 2))
    return method, first, second, doubled(method.views(batch_of(first, second), generator(seed)))


def doubled(views):
    return {key: x.double() if x.is_floating_point() else x for key, x in views.items()}


def transformed(crop, v):
    """T of one crop (C, *S) by its indicator v: mirrored axes, then quarter turns."""
    dims = crop.ndim - 1
    for axis in range(dims):
        crop = crop.flip(1 + axis) if v[axis] else crop
    return torch.rot90(crop, int(v[dims:].argmax()), (1, 2))


def mixed(share, one, other):
    return share * one + (1 - share) * other


# ------------------------------------------------------------------------------------------------------------ views


@pytest.mark.parametrize("dims", [2, 3])
def test_targets_of_the_official_code_transform_the_input_and_are_mixed_afterwards(dims):
    _, _, _, views = views_of(dims=dims, name="pcrl/code")
    for b in range(4):
        shown = {k: transformed(views[f"input_{k}"][b], views[f"indicator_{k}"][b]) for k in "om"}
        shown["h"] = mixed(views["mix"], shown["o"], shown["m"])
        for k, expected in shown.items():
            assert torch.allclose(views[f"target_{k}"][b], expected, atol=1e-12)
    assert "indicator_h" not in views
    assert min(views["mix"], views["share"], views["mixed_mix"]) >= 0.5


@pytest.mark.parametrize("target", ["clean", "corrupted"])
def test_mixtures_are_of_an_image_and_its_partner(target):
    words = ["method.mixup=true", f"method.target={target}"]
    _, first, second, views = views_of(*words)
    share, partner = views["share"], views["partner"].tolist()
    assert sorted(partner) == [0, 1, 2, 3]
    clean = {}
    for k, crops in (("o", first), ("m", second)):
        for b in range(4):
            x = views[f"input_{k}"]
            assert torch.allclose(views[f"mixed_{k}"][b], mixed(share, x[b], x[partner[b]]), atol=1e-12)
        clean[k] = torch.stack([mixed(share, crops[b], crops[partner[b]]) for b in range(4)])
    assert torch.allclose(views["target_mixed_o"], clean["o"], atol=1e-12)  # clean, whatever the other targets are
    expected = mixed(views["mixed_mix"], clean["o"], clean["m"])
    assert torch.allclose(views["target_mixed_h"], expected, atol=1e-12)


@pytest.mark.parametrize(("dims", "axes"), [(2, (3,)), (3, (2, 3, 4))])
def test_crops_are_mirrored_before_they_are_corrupted(dims, axes):
    words = ["method.mirror=1", "method.transform=none", *(["method.rotation_deg=0"] if dims == 3 else [])]
    _, first, second, views = views_of(*words, dims=dims)
    assert torch.equal(views["target_o"], first.flip(axes))
    assert torch.equal(views["target_m"], second.flip(axes))


def test_crops_are_rotated_by_at_most_the_angle_before_they_are_corrupted():
    """A ramp that has been rotated by an angle rises in the direction of that angle."""
    method = make("pcrl", 2, "method.rotation_deg_2d=10", "method.transform=none").double()
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).view(1, 1, 32, 1).expand(64, 1, 32, 32)
    target = method.views(batch_of(ramp), generator())["target_o"][:, 0]
    down, right = target[:, 16, 16] - target[:, 15, 16], target[:, 16, 16] - target[:, 16, 15]
    angle = torch.atan2(right, down) * 180 / math.pi
    assert angle.abs().max() < 10
    assert angle.std() == pytest.approx(20 / 12**0.5, rel=0.25)  # uniform


@pytest.mark.parametrize("dims", [2, 3])
def test_the_papers_corruption_paints_and_blurs_alone(dims):
    """A grey image is its own blur, so that all that changes is painted; the official 2D corruption cuts holes of 0."""
    grey = torch.full((32, 1, *SIZE[dims]), 0.5)
    paper = make("pcrl", dims, "method.corruption=paper", "method.paint=1")
    changed = ((paper.corrupt(grey, generator()) - 0.5).abs() > 1e-4).flatten(1).double().mean(1)
    assert changed.max() < 1
    assert 0.6 < (changed > 0.3).double().mean() < 1  # four in five are painted outside of boxes, the others inside
    paper.config.paint = 0
    assert torch.allclose(paper.corrupt(grey, generator()), grey, atol=1e-6)
    if dims == 2:
        assert (make("pcrl", 2).corrupt(grey, generator()) == 0).flatten(1).any(1).all()


def test_pairs_of_the_official_code_have_sizes_of_their_own():
    equal, own = (make(name, 3) for name in ("pcrl", "pcrl/code"))
    assert equal.need(equal.config, equal.spec).equal_pairs
    need = own.need(own.config, own.spec)
    assert not need.equal_pairs
    sides = [
        [round(scale * side) for scale, side in zip(scales, (64, 64, 32), strict=True)] for scales in need.pair_scales
    ]
    assert sides == [[64, 64, 32], [96, 96, 48], [96, 96, 96], [32, 32, 16], [112, 112, 64]]
    assert [round(112 / 64, 2), round(56 / 32, 2)] == [PAIR_SCALES_3D[-1][0], PAIR_SCALES_3D[-1][2]]


# ------------------------------------------------------------------------------------------------------------ losses


class Ring:
    """A queue as a list of keys: the first push fills it with its keys again and again."""

    def __init__(self, queue):
        self.keys, self.next, self.begun = list(queue.keys.T.clone()), 0, False

    def push(self, keys):
        if not self.begun:
            self.keys, self.begun = [keys[i % len(keys)] for i in range(len(self.keys))], True
        for key in keys:
            self.keys[self.next] = key
            self.next = (self.next + 1) % len(self.keys)


def unit(x):
    return torch.stack([row / row.norm() for row in x])


def gates(attention, features, v):
    """Equations 1 to 3 sample by sample, or the gate of the indicator alone."""
    rows = []
    for f, one in zip(features, v, strict=True):
        first, _, last = attention.embed
        w = last.weight @ torch.relu(first.weight @ one.double() + first.bias) + last.bias
        if attention.outer is not None:
            pooled = torch.stack([channel.mean() for channel in f])
            outer = torch.stack([p * q for p in w for q in pooled])
            w = torch.relu(attention.outer.weight @ outer + attention.outer.bias)
        rows.append(torch.stack([channel * torch.sigmoid(x) for channel, x in zip(f, w, strict=True)]))
    return torch.stack(rows)


def attended(method, pyramid, v):
    return [*pyramid[:-1], method.attention.mix(gates(method.attention, pyramid[-1], v))]


def info_nce(q, k, keys, tau):
    total = 0
    for one, own in zip(q, k, strict=True):
        down = torch.exp(one @ own / tau) + sum(torch.exp(one @ key / tau) for key in keys)
        total = total - torch.log(torch.exp(one @ own / tau) / down)
    return total / len(q)


def nce(q, k, keys, tau, z):
    """With P = exp(.) / (n z) and noise 1 / n of any n: the official loss without its 1e-5."""
    n, total = 1000, 0
    noise = len(keys) / n
    for one, own in zip(q, k, strict=True):
        p = torch.exp(one @ own / tau) / (n * z)
        total = total - torch.log(p / (p + noise))
        for key in keys:
            p = torch.exp(one @ key / tau) / (n * z)
            total = total - torch.log(noise / (p + noise))
    return total / len(q)


def squared(x, y):
    return sum((a - b) ** 2 for a, b in zip(x.flatten(), y.flatten(), strict=True)) / x.numel()


@pytest.mark.parametrize("dims", [pytest.param(2), pytest.param(3, marks=pytest.mark.slow)])
def test_the_papers_loss_and_queue(dims):
    """Eq. 4 to 8, with the positive in the denominator; the keys of the three branches are pushed after the step."""
    method, _, _, views = views_of(dims=dims, name="pcrl/paper", images=2)
    ring, tau = Ring(method.queue), 0.2
    with torch.no_grad():
        got = method.terms(views)
        ordinary = method.backbone(views["input_o"])
        momentum, _ = method.teacher(views["input_m"])
        hybrid = [mixed(views["mix"], o, m) for o, m in zip(ordinary, momentum, strict=True)]
        plain = {"o": ordinary, "m": momentum, "h": hybrid}
        found = {k: attended(method, x, views[f"indicator_{k}"]) for k, x in plain.items()}
        pooled = {k: x[-1].flatten(2).mean(2) for k, x in found.items()}
        q = unit(method.projector(pooled["o"]))
        k, h = (unit(method.teacher.module.projector(pooled[key])) for key in "mh")
        contrast = info_nce(q, k, ring.keys, tau)
        shown = method.head(method.decoder([torch.cat(level) for level in zip(*found.values(), strict=True)])).chunk(3)
        errors = [squared(x, views[f"target_{key}"]) for key, x in zip("omh", shown, strict=True)]
    assert got["contrast"] == pytest.approx(float(contrast), rel=1e-9)
    assert float(got["loss"]) == pytest.approx(float(0.5 * contrast + 0.5 * sum(errors)), rel=1e-9)
    ring.push(torch.cat([k, q, h]))
    assert torch.allclose(method.queue.keys.T, torch.stack(ring.keys), atol=1e-9)


@pytest.mark.parametrize("dims", [pytest.param(2), pytest.param(3, marks=pytest.mark.slow)])
def test_the_official_codes_loss_and_queue_in_two_steps(dims):
    """Three contrasts, each key pushed as soon as it is made; four errors; the constant of NCE stays that of the first step."""
    method, first, second, _ = views_of(dims=dims, name="pcrl/code", images=2)
    ring, tau, z = Ring(method.queue), 0.2, None
    for step in range(2):
        views = doubled(method.views(batch_of(first, second), generator(step)))
        with torch.no_grad():
            got = method.terms(views)
            student, (momentum, key) = method.backbone(views["input_o"]), method.teacher(views["input_m"])
            again, (momentum_again, key_again) = method.backbone(views["mixed_o"]), method.teacher(views["mixed_m"])
            q, q_mix = (unit(method.projector(x[-1].flatten(2).mean(2))) for x in (student, again))
            k = unit(key)
            other = torch.stack([k[j] for j in views["partner"].tolist()])
            all_keys = {"": k, "_mix": unit(key_again), "_features": unit(mixed(views["share"], k, other))}
            if z is None:
                logits = [one @ x for one, own in zip(q, k, strict=True) for x in (own, *ring.keys)]
                z = sum(torch.exp(x / tau) for x in logits) / len(logits)
            contrasts = []
            for name, keys in all_keys.items():
                contrasts.append(nce(q_mix if name else q, keys, ring.keys, tau, z))
                ring.push(keys)
                assert float(got[f"contrast{name}"]) == pytest.approx(float(contrasts[-1]), rel=1e-9)
            plain, other = (attended(method, x, views[f"indicator_{k}"]) for k, x in (("o", student), ("m", momentum)))
            alpha = [mixed(views["mix"], a, b) for a, b in zip(plain, other, strict=True)]
            alpha_again = [mixed(views["mixed_mix"], a, b) for a, b in zip(again, momentum_again, strict=True)]
            errors = []
            for pair, names in (((plain, alpha), ("o", "h")), ((again, alpha_again), ("mixed_o", "mixed_h"))):
                out = method.head(method.decoder([torch.cat(level) for level in zip(*pair, strict=True)])).chunk(2)
                errors += [squared(x, views[f"target_{name}"]) for x, name in zip(out, names, strict=True)]
        expected = sum(contrasts) / 3 + sum(errors) / 4
        assert float(got["loss"]) == pytest.approx(float(expected), rel=1e-9)
        assert torch.allclose(method.queue.keys.T, torch.stack(ring.keys), atol=1e-9)
    assert float(method.mean) == pytest.approx(float(z), rel=1e-9)


def test_the_official_gate_multiplies_and_does_nothing_more():
    method = make("pcrl/code", 2)
    assert isinstance(method.attention.mix, torch.nn.Identity)
    assert method.attention.outer is None


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_outer_product_of_too_many_channels_is_refused():
    line = r"^method.attention=paper holds C\^3 weights, 0.5 billion for the 768 channels of this"
    with pytest.raises(SslMedError, match=line) as told:
        make("pcrl/paper", 2, "backbone.channels=[8,8,768]")
    assert "\n" not in str(told.value)
    assert "method.attention=gate" in str(told.value)


def test_further_keys_without_further_contrasts_are_refused():
    with pytest.raises(SslMedError, match=r"method.push=contrasts needs further contrasts: set method.mixup=true or"):
        make("pcrl", 2, "method.push=contrasts")


@pytest.mark.parametrize(
    ("dims", "words", "reason"),
    [
        (2, ["method.paint=0.5"], "the data are 2D"),
        (2, ["method.pair_sizes=independent"], "the data are 2D"),
        (3, ["method.rotation_deg_2d=5"], "the data are 3D"),
        (3, ["method.corruption=paper", "method.shuffle=0.2"], "method.corruption is paper"),
        (2, ["method.transform=none", "method.contrast_after=true"], "method.transform is none"),
        (2, ["method.crossmix=false", "method.hybrid=mixed"], "method.crossmix is false"),
        (2, ["method.crossmix=false", "method.lambda_fold=true"], "method.crossmix is false"),
        (
            2,
            ["method.crossmix=false", "method.reconstruct=false", "method.target=corrupted"],
            "method.reconstruct is false",
        ),
        (
            2,
            ["method.crossmix=false", "method.reconstruct=false", "method.restore_momentum=false"],
            "reconstruct is false",
        ),
    ],
)
def test_settings_without_an_effect_are_refused(dims, words, reason):
    with pytest.raises(SslMedError, match=rf"{words[-1].replace('.', '[.]')} has no effect, since .*{reason}"):
        make("pcrl", dims, *words)
