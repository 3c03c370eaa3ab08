"""DeepCluster: cluster the features of all images, learn to predict the clusters, and repeat.

Papers: Caron et al., "Deep clustering for unsupervised learning of visual features", ECCV 2018 (`variant: v1`);
DeepCluster-v2 in Caron et al., "Unsupervised learning of visual features by contrasting cluster assignments", NeurIPS 2020.
Official code: github.com/facebookresearch/deepcluster and github.com/facebookresearch/swav (both CC BY-NC 4.0; nothing of
them is used here).

v1: features of whole images, PCA-whitened and L2-normalised, are clustered by k-means; a fresh linear classifier and the
encoder learn to name the cluster of an image from a random view of it. v2: embeddings of the large crops are clustered by
spherical k-means, several times; the centroids are the prototypes, and all crops of an image must be nearest to its own.

Where we differ, and why:
- features are gathered while an epoch passes, as DeepCluster-v2 does it, because a method never reads the data on its own. In
  v1 a copy of the encoder as it was at the beginning of the epoch makes them, so that they can be compared; labels are
  therefore an epoch older than the official ones.
- during the first epoch the images seen so far are clustered, whenever they are twice as many, beginning with the first batch.
- an image that had no part in a clustering, of the first epoch or of validation, belongs to the nearest centroid.
- v1's sampler draws all clusters equally often; a method does not own the loader, so the loss of an image has the weight
  n / (K' n_k) instead, which has the same mean.
- v1's features are the encoder's pooled ones, without fully-connected layers in between, and 1/16 of their width, at least
  eight, is kept by PCA (256 of 4,096).
- features are standardised over the batch before the classifier: pooled ones differ little between images of one kind, and
  a fresh classifier has an epoch to learn.
- the classifier's optimiser state is kept when its weights are drawn anew; momentum forgets it in ten steps.
- no Sobel filter: grey images have no colours to be clustered by.
- 100 clusters instead of 10,000 (v1) and 3,000 (v2), ten for each of ten classes, and no more than a twentieth of the images.
- an empty cluster takes half of the largest; the official v2 leaves its centroid where it was.
- volumes: the same crops in all epochs, or labels would be those of other crops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import gather
from ssl_med.methods.core.about import ACCURACY, Paper
from ssl_med.methods.core.base import Method, Tensors
from ssl_med.methods.core.measures import to_float32
from ssl_med.methods.core.multicrop import crops, multi_crop, pool_crops, small_size
from ssl_med.methods.core.pair import ViewConfig, random_view
from ssl_med.networks.clusters import Clusters, Whitening
from ssl_med.networks.ema import EMA
from ssl_med.networks.heads import Projector
from ssl_med.networks.memory import UNKNOWN, Memory
from ssl_med.ranges import LARGEST, Count, Natural, Positive, PositiveShare, Range, Width
from ssl_med.rng import seeded_generator
from ssl_med.setting import SET, setting
from ssl_med.spec import Batch, DataSpec, Need, SslMedError

_CLUSTER = 0xC105  # word of the generator of a clustering
_PER_CLUSTER = 20  # least mean number of images in a cluster


@dataclass
class DeepClusterConfig:
    """Defaults of the first paper; v2's are the preset deep_cluster/v2."""

    variant: Literal["v1", "v2"] = "v1"
    """v1: classes from whitened features; v2: prototypes from embeddings"""
    view: ViewConfig = field(default_factory=lambda: ViewConfig(crop_scale=(0.08, 1.0), jitter=0.0, blur=0.0))
    """what is classified; v2: the two large crops"""
    clusters: Annotated[int, Range(2, LARGEST)] = 100
    """number of clusters K"""
    heads: Annotated[int, Range(1, 100)] = 1
    """number of clusterings, each with a head of its own"""
    every: Annotated[float, Range(1, 1e6)] = 1.0
    """epochs between clusterings after the first epoch, at least 1"""
    iterations: Count = 20
    """iterations of k-means"""
    components: Natural = setting(default=0, needs={"variant": ("v1",)})
    """v1: principal components of the features; 0: a sixteenth of their number, at least eight"""
    temperature: Positive = setting(default=0.1, needs={"variant": ("v2",)})
    """v2: tau of the predictions"""
    small_view: ViewConfig = setting(
        default_factory=lambda: ViewConfig(crop_scale=(0.05, 0.14)), needs={"variant": ("v2",), "small_crops": SET}
    )
    """v2: small crops"""
    small_crops: Annotated[int, Range(0, 1000)] = setting(default=6, needs={"variant": ("v2",)})
    """v2: number of small crops"""
    small_share: PositiveShare = setting(default=96 / 224, needs={"variant": ("v2",), "small_crops": SET})
    """v2: side of a small crop as a share of a large one's"""
    hidden_dim: Width = setting(default=2048, needs={"variant": ("v2",)})
    """v2: width of the projection head"""
    out_dim: Width = setting(default=128, needs={"variant": ("v2",)})
    """v2: dimension of the embedding"""


