"""Every method learns on phantoms: it beats a baseline solver at its task, and its frozen features beat random ones.

Short runs of images, in CI, are asked for the task, and end as soon as they solve it; long runs of images and volumes are
asked for both at their end. A run has the settings of `trainer=cpu`, what a method's yaml says of it included; length, data,
network and its normalisation are the test's own.
"""

import time
import warnings
from functools import cache

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from test_methods import SIZE, SWEEP, batch_of, channels_of, generator, make
from torch.nn import functional as F

from ssl_med.catalogue import get_class
from ssl_med.evaluation.protocols.dense import sample_voxels
from ssl_med.methods.core.about import RETRIEVAL
from ssl_med.methods.core.base import Method
from ssl_med.methods.core.restoration import Restorer
from ssl_med.networks.backbone import backbone_config, build_backbone

TRAIN, TEST = 512, 256
BATCH = {2: 16, 3: 8}
CHANNELS = (8, 16, 32)
# Steps that a short run may take at most, and of methods that need more; after how many it is asked; images it is asked about
SHORT, ASKED, UNSEEN = 120, 20, 128
SHORT_OF = {"cpc": 300, "deep_cluster": 300, "pcrl_v2": 200}
# Steps of the long runs, and of methods that need more
LONG = 200
LONG_OF = {  # of images, of volumes
    "byol": (400, 600),
    "cpc": (400, 300),
    "deep_cluster": (350, 350),  # clusters are new after 352 and 384: a fresh classifier would be scored
    "dino": (400, 400),
    "mae": (200, 400),
    "nonlinear": (400, 200),
    "pcrl_v2": (300, 300),
    "pirl": (300, 300),
    "relative_position": (200, 600),
    "rotation": (300, 300),
}
# The metric must cover so much of the way from the baseline solver to perfection ...
GAIN = 0.2
# ... but where one is right among hundreds of candidates, many of which look alike, it must be right so many times as often
# as by chance: a network that knows the image but not the place, or the place but not the image, is right once in tens
TIMES_CHANCE = {"cpc": 4.0}
# Two-view methods: how often views of one image are closer than views of two, and how much more often than before
SEPARATION, SEPARATION_GAIN = 0.55, 0.03
# The probe: images that a regression learns from, voxels of each, networks at random that trained ones are compared with
LABELLED, VOXELS, UNTRAINED = 64, 64, 6


@cache
def phantoms(n, dims, seed, channels=1):
    """(n, channels, *S) images of one anatomy and (n, 3, *S) where its body, its organ and its spots are, 0 or 1.

    A body with an organ at one place, spots, and a texture all over it: enough to restore, to tell up from down and one
    patch from another, and to recognise an image by. Brightness, texture and noise hide what a voxel belongs to.
    """
    g = generator(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, s) for s in SIZE[dims]], indexing="ij")

    def wide(x):
        return x.view(-1, *[1] * dims)

    def uniform(low, high):
        return torch.rand(n, generator=g) * (high - low) + low

    def ball(centre, spread, radius, sharpness=12):
        places = torch.tensor(centre)[:dims] + (torch.rand(n, dims, generator=g) * 2 - 1) * spread
        distance = sum((a[None] - wide(places[:, i])) ** 2 for i, a in enumerate(axes)).sqrt()
        return torch.sigmoid((wide(radius) - distance) * sharpness)

    body, size = ball([0.0, 0.0, 0.0], 0.05, uniform(0.8, 1.0)), uniform(0.2, 0.4)
    organ = ball([-0.4, 0.35, 0.3], 0.15, size)
    count = torch.randint(0, 5, (n,), generator=g)
    spots = [ball([0.15, 0.0, 0.0], 0.6, torch.full((n,), 0.13), 20) * wide((k < count).float()) for k in range(4)]
    direction = F.normalize(torch.randn(n, dims, generator=g), dim=1)
    frequency, amplitude = uniform(4, 10), uniform(0.08, 0.2)
    phase = sum(a * wide(direction[:, i] * frequency) for i, a in enumerate(axes)) + wide(uniform(0, 6.28))
    image = 0.1 + body * (0.3 + wide(amplitude) * phase.sin() + 0.25 * torch.stack(spots).amax(0)) + 0.25 * organ
    image = image * wide(uniform(0.75, 1.25)) + 0.04 * torch.randn(image.shape, generator=g)
    image = image.clamp(0, 1)[:, None]
    structures = torch.stack([body, organ, torch.stack(spots).amax(0)], 1) > 0.5
    return torch.cat([1 - image if c % 2 else image for c in range(channels)], 1), structures.float()


