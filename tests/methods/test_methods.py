"""One sweep over every method in 2D and 3D: builds from its yaml, trains, learns, replays, resumes, travels."""

import copy
from dataclasses import replace

import pytest
import torch

from experiments.compose import compose_pretrain, names
from ssl_med.catalogue import get_class
from ssl_med.checkpoint import Card, load_backbone, save_backbone
from ssl_med.config import to_plain
from ssl_med.methods._base import Method, collapse

SIZE = {2: (32, 32), 3: (16, 16, 16)}
DATA = {2: "chest14", 3: "lits"}
SMALL = {
    "byol": ["method.hidden_dim=64", "method.out_dim=32"],
    "c2l": ["method.queue=64", "method.momentum=0.9"],
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
    "swav": [
        "method.hidden_dim=64",
        "method.prototypes=16",
        "method.freeze_steps=1",
        "method.queue=8",
        "method.queue_from=0",
        "method.small_crops=2",
    ],
}
SWEEP = [pytest.param(name, dims, id=f"{name}-{dims}d") for name in names("method") for dims in (2, 3)]


def make(name, dims, *words, norm="batch"):
    size = str(list(SIZE[dims])).replace(" ", "")
    given = {word.partition("=")[0] for word in words}
    config = compose_pretrain(
        [
            f"method={name}",
            f"data={DATA[dims]}",
            f"data.patch_size={size}",
            "backbone.name=unet",
            "backbone.channels=[8,16,32]",
            f"backbone.norm={norm}",
            *(word for word in SMALL.get(name, []) if word.partition("=")[0] not in given),
            *words,
        ]
    )
    torch.manual_seed(0)
    method_class = get_class("ssl_med.methods", name, kind="method", base=Method)
    spec = replace(config.spec, in_channels=channels_of(name))
    return method_class(config.method, spec=spec, backbone=config.backbone, optim=config.optim, batch_size=8)


def channels_of(name):
    """Modalities that the method needs at least."""
    return get_class("ssl_med.methods", name, kind="method", base=Method).min_channels


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
    return float(terms["loss"])


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_a_step_is_finite_replayable_and_reaches_every_weight(name, dims):
    method = make(name, dims)
    batch = batch_of(blobs(4, dims, channels=channels_of(name)))
    before = copy.deepcopy(batch)
    state = copy.deepcopy(method.state_dict())
    terms = method.losses(batch, generator(1))
    assert terms["loss"].ndim == 0
    assert torch.isfinite(terms["loss"])
    assert terms["features"].shape == (4, method.backbone.out_channels)
    assert not terms["features"].requires_grad
    terms["loss"].backward()
    lost = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not lost, f"no gradient reaches {lost}: DDP would hang"
    for key in ("image", "image2"):
        assert torch.equal(batch[key], before[key]), "the batch was changed in place"
    method.load_state_dict(state)
    assert torch.equal(method.losses(batch, generator(1))["loss"], terms["loss"])
    method.load_state_dict(state)
    assert not torch.equal(method.losses(batch, generator(2))["loss"], terms["loss"])


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_views_do_not_depend_on_the_rest_of_the_step(name, dims):
    """`terms` is deterministic: the same views twice give the same loss."""
    method = make(name, dims)
    with torch.no_grad():
        views = method.views(batch_of(blobs(4, dims, channels=channels_of(name))), generator(3))
    assert not any(v.requires_grad for v in views.values())
    method.eval()  # no queue or statistics update in between
    assert torch.equal(method.terms(views)["loss"], method.terms(views)["loss"])


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_backbone_travels(name, dims, tmp_path):
    method = make(name, dims)
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
    backbone, decoder, loaded, report = load_backbone(
        path, in_channels=channels_of(name), with_decoder=method.decoder is not None
    )
    assert loaded == card
    assert report.complete
    method.eval(), backbone.eval()
    x = blobs(2, dims, channels=channels_of(name))
    for mine, theirs in zip(method.backbone(x), backbone(x), strict=True):
        assert torch.equal(mine, theirs)
    if method.decoder is not None:
        method.decoder.eval(), decoder.eval()
        assert torch.equal(method.decoder(method.backbone(x)), decoder(backbone(x)))


