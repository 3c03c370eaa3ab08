"""One sweep over every method in its dimensions: declares itself, builds from its yaml, trains, replays, resumes, travels.

What the pretext tasks learn is the subject of test_learning.py.
"""

import copy
import inspect
import re
from dataclasses import replace

import pytest
import torch

from experiments.config.run import compose_pretrain
from experiments.config.sources import method_class_of, names, presets
from ssl_med.checkpoint import Card, load_backbone, save_backbone
from ssl_med.config import to_plain
from ssl_med.evaluation.metrics import METRICS, UNRATED, metric_of
from ssl_med.methods.core.about import FAMILIES
from ssl_med.methods.core.measures import collapse
from ssl_med.spec import SslMedError

SIZE = {2: (32, 32), 3: (16, 16, 16)}
DATA = {2: "chest14", 3: "lits"}
# what one step needs to be quick and to pass through every branch, where that is less than a short run on a laptop needs
SMALL = {
    "byol": ["method.hidden_dim=64", "method.out_dim=32"],
    "c2l": ["method.queue=64", "method.momentum=0.9"],
    "deep_cluster": ["method.every=1", "method.clusters=16"],
    "deep_cluster/v2": ["method.every=1", "method.clusters=16", "method.hidden_dim=64"],
    "dino": [
        "method.hidden_dim=64",
        "method.bottleneck=32",
        "method.out_dim=64",
        "method.freeze_steps=1",
        "method.small_crops=2",
    ],
    "moco": ["method.queue=64", "method.momentum=0.9"],
    "pcrl": ["method.queue=64", "method.momentum=0.9", "method.out_dim=32"],
    "semantic_genesis": ["method.classes=8", "method.memory=16", "method.thumbnail=16"],
    "simclr": ["method.hidden_dim=64"],
    "simsiam": ["method.out_dim=64", "method.bottleneck=16"],
    "swav": [
        "method.hidden_dim=64",
        "method.prototypes=16",
        "method.freeze_steps=1",
        "method.queue=8",
        "method.queue_from=0",
        "method.small_crops=2",
    ],
}
CLASSES = {name: method_class_of(name) for name in names("method")}
SWEEP = [pytest.param(name, dims, id=f"{name}-{dims}d") for name, found in CLASSES.items() for dims in found.dims]


def make(name, dims, *words, norm="batch", small=SMALL, laptop=True):
    """A method, or a preset of it, at the settings of a laptop; with `laptop=False` at those of its paper."""
    family = name.partition("/")[0]
    own = small.get(name, small.get(family, []))
    given = {word.partition("=")[0] for word in words}
    given |= {"method.queue_from"} if "method.queue=0" in words else set()  # it would have no effect
    config = compose_pretrain(
        [
            f"method={name}",
            f"data={DATA[dims]}",
            *(["trainer=cpu"] if laptop else []),
            f"data.patch_size={str(list(SIZE[dims])).replace(' ', '')}",
            "backbone.name=unet",
            f"backbone.norm={norm}",
            *(word for word in ["backbone.channels=[8,16,32]", *own] if word.partition("=")[0] not in given),
            *words,
        ]
    )
    torch.manual_seed(0)
    spec = replace(config.spec, in_channels=channels_of(family))
    return config.method_class(config.method, spec=spec, backbone=config.backbone, optim=config.optim, batch_size=8)


def channels_of(name):
    """Modalities that the method needs at least."""
    return CLASSES[name].min_channels


@pytest.fixture
def build(name, dims):
    """`make` for the method of a sweep."""
    return lambda *words, **options: make(name, dims, *words, **options)