class Phantoms(pl.LightningDataModule):
    """Batches of images in a new order each epoch."""

    def __init__(self, images, batch):
        super().__init__()
        self.images, self.batch = images, batch

    def train_dataloader(self):
        order = torch.utils.data.BatchSampler(
            torch.utils.data.RandomSampler(self.images, generator=generator(5)), self.batch, drop_last=True
        )
        return torch.utils.data.DataLoader(range(len(self.images)), batch_sampler=order, collate_fn=self.collate)

    def collate(self, picked):
        return batch_of(self.images[picked]) | {"index": torch.tensor(picked)}


class Enough(pl.Callback):
    """Ends the run once `solves` says so; the training itself does not notice that it was asked."""

    def __init__(self, solves):
        self.solves = solves

    def on_train_batch_end(self, trainer, method, *args):
        if trainer.global_step % ASKED == 0:
            modes = {module: module.training for module in method.modules()}
            with torch.random.fork_rng(devices=[]):
                trainer.should_stop = self.solves()
            for module, mode in modes.items():
                module.training = mode


def train(method, images, *, steps, batch, solves=None):
    torch.manual_seed(0)
    method.prepare(len(images))
    method.train()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[Enough(solves)] if solves else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no validation, and teachers are meant to be in evaluation mode
        trainer.fit(method, datamodule=Phantoms(images, batch))
    assert trainer.global_step == steps or trainer.should_stop
    return trainer.global_step


@torch.no_grad()
def solved(method, images):
    """Means of the pretext metric and of the baseline solver's over `images`."""
    method.eval()
    found = []
    for k, part in enumerate(images.split(32)):
        terms = method.terms(method.views(batch_of(part), generator(900 + k)))
        found.append([float(terms["metric"]), float(terms["baseline"])])
    return torch.tensor(found).mean(0).tolist()


@torch.no_grad()
def separation(method, images):
    """How often the other view of an image is closer to its view than a view of another image; chance is 0.5.

    Cosines of embeddings less their mean, over all pairs of images: finer than retrieval, which counts winners only.
    """
    method.eval()
    pairs = [
        method.terms(method.views(batch_of(part), generator(900 + k)))["pair"]
        for k, part in enumerate(images.split(32))
    ]
    first, second = (F.normalize(x - x.mean(0), dim=1) for x in torch.cat(pairs, 1))
    similarity = first @ second.T
    others = ~torch.eye(len(images), dtype=torch.bool)
    return float((similarity.diag()[:, None] > similarity)[others].float().mean())


def normalisation(name):
    """Of the network: as in `trainer=cpu` over groups of an image's channels, but over the batch, as published, where
    intensities are restored.

    Groups take brightness and contrast out of an image. What a network has not seen it cannot restore: in an autoencoder
    of images half of the error after 200 steps was that of the image's mean (0.0021 of 0.0043; over the batch 0 of 0.0016).
    """
    return "batch" if issubclass(get_class("ssl_med.methods", name, kind="method", base=Method), Restorer) else "group"


@torch.no_grad()
def described(backbone, images, structures):
    """Features of voxels, those of all levels joined, as the suite's dense probe takes them, and what they belong to."""
    backbone.eval()
    levels, chosen = tuple(range(len(backbone.channels))), generator(3)
    parts = []
    for image, mask in zip(images.split(64), structures.split(64), strict=True):
        batch = {"image": image, "mask": mask, "id": [""] * len(image)}
        parts.append(sample_voxels(backbone, batch, levels, VOXELS, chosen)[1:])
    return [torch.cat(x).double().numpy() for x in zip(*parts, strict=True)]