@pytest.mark.parametrize(("name", "dims"), SWEEP)
def test_state_resumes_exactly(name, dims):
    """Weights, teacher and queue: five steps in one go equal two and three with a save and a load in between."""
    images = blobs(8, dims, channels=channels_of(name))

    def run(method, optimizer, steps):
        return [step(method, optimizer, batch_of(images), s) for s in steps]

    whole = make(name, dims)
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.05, momentum=0.9)
    expected = run(whole, optimizer, range(5))
    first = make(name, dims)
    optimizer = torch.optim.SGD(first.parameters(), lr=0.05, momentum=0.9)
    run(first, optimizer, range(2))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = make(name, dims)
    torch.nn.init.zeros_(next(iter(second.backbone.parameters())))
    second.load_state_dict(saved[0])
    optimizer = torch.optim.SGD(second.parameters(), lr=0.05, momentum=0.9)
    optimizer.load_state_dict(saved[1])
    assert run(second, optimizer, range(2, 5)) == expected[2:]


@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        # without the intensity map: blobs hold no hint of which map was drawn, so undoing it takes thousands of steps
        ("models_genesis", ["method.nonlinear=0"]),
        ("context_restoration", []),
    ],
)
def test_restoration_beats_the_identity_and_the_mean(name, words, dims):
    """Stated baselines: returning the corrupted input, and returning the mean image."""
    method = make(name, dims, *words)
    steps = 150
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    train, test = blobs(256, dims, seed=1), blobs(24, dims, seed=2)
    for s in range(steps):
        pick = torch.randint(len(train), (8,), generator=generator(s))
        step(method, optimizer, batch_of(train[pick]), s)
        schedule.step()
    method.eval()
    with torch.no_grad():
        views = method.views(batch_of(test), generator(99))
        error = float(method.terms(views)["loss"])
    identity = float((views["input"] - views["target"]).square().mean())
    mean = float((train.mean(0) - views["target"]).square().mean())
    assert error < 0.8 * identity
    assert error < 0.8 * mean


def textures(n, dims, seed=0):
    """Images that a crop and a flip leave recognisable: two waves each, of their own direction and frequency."""
    g = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 16 if dims == 2 else 12)] * dims, indexing="ij")
    image = torch.zeros(n, 1, *axes[0].shape)

    def wide(x):
        return x.view(-1, *[1] * dims)

    for _ in range(2):
        direction = torch.nn.functional.normalize(torch.randn(n, dims, generator=g), dim=1)
        frequency = torch.rand(n, generator=g) * 6 + 2
        phase = torch.rand(n, generator=g) * 6.28
        image[:, 0] += torch.sin(sum(a * wide(direction[:, i] * frequency) for i, a in enumerate(axes)) + wide(phase))
    return image / 4 + 0.5


CONTRAST = {
    "moco": (300, 1e-3, ["method.view.crop_scale=[0.6,1.0]"]),
    "simclr": (80, 3e-3, ["method.view.crop_scale=[0.6,1.0]"]),
    "pcrl": (200, 1e-3, ["method.reconstruct=false", "method.crossmix=false", "method.rotation_deg=0"]),
}


@pytest.mark.parametrize("name", CONTRAST)
@pytest.mark.parametrize("dims", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_contrast_recognises_unseen_images(name, dims):
    """How often two views of an unseen image are closer than views of two images; chance is 0.5."""
    steps, lr, words = CONTRAST[name]
    method = make(name, dims, *words)
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    train, test = textures(256, dims, seed=1), textures(64, dims, seed=2)

    def separation():
        method.eval()
        with torch.no_grad():
            views = method.views(batch_of(test), generator(7))
            pair = [v for k, v in views.items() if k.startswith(("view", "query", "key", "input"))]
            z = [method.projector(method.backbone.pool(method.backbone(v))) for v in pair]
        first, second = (torch.nn.functional.normalize(x - x.mean(0), dim=1) for x in z)
        similarity = first @ second.T
        others = ~torch.eye(len(test), dtype=torch.bool)
        return float((similarity.diag()[:, None] > similarity)[others].float().mean())

    untrained = separation()
    for s in range(steps):
        pick = torch.randint(len(train), (32,), generator=generator(s))
        step(method, optimizer, batch_of(train[pick]), s)
    trained = separation()
    assert trained > untrained + 0.1
    assert trained > 0.7


def test_collapse_monitor_tells_collapsed_from_isotropic():
    torch.manual_seed(0)
    isotropic = collapse(torch.randn(256, 16))
    assert float(isotropic["collapse/feature_std"]) == pytest.approx(1.0, abs=0.05)
    assert float(isotropic["collapse/effective_rank"]) > 15
    line = collapse(torch.randn(256, 1) * torch.randn(1, 16) + 3)
    assert float(line["collapse/effective_rank"]) < 1.1
    point = collapse(torch.ones(256, 16))
    assert float(point["collapse/feature_std"]) < 1e-5
