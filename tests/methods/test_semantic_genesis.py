"""Semantic Genesis: who is near whom, what is classified, and that positions and groups of patients are learned."""

import math

import numpy as np
import pytest
import torch
from test_methods import batch_of, blobs, generator, make, step

from datamodules.core.intensity import TOP
from datamodules.core.positions import position_crop, thumbnail
from ssl_med.methods.semantic_genesis import Discovery, SemanticGenesisConfig
from ssl_med.spec import Positions, SslMedError


def discovery(neighbours, memory):
    torch.manual_seed(0)
    part = Discovery(1, (16, 16), neighbours=neighbours, memory=memory, norm="batch")
    part.start()
    return part


def unit(count, seed):
    return torch.nn.functional.normalize(torch.randn(count, 128, generator=generator(seed)), dim=1)


@pytest.mark.parametrize(("found", "neighbours"), [(40, 0.32), (25, 0.5), (40, 1.0), (3, 0.4), (1, 0.1)])
def test_near_means_among_the_nearest_share_of_the_known_scans(found, neighbours):
    part = discovery(neighbours, 40)
    part.descriptors.copy_(unit(40, 0))
    part.found.fill_(found)
    scans, classes = unit(30, 2), torch.arange(30) % 5
    got = part.near(scans, classes)
    known = part.descriptors[:found].tolist()
    for b in range(30):
        reference = part.descriptors[int(classes[b]) % found].tolist()
        limit = sorted(math.dist(v, reference) for v in known)[math.ceil(neighbours * found) - 1]
        assert bool(got[b]) == (math.dist(scans[b].tolist(), reference) <= limit)


def test_all_are_near_before_anything_is_known():
    assert discovery(0.3, 16).near(unit(6, 0), torch.tensor([0, 1, 2, 3, 0, 1])).all()


def test_the_first_different_scans_are_remembered():
    part, owners = discovery(0.5, 5), []
    scans = torch.randint(256, (10, 1, 16, 16), dtype=torch.uint8, generator=generator(0))
    for cases in ([7, 7, 2], [2, 9, 7], [4, 4, 4], [1, 0, 9], [3, 1, 5]):
        part.remember(scans[cases], part.describe(scans[cases]), torch.tensor(cases))
        owners += [case for case in dict.fromkeys(cases) if case not in owners][: 5 - len(owners)]
        assert part.owners.tolist() == owners + [-1] * (5 - len(owners))
        assert int(part.found) == len(owners)
        assert torch.equal(part.scans[: len(owners)], scans[owners])
        assert torch.allclose(part.descriptors[: len(owners)], part.describe(scans[owners]), atol=1e-6)
    assert owners == [7, 2, 9, 4, 1]


def test_descriptors_are_renewed_together_every_so_many_steps():
    method = make("semantic_genesis", 2, "method.renew=3")
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    part, batch = method.discovery, batch_of(blobs(6, 2))
    scan = (batch["scan"] * 255).round().to(torch.uint8)
    for s in range(6):
        before = part.descriptors.clone()
        step(method, optimizer, batch, s)
        assert torch.allclose(part.descriptors[:6], part.describe(scan), atol=1e-6), "one encoder for all"
        renewed = not torch.equal(part.descriptors, before)
        assert renewed is (s == 0 or s % 3 == 2)
        assert torch.equal(next(part.describer.parameters()), next(part.encoder.parameters())) is (s % 3 == 2)


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_terms_follow_their_formulas(dims):
    method = make("semantic_genesis", dims, "method.neighbours=0.4", laptop=False).double()
    method.train()
    views = method.views(batch_of(blobs(6, dims)), generator(0))
    views = {k: v.double() for k, v in views.items()}
    for _ in range(3):
        method.terms(views)  # something to remember
    method.eval()
    terms = {k: v.detach() for k, v in method.terms(views).items()}
    pyramid = method.backbone(views["input"])
    logits = method.classifier(method.widen(pyramid[-1]).flatten(2).mean(2))
    small = (views["scan"] * 255).round().to(torch.uint8)
    near = method.discovery.near(method.discovery.describe(small), views["instance"].long())
    assert 0 < int(near.sum()) < 6
    losses = []
    for row, label, counts in zip(logits.tolist(), views["instance"].long().tolist(), near.tolist(), strict=True):
        if counts:
            losses.append(math.log(sum(math.exp(v) for v in row)) - row[label])
    assert float(terms["classify"]) == pytest.approx(sum(losses) / len(losses), rel=1e-9)
    assert float(terms["near"]) == pytest.approx(len(losses) / 6)
    scan = method.discovery(views["scan"])
    assert float(terms["discover"]) == pytest.approx(float((scan - views["scan"]).square().mean().detach()), rel=1e-9)
    expected = terms["restore"] + 0.01 * terms["classify"] + terms["discover"]
    assert float(terms["loss"]) == pytest.approx(float(expected), rel=1e-12)
    hits = (logits.argmax(1) == views["instance"])[near].double().mean()
    assert float(terms["metric"]) == pytest.approx(float(hits))
    assert float(terms["baseline"]) == 1 / 8