def probe(backbone, seen, unseen):
    """Mean R^2, over body, organ and spots, of linear regressions of a voxel's structure on its frozen features.

    Each of four regressions learns from other images; strengths by leaving one out; scores are those of unseen images.
    """
    (features, known), (others, truth) = (
        described(backbone, *(x[: 4 * LABELLED] for x in seen)),
        described(backbone, *unseen),
    )
    scores = []
    for k in range(4):
        rows = slice(k * LABELLED * VOXELS, (k + 1) * LABELLED * VOXELS)
        mean, scale = features[rows].mean(0), features[rows].std(0)
        scale = scale.clip(0.1 * np.median(scale))  # a channel that hardly ever fires is not blown up
        ridge = RidgeCV(alphas=np.logspace(-1, 4, 6), alpha_per_target=True)
        scores.append(
            r2_score(truth, ridge.fit((features[rows] - mean) / scale, known[rows]).predict((others - mean) / scale))
        )
    return float(np.mean(scores))


@cache
def untrained(dims, channels, norm):
    """Mean and standard deviation of the probe over networks at random, with batch statistics of the same images."""
    seen, unseen = phantoms(TRAIN, dims, 1, channels), phantoms(TEST, dims, 2, channels)
    scores = []
    for seed in range(UNTRAINED):
        torch.manual_seed(seed)
        config = backbone_config("unet", channels=CHANNELS, norm=norm)
        backbone = build_backbone(config, spatial_dims=dims, in_channels=channels)
        with torch.no_grad():
            for part in seen[0][: 32 * BATCH[dims]].split(BATCH[dims]):
                backbone(part)
        scores.append(probe(backbone, seen, unseen))
    return float(np.mean(scores)), float(np.std(scores, ddof=1))


def is_solved(method, name, *, metric, trivial, apart, apart_before):
    """Whether the task is solved better than by who learned nothing, by as much as the constants above say."""
    if method.metric is RETRIEVAL:
        return apart > max(SEPARATION, apart_before + SEPARATION_GAIN)
    if name in TIMES_CHANCE:
        return metric > TIMES_CHANCE[name] * trivial
    gain = (metric - trivial) / (1 - trivial) if method.metric.higher_is_better else 1 - metric / trivial
    return gain > GAIN


@pytest.mark.parametrize(
    ("name", "dims", "length"),
    [
        pytest.param(
            *p.values, length, id=f"{p.id}-{length}", marks=pytest.mark.long if length == "long" else pytest.mark.slow
        )
        for length in ("short", "long")
        for p in SWEEP
        if length == "long" or p.values[1] == 2
    ]
    + [
        pytest.param(name, 2, "long", id=f"{name}-2d-long", marks=pytest.mark.long)
        for name in ("pcrl/paper", "pcrl/code")
    ],
)
def test_a_run_solves_the_task_and_shapes_the_features(name, dims, length):
    family = name.partition("/")[0]
    norm, channels = normalisation(family), channels_of(family)
    method = make(name, dims, f"backbone.channels={str(list(CHANNELS)).replace(' ', '')}", norm=norm, small={})
    seen, unseen = phantoms(TRAIN, dims, 1, channels), phantoms(TEST, dims, 2, channels)
    asked = unseen[0] if length == "long" else unseen[0][:UNSEEN]
    paired = method.metric is RETRIEVAL
    before = separation(method, asked) if paired else 0.0

    def scores():
        metric, trivial = solved(method, asked)
        return {"metric": metric, "trivial": trivial, "apart": separation(method, asked) if paired else 0.0}

    steps = SHORT_OF.get(name, SHORT) if length == "short" else LONG_OF.get(name, (LONG, LONG))[dims - 2]
    solves = None if length == "long" else lambda: is_solved(method, name, **scores(), apart_before=before)
    start = time.process_time()
    steps = train(method, seen[0], steps=steps, batch=BATCH[dims], solves=solves)
    took = time.process_time() - start
    found = scores()
    apart = f"{before:.2f} -> {found['apart']:.2f}" if paired else ""
    row = [name, f"{dims}D", steps, f"{method.metric.name} {found['metric']:.4f}", f"{found['trivial']:.4f}", apart]
    if length == "long":
        trained, (chance, spread) = probe(method.backbone, seen, unseen), untrained(dims, channels, norm)
        row.append(f"{chance:.3f} ± {spread:.3f} -> {trained:.3f}")
    print("|", *(f"{x} |" for x in [*row, f"{took:.1f}"]))
    assert is_solved(method, name, **found, apart_before=before)
    if length == "long":
        assert trained > chance + spread
