"""Every method learns: a short run on phantoms beats a trivial solver, and its frozen features beat random ones.

A run has the settings of `trainer=cpu`, what a method's yaml says of it included; only length and data are the test's own.
"""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from test_methods import SIZE, SWEEP, batch_of, channels_of, generator, make, refusal
from torch.nn import functional as F

from ssl_med.methods._base import RETRIEVAL

TRAIN, TEST, LABELLED = 512, 256, 64
BATCH = {2: 16, 3: 8}
STEPS = {2: 120, 3: 120}
# methods whose task needs longer than that before it is solved better than by chance
LONGER = {"deep_cluster": 2.5, "moco": 2.5, "pcrl": 2.5}
# The metric must cover so much of the way from the trivial solver to perfection
GAIN = 0.2
# A teacher that has hardly left its random start is the wrong judge of its student's embeddings
GAIN_OF_RETRIEVAL = 0.03
# Coefficient of determination of the frozen features above that of the same network at random
PROBE_GAIN = 0.05


def phantoms(n, dims, seed, channels=1):
    """(n, channels, *S) images of one anatomy, and what differs between them, (n, factors).

    A body with an organ at one place, spots, and a texture all over it: enough to restore, to tell up from down and one
    patch from another, and to recognise an image by. Brightness and noise are nuisances that are not among the factors.
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
    # a wave has no sign: products of the components of its direction, the last square being told by the others
    pairs = [(i, j) for i in range(dims) for j in range(i, dims)][:-1]
    factors = [count.float(), size, frequency, amplitude, *(direction[:, i] * direction[:, j] for i, j in pairs)]
    image = image.clamp(0, 1)[:, None]
    return torch.cat([1 - image if c % 2 else image for c in range(channels)], 1), torch.stack(factors, 1)


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


def train(method, images, *, steps, batch):
    torch.manual_seed(0)
    method.before_training(len(images))
    method.train()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no validation, and teachers are meant to be in evaluation mode
        trainer.fit(method, datamodule=Phantoms(images, batch))
    assert trainer.global_step == steps


@torch.no_grad()
def solved(method, images):
    """Share of the way from the trivial solver (0) to perfection (1) that the pretext metric covers on `images`."""
    method.eval()
    found = []
    for k, part in enumerate(images.split(32)):
        terms = method.terms(method.views(batch_of(part), generator(900 + k)))
        found.append([float(terms["metric"]), float(terms["trivial"])])
    metric, trivial = torch.tensor(found).mean(0).tolist()
    return (metric - trivial) / (1 - trivial) if method.metric.higher_is_better else 1 - metric / trivial


@torch.no_grad()
def probe(method, seen, unseen):
    """Mean over factors of R^2 on unseen images, of a ridge regression on the standardised frozen features of 64 images."""
    method.eval()
    x, z = (method.backbone.pool(method.backbone(images)).double() for images in (seen[0][:LABELLED], unseen[0]))
    mean, scale = x.mean(0), x.std(0) + 1e-6
    x, z = (x - mean) / scale, (z - mean) / scale
    y, truth = seen[1][:LABELLED].double(), unseen[1].double()
    weights = torch.linalg.solve(x.T @ x + 0.03 * LABELLED * torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    error = (z @ weights + y.mean(0) - truth).square().mean(0)
    return float((1 - error / truth.var(0)).mean())


@pytest.mark.parametrize(
    ("name", "dims"),
    [pytest.param(*p.values, id=p.id, marks=pytest.mark.slow if p.values[1] == 3 else ()) for p in SWEEP],
)
def test_a_short_run_solves_the_task_and_shapes_the_features(name, dims):
    if refusal(name, dims):
        pytest.skip(refusal(name, dims))
    method = make(name, dims, norm="group", small={})
    seen, unseen = (phantoms(n, dims, seed, channels_of(name)) for n, seed in ((TRAIN, 1), (TEST, 2)))
    random = probe(method, seen, unseen)
    steps = round(STEPS[dims] * LONGER.get(name, 1))
    train(method, seen[0], steps=steps, batch=BATCH[dims])
    gain, trained = solved(method, unseen[0]), probe(method, seen, unseen)
    print(f"{name} {dims}D {steps} steps: {method.metric.name} gains {gain:.2f}, probe {random:.2f} -> {trained:.2f}")
    assert gain > (GAIN_OF_RETRIEVAL if method.metric is RETRIEVAL else GAIN)
    assert trained > random + PROBE_GAIN