class DeepCluster(Method):
    """Pseudo-labels by sample number, from memories of what the network made of each sample."""

    Config = DeepClusterConfig
    family = ("clustering",)
    paper = Paper("Caron et al.", "Deep clustering for unsupervised learning of visual features", "ECCV", 2018)
    metric = ACCURACY
    of_one_training = ("head.",)  # its classes are the clusters
    config: DeepClusterConfig

    @classmethod
    def need(cls, config: DeepClusterConfig, spec: DataSpec) -> Need:
        """The same crops in every epoch: labels are known by number."""
        return Need(fixed=True)

    def build(self) -> None:
        """Memories, clusters, and classifier or projector."""
        c, width = self.config, self.backbone.out_channels
        if c.variant == "v1":
            dim = c.components or min(width, max(8, width // 16))
            if dim > width:
                raise SslMedError(f"method.components is {dim}; the encoder has {width} features")
            self.whitening = Whitening(width, dim)
            self.standardize = nn.BatchNorm1d(width, affine=False)
            self.head = nn.Linear(width, c.heads * c.clusters)
            self.memories = nn.ModuleList([Memory(width, normalize=False)])
        else:
            dim = c.out_dim
            self.small = small_size(self.spec.patch_size, self.backbone, share=c.small_share)
            self.projector = Projector(width, c.hidden_dim, dim)
            self.memories = nn.ModuleList(Memory(dim, normalize=True) for _ in range(2))
        self.clusters = Clusters(c.heads, c.clusters, dim, UNKNOWN)

    def after_init(self) -> None:
        """v1: the encoder that describes images, and the one that described those that were clustered, start as copies."""
        if self.config.variant == "v1":
            self.describer, self.former = EMA(self.backbone), EMA(self.backbone)
            self.renew_head()

    def before_training(self, samples: int) -> None:
        """Room for all training samples, and clusters of twenty of them at least.

        Raises:
            SslMedError: too few samples for two clusters.
        """
        if samples < 2 * _PER_CLUSTER:
            raise SslMedError(
                f"data.root: deep_cluster needs {2 * _PER_CLUSTER} training samples at least, not {samples}; add scans or "
                "data.crops_per_volume"
            )
        for memory in self.memories:
            assert isinstance(memory, Memory)
            memory.resize(samples)
        self.clusters.resize(min(self.config.clusters, samples // _PER_CLUSTER), samples)
        if self.config.variant == "v1":
            count = self.config.heads * self.clusters.count
            self.head = nn.Linear(self.backbone.out_channels, count, device=self.head.weight.device)
            self.renew_head()

    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """The numbers of the images; v1: the images and a view of each; v2: large and small crops."""
        c, image = self.config, batch["image"]
        index = {"index": batch["index"].to(image.device)}
        if c.variant == "v1":
            return index | {"image": image, "view": random_view(image, generator, c.view)}
        large = (c.view, c.view)
        return index | multi_crop(
            image, generator, large=large, small=c.small_view, count=c.small_crops, size=self.small
        )

    def terms(self, views: Tensors) -> Tensors:
        """In training the memories take in the batch, and clusters are made when it is time; then the variant's loss."""
        return self.classify(views) if self.config.variant == "v1" else self.compare(views)

    def classify(self, views: Tensors) -> Tensors:
        """v1: cross-entropy of the classifier, with equal weight for all clusters."""
        if self.training:
            self.remember(views["index"], [self.describe(self.describer, views["image"])])
        labels = self.labels(views)
        pooled = self.backbone.pool(self.backbone(views["view"]))
        logits = to_float32(self.head(self.standardize(pooled))).view(len(pooled), self.config.heads, -1)
        losses, hits = [], []
        for h, (scores, label) in enumerate(zip(logits.unbind(1), labels, strict=True)):
            weight = self.clusters.weights(h, label)
            losses.append((weight * F.cross_entropy(scores, label, reduction="none")).mean())
            hits.append(scores.argmax(1) == label)
        return {"loss": torch.stack(losses).mean(), "features": pooled.detach(), **self.judged(hits, labels)}

    def describe(self, encoder: EMA, image: Tensor) -> Tensor:
        """(B, C, *S) -> pooled features (B, d)."""
        return to_float32(self.backbone.pool(encoder(image)))

    @torch.no_grad()
    def labels(self, views: Tensors) -> list[Tensor]:
        """v1: (B,) clusters of each head, from the table or from what the image shows."""
        known = [self.clusters.known(h, views["index"]) for h in range(self.config.heads)]
        if self.training and all(bool((label >= 0).all()) for label in known):
            return known
        code = self.whitening(self.describe(self.former, views["image"]))
        return [self.label(h, code, views["index"]) for h in range(self.config.heads)]

    def compare(self, views: Tensors) -> Tensors:
        """v2: cross-entropy of the similarities of all crops to the centroids.

        The label of a head comes from one of the two large crops by turns; the accuracy is that of the other one.
        """
        index, tau = views["index"], self.config.temperature
        count, every = len(index), len(crops(views, "large")) + len(crops(views, "small"))
        pooled = pool_crops(self.backbone, views)
        z = F.normalize(to_float32(self.projector(pooled)), dim=1)
        large = list(torch.split(z.detach(), count)[:2])
        if self.training:
            self.remember(index, large)
        losses, hits, labels = [], [], []
        for h, centroids in enumerate(self.clusters.centroids):
            label = self.label(h, large[h % 2], index)
            scores = (z @ centroids.to(z.dtype).T).masked_fill(self.clusters.sizes[h] == 0, -1.0)
            losses.append(F.cross_entropy(scores / tau, label.repeat(every)))
            hits.append(torch.split(scores, count)[1 - h % 2].argmax(1) == label)
            labels.append(label)
        return {
            "loss": torch.stack(losses).mean(),
            "features": pooled[:count].detach(),
            "pair": torch.stack(large),
            **self.judged(hits, labels),
        }

    def label(self, head: int, code: Tensor, index: Tensor) -> Tensor:
        """(B,) clusters; samples of validation have numbers of their own, so that theirs follow from what they show."""
        near = self.clusters.nearest(head, code)
        if not self.training:
            return near
        known = self.clusters.known(head, index)
        return torch.where(known >= 0, known, near)

    def judged(self, hits: list[Tensor], labels: list[Tensor]) -> Tensors:
        """Accuracy, that of naming the batch's commonest cluster for all its images, and how even clusters are."""
        sizes = self.clusters.sizes.float()
        common = [(label[:, None] == label).float().mean(1).amax() for label in map(gather, labels)]
        return {
            "metric": torch.stack(hits).float().mean(),
            "baseline": torch.stack(common).mean(),
            "used": (sizes > 0).sum(1).float().mean(),
            "largest": (sizes.amax(1) / sizes.sum(1).clamp_min(1)).mean(),
        }

    @torch.no_grad()
    def remember(self, index: Tensor, codes: list[Tensor]) -> None:
        """What the samples of all processes became enters the memories; makes clusters when it is time."""
        index, before = gather(index.long()), self.seen
        for memory, code in zip(self.memories, codes, strict=True):
            assert isinstance(memory, Memory)
            memory.write(index, gather(code.detach()))
        epoch = self.clusters.labels.shape[1]
        interval = round(self.config.every * epoch)
        due, is_due = ((seen - epoch) // interval for seen in (before, self.seen))
        if is_due > due or (self.seen < epoch and self.seen.bit_length() > before.bit_length()):
            self.cluster()
        if self.seen // interval > before // interval:
            self.renew()

    @property
    def seen(self) -> int:
        """Images that came by so far, counting repetitions."""
        memory = self.memories[0]
        assert isinstance(memory, Memory)
        return memory.written

    def cluster(self) -> None:
        """Clusters the memories; v1: whitens them first and draws the classifier anew."""
        for h in range(self.config.heads):
            memory = self.memories[h % len(self.memories)]
            assert isinstance(memory, Memory)
            index = memory.seen.nonzero().flatten()
            points, spherical = memory.entries[index], self.config.variant == "v2"
            if not spherical:
                if h == 0:
                    self.whitening.fit(points)
                points = self.whitening(points)
            generator = self.generator(h)
            self.clusters.fit(h, points, index, generator, iterations=self.config.iterations, spherical=spherical)
        self.clusters.rounds += 1
        if self.config.variant == "v1":
            self.former.update(self.describer.module, 0.0)
            self.renew_head()

    def renew(self) -> None:
        """v1, an epoch before clusters are made: the encoder as it is now describes all images anew; v2's memories go on."""
        if self.config.variant == "v1":
            self.describer.update(self.backbone, 0.0)
            for memory in self.memories:
                assert isinstance(memory, Memory)
                memory.seen.zero_()

    def generator(self, part: int) -> torch.Generator:
        """Of this round's clustering of one head, or of the classifier; the same in all processes."""
        return seeded_generator(self.seed, _CLUSTER, self.clusters.rounds, part, device=torch.device("cpu"))

    @torch.no_grad()
    def renew_head(self) -> None:
        """Weights of standard deviation 0.01, no bias: the clusters have new numbers."""
        start = torch.randn(self.head.weight.shape, generator=self.generator(-1)) * 0.01
        self.head.weight.copy_(start)
        self.head.bias.zero_()

    @property
    def validation_is_comparable(self) -> bool:
        """Only once nearly all training samples had part in the clustering."""
        return bool((self.clusters.labels >= 0).float().mean() > 0.9)