def test_every_image_gets_one_corruption_and_the_target_none():
    method, images = make("semantic_genesis", 2), torch.rand(64, 1, 32, 32, generator=generator(1))
    views = method.views(batch_of(images), generator(0))
    assert torch.equal(views["target"], images)
    changed = (views["input"] != images).flatten(1).float().mean(1)
    # painted outside, shuffled or mapped: most of it; painted inside: a little, or nothing in one of twenty
    assert int((changed > 0.3).sum()) > 32
    assert int((changed < 0.3).sum()) > 6
    bent = make("semantic_genesis", 2, "method.elastic=3").views(batch_of(images), generator(0))
    assert torch.equal(bent["target"], images), "the target is the image before the deformation"
    assert not torch.equal(bent["input"], views["input"])


@pytest.mark.parametrize(("dims", "share", "border"), [(2, 0.5, 0.0), (3, 0.0, 0.2)])
def test_it_asks_the_loader_for_positions(dims, share, border):
    method = make("semantic_genesis", dims)
    wanted = method.need(method.config, method.spec).positions
    assert (wanted.count, wanted.thumbnail) == (8, (16,) * dims)
    assert (wanted.share, wanted.border) == (share, border)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("memory", 43, "method.memory is 43; it must hold a reference for each"),
        ("thumbnail", 20, "multiple of 8"),
    ],
)
def test_refusals_are_one_line_that_names_the_key(key, value, message):
    with pytest.raises(SslMedError, match=message) as error:
        SemanticGenesisConfig(**{key: value})
    assert "\n" not in str(error.value)


def patients(count, dims, seed):
    """Scans of two builds, dim and bright: they brighten along the first axis, and waves grow along the second."""
    rng = np.random.default_rng(seed)
    side = 48 if dims == 2 else 28
    scans = []
    for k in range(count):
        axes = np.meshgrid(*[np.linspace(0, 1, side)] * dims, indexing="ij")
        waves = np.sin(40 * axes[0] + rng.uniform(0, 6)) * axes[1]
        image = (0.1 if k % 2 == 0 else 0.35) + 0.4 * axes[0] + 0.2 * waves + 0.15 * axes[-1]
        scans.append(np.rint((image + rng.normal(0, 0.02, image.shape)).clip(0, 1) * TOP).astype(np.uint16)[None])
    return scans


def draw(scans, wanted, patch, rng, count):
    chosen = rng.integers(len(scans), size=count)
    samples = [position_crop(scans[k], rng, positions=wanted, patch=patch) for k in chosen]
    return {
        "image": torch.stack([s["image"] for s in samples]),
        "instance": torch.tensor([s["instance"] for s in samples]),
        "scan": torch.stack([thumbnail(scans[k], wanted.thumbnail) for k in chosen]),
        "case": torch.from_numpy(chosen),
        "index": torch.arange(count),
    }


@pytest.mark.long
def test_it_finds_groups_of_patients_and_names_positions_in_unseen_ones():
    torch.manual_seed(0)
    dims, patch = 2, (32, 32)
    words = ["method.neighbours=0.5", "method.classify_weight=0.1", "method.renew=20"]
    method = make("semantic_genesis", dims, *words)
    wanted = method.need(method.config, method.spec).positions
    wanted = Positions(8, wanted.thumbnail, share=0.5, jitter=0.05)
    train, test, rng = patients(24, dims, seed=1), patients(24, dims, seed=2), np.random.default_rng(0)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for s in range(160):
        step(method, optimizer, draw(train, wanted, patch, rng, 16), s)
    method.eval()
    with torch.no_grad():
        terms = method.losses(draw(test, wanted, patch, rng, 128), generator(0))
        small = torch.stack([thumbnail(scan, wanted.thumbnail) for scan in train])
        described = method.discovery.describe((small * 255).round().to(torch.uint8))
        near = torch.stack([method.discovery.near(described, torch.full((24,), c)) for c in range(8)])
    assert float(terms["metric"]) > 2 / 8, "chance is 1/8"  # measured: 0.44
    same = method.discovery.owners[:8, None] % 2 == torch.arange(24)[None] % 2  # even numbers are of one build
    assert float((near == same).float().mean()) > 0.85