def blobs(n, dims, seed=0, channels=1):
    """Smooth images in [0, 1], each with its own few bright and dark blobs: structure that a pretext task can learn.

    Every second channel shows the same blobs with inverted contrast, as another modality would.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, s) for s in SIZE[dims]], indexing="ij")
    image = torch.zeros(n, 1, *SIZE[dims])
    for _ in range(6):
        centre = torch.rand(n, dims, generator=generator) * 1.6 - 0.8
        width = torch.rand(n, generator=generator) * 0.3 + 0.15
        height = torch.rand(n, generator=generator) * 2 - 0.8
        distance = sum((a[None] - centre[:, i].view(-1, *[1] * dims)) ** 2 for i, a in enumerate(axes))
        image[:, 0] += height.view(-1, *[1] * dims) * torch.exp(-distance / width.view(-1, *[1] * dims) ** 2)
    image = (0.3 + 0.3 * image).clamp(0, 1)  # one background level: an intensity map cannot be undone without it
    return torch.cat([1 - image if c % 2 else image for c in range(channels)], 1)


def batch_of(images, second=None):
    n = len(images)
    batch = {"image": images, "id": [f"s{i}" for i in range(n)], "index": torch.arange(n)}
    positions = {"instance": brightest_corner(images), "scan": shrunk(images), "case": torch.arange(n)}
    return batch | positions | {"image2": images.clone() if second is None else second}


def brightest_corner(images):
    """(n,): which of the 2^D corners of an image is the brightest; a position that a network can learn to name."""
    halves = torch.nn.functional.interpolate(images.mean(1, keepdim=True), size=[2] * (images.ndim - 2), mode="area")
    return halves.flatten(1).argmax(1)


def shrunk(images):
    return torch.nn.functional.interpolate(images, size=[16] * (images.ndim - 2), mode="area")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def step(method, optimizer, batch, seed):
    method.train()
    terms = method.losses(batch, generator(seed))
    optimizer.zero_grad()
    terms["loss"].backward()
    optimizer.step()
    method.after_step()
    return float(terms["loss"].detach())


def check_directions(method, terms):
    """Of every logged value it is known whether higher or lower is better, or that neither is."""
    for key in {method.metric.name, *terms} - {"features", "pair", "metric", "baseline"}:
        assert key in UNRATED or metric_of(f"val/{key}").name == key
    assert method.metric is METRICS[method.metric.name]


@pytest.mark.parametrize("name", CLASSES)
def test_a_method_declares_itself(name):
    """Its row in docs/methods.md is written from what it declares; its file cites the same paper in full."""
    found = CLASSES[name]
    assert "paper" in vars(found), "each method names its own paper"
    paper, text = found.paper, " ".join(inspect.getmodule(found).__doc__.split())
    authors, title, venue = map(re.escape, (paper.authors, paper.title, paper.venue))
    assert re.search(rf'{authors}, "{title}",.*?{venue}.*?{paper.year}', text)
    assert found.family
    assert set(found.family) <= set(FAMILIES)
    assert found.dims
    assert set(found.dims) <= {2, 3}


@pytest.mark.parametrize("name", CLASSES)
def test_a_new_method_is_ready_to_train(name):
    """Lightning trains in the modes that it finds, so they are those of `train()` from the start."""
    method = make(name, CLASSES[name].dims[0])
    assert (method.decoder is not None) is method.needs_decoder
    found = {key: part.training for key, part in method.named_modules()}
    assert found == {key: part.training for key, part in method.train().named_modules()}


def test_a_method_refuses_dimensions_that_it_does_not_declare():
    class Volumes(CLASSES["rotation"]):
        dims = (3,)

    spec = make("rotation", 2).spec
    with pytest.raises(SslMedError) as refused:
        Volumes(spec=spec)
    line = "data 'chest14' has 2D images; Volumes works in 3D only: choose other data or another method"
    assert str(refused.value) == line


@pytest.mark.parametrize("name", [n for n in names("method") if channels_of(n) > 1])
def test_a_method_of_several_modalities_refuses_fewer(name):
    config = compose_pretrain([f"method={name}", "data=lits"])
    options = {"spec": config.spec, "backbone": config.backbone, "optim": config.optim, "batch_size": 8}
    with pytest.raises(SslMedError, match=r"needs at least \d+: .*data\.modalities"):
        config.method_class(config.method, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dims"), [(p, d) for p in presets() for d in CLASSES[p.partition("/")[0]].dims])
def test_every_preset_takes_a_step(name, dims):
    method = make(name, dims)
    terms = method.losses(batch_of(blobs(4, dims, channels=method.spec.in_channels)), generator(1))
    assert torch.isfinite(terms["loss"])
    check_directions(method, terms)
    terms["loss"].backward()
    lost = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost, f"no gradient reaches {lost}: DDP would hang"


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_a_step_is_finite_replayable_and_reaches_every_weight(name, dims, build):
    method = build()
    method.before_epoch()
    full = batch_of(blobs(4, dims, channels=method.spec.in_channels))
    batch = {key: full[key] for key in method.batch_keys}  # all that a loader must give
    before = copy.deepcopy(batch)
    state = copy.deepcopy(method.state_dict())
    terms = method.losses(batch, generator(1))
    check_directions(method, terms)
    assert terms["loss"].ndim == 0
    assert torch.isfinite(terms["loss"])
    assert terms["features"].shape == (4, method.backbone.out_channels)
    assert not terms["features"].requires_grad
    for key in ("metric", "baseline"):
        assert terms[key].ndim == 0
        assert torch.isfinite(terms[key])
        assert not terms[key].requires_grad
    if "pair" in terms:
        assert terms["pair"].shape[:2] == (2, 4)
        assert not terms["pair"].requires_grad
        assert torch.allclose(terms["pair"].norm(dim=-1), torch.ones(2, 4), atol=1e-4)
    terms["loss"].backward()
    lost = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost, f"no gradient reaches {lost}: DDP would hang"
    for key, value in before.items():
        assert torch.equal(batch[key], value), "the batch was changed in place"
    method.load_state_dict(state)
    assert torch.equal(method.losses(batch, generator(1))["loss"], terms["loss"])
    method.load_state_dict(state)
    assert not torch.equal(method.losses(batch, generator(2))["loss"], terms["loss"])


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_views_do_not_depend_on_the_rest_of_the_step(name, dims, build):
    """`terms` is deterministic: the same views twice give the same loss."""
    method = build()
    method.before_epoch()
    with torch.no_grad():
        views = method.views(batch_of(blobs(4, dims, channels=method.spec.in_channels)), generator(3))
    assert not any(v.requires_grad for v in views.values())
    method.eval()  # no queue or statistics update in between
    assert torch.equal(method.terms(views)["loss"], method.terms(views)["loss"])


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_backbone_travels(name, dims, build, tmp_path):
    method = build()
    card = Card(
        method=name,
        method_config=to_plain(method.config),
        backbone=to_plain(method.backbone_config),
        spec=method.spec.to_dict(),
        skips=method.decoder.skips if method.decoder is not None else None,
        steps=0,
        seed=0,
        versions={},
        git="",
        subjects=(),
    )
    path = tmp_path / "backbone.safetensors"
    save_backbone(path, backbone=method.backbone, decoder=method.decoder, card=card)
    channels = method.spec.in_channels
    backbone, decoder, loaded, report = load_backbone(
        path, in_channels=channels, with_decoder=method.decoder is not None
    )
    assert loaded == card
    assert report.complete
    method.eval(), backbone.eval()
    x = blobs(2, dims, channels=channels)
    for mine, theirs in zip(method.backbone(x), backbone(x), strict=True):
        assert torch.equal(mine, theirs)
    if method.decoder is not None:
        method.decoder.eval(), decoder.eval()
        assert torch.equal(method.decoder(method.backbone(x)), decoder(backbone(x)))


@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(*p.values, id=p.id, marks=pytest.mark.slow if p.values[1] == 3 else ()) for p in SWEEP],
)
def test_state_resumes_exactly(name, dims, build):
    """Weights, teacher, queue, bank, prototypes, counters: four steps in one go equal one and three with a save and a load
    in between, an epoch's end included."""
    images = blobs(4, dims, channels=channels_of(name))

    def run(method, optimizer, steps):
        losses = []
        for s in steps:
            if s % 2 == 0:
                method.before_epoch()
            losses.append(step(method, optimizer, batch_of(images), s))
        return losses

    whole = build()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    expected = run(whole, optimizer, range(4))
    first = build()
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9)
    run(first, optimizer, range(1))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = build()
    torch.nn.init.zeros_(next(iter(second.backbone.parameters())))
    second.load_state_dict(saved[0])
    optimizer = torch.optim.SGD(second.parameters(), lr=0.05, momentum=0.9)
    optimizer.load_state_dict(saved[1])
    assert run(second, optimizer, range(1, 4)) == expected[1:]
    state = whole.state_dict()
    assert state.keys() == second.state_dict().keys()
    for key, value in second.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_collapse_monitor_tells_collapsed_from_isotropic():
    torch.manual_seed(0)
    isotropic = collapse(torch.randn(256, 16))
    assert float(isotropic["collapse/feature_std"]) == pytest.approx(1.0, abs=0.05)
    assert float(isotropic["collapse/effective_rank"]) > 15
    line = collapse(torch.randn(256, 1) * torch.randn(1, 16) + 3)
    assert float(line["collapse/effective_rank"]) < 1.1
    point = collapse(torch.ones(256, 16))
    assert float(point["collapse/feature_std"]) < 1e-5


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_standardised_images_are_seen_as_they_are_or_refused(name, dims):
    """A method that takes any intensities makes the same views of an image and of its affine map, mapped."""
    if not CLASSES[name].any_intensity:
        with pytest.raises(SslMedError, match=r"data.normalisation=zscore: \w+ needs intensities in \[0, 1\]; set"):
            make(name, dims, "data.normalisation=zscore")
        return
    raw = ["method.standardize=false"] if hasattr(CLASSES[name].Config(), "standardize") else []
    method = make(name, dims, "data.normalisation=zscore", *raw)
    images = blobs(4, dims, channels=channels_of(name))
    one, other = (method.views(batch_of(x), generator()) for x in (images, 5 * images - 2))
    assert one.keys() == other.keys()
    labels = [key for key, seen in one.items() if torch.equal(seen, other[key])]
    assert len(labels) < len(one)
    for key in one.keys() - labels:
        torch.testing.assert_close(other[key], 5 * one[key] - 2, atol=1e-4, rtol=1e-4)
    method.train()
    loss = method.losses(batch_of(5 * images - 2), generator())["loss"]
    assert loss.isfinite()
    if getattr(method, "head", None) is not None and hasattr(method, "restore"):
        assert method.restore(-9 + 0 * images)[0].min() < 0  # no sigmoid
