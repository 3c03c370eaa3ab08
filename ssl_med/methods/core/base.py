"""What every method shares: optimiser, logging, the collapse monitor, reproducible randomness, and what travels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_med.distributed import gather, rank
from ssl_med.evaluation.metrics import BASELINE, METRICS, Metric
from ssl_med.networks.backbone import Backbone, BackboneConfig, Decoder, build_backbone
from ssl_med.networks.heads import Standardize
from ssl_med.networks.init import init_weights
from ssl_med.optim import OptimConfig, configure
from ssl_med.rng import seeded_generator
from ssl_med.spec import Batch, DataSpec, Need, SslMedError

Tensors = dict[str, Tensor]
_PHASES = {"train": 0, "val": 1}
_UNLOGGED = ("features", "pair", "metric", "baseline")


RETRIEVAL = METRICS["retrieval"]


class Method(pl.LightningModule, ABC):
    """A pretraining method: `views` makes what the network sees, `terms` makes the loss.

    Everything random happens in `views`, without gradient, batched on the batch's device; everything learned happens in
    `terms`, which is deterministic. So one step is `terms(views(batch, generator))`, and N processes that are given
    the parts of the same views must agree with one process.

    A leaf defines `Config`, `metric`, `build`, `views` and `terms`; it may define `need`, `min_channels`, `after_init`,
    `before_training`, `before_epoch` and `after_step`.
    """

    Config: ClassVar[type]
    metric: ClassVar[Metric]
    """of the pretext task: what `terms` returns as "metric" and, of a solver that learned nothing, as "baseline" """
    min_channels: ClassVar[int] = 1
    """modalities an image must have"""
    backbone: Backbone
    decoder: Decoder | None

    def __init__(
        self,
        config: Any,
        *,
        spec: DataSpec,
        backbone: BackboneConfig,
        optim: OptimConfig,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if spec.in_channels < self.min_channels:
            raise SslMedError(
                f"data '{spec.name}' has {spec.in_channels} modality; {type(self).__name__} needs at least "
                f"{self.min_channels}: choose multi-modal data and name them in data.modalities"
            )
        self.config, self.spec, self.optim = config, spec, optim
        self.backbone_config, self.batch_size, self.seed = backbone, batch_size, seed
        self.batches_seen = 0  # seeds the views; saved, so that a resumed run draws what it would have drawn
        self.log_every = 10  # steps between collapse monitors
        self.backbone = build_backbone(backbone, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
        self.decoder = None
        self.build()
        init_weights(self, backbone.init)
        self.after_init()

    # --- what a leaf defines -------------------------------------------------------------------------------------

    @classmethod
    def need(cls, config: Any, spec: DataSpec) -> Need:
        """What the crop loader must yield beyond one crop per sample."""
        return Need()

    @abstractmethod
    def build(self) -> None:
        """Adds decoder, heads and buffers to `self`."""

    def after_init(self) -> None:
        """Runs once the weights have their initial values: a teacher is copied here."""

    @abstractmethod
    def views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """Network inputs and targets from `batch`; never changes the batch."""

    @abstractmethod
    def terms(self, views: Tensors) -> Tensors:
        """Loss terms by name.

        Reserved, all but "loss" without gradient: "loss", what is minimised; "features" (B, d), what the collapse
        monitor looks at; "metric" and "baseline", scalars, see `metric`; "pair" (2, B, d), L2-normalised embeddings of the
        two views where there are two, for alignment and uniformity. Everything else is logged under its name.
        """

    def before_training(self, samples: int) -> None:
        """Runs once before training, and before a checkpoint is loaded: a memory gets its size here.

        Args:
            samples: number of training samples; `batch["index"]` counts them.

        Raises:
            SslMedError: too few samples for the method's settings.
        """

    def before_epoch(self) -> None:
        """Runs before each training epoch."""

    def after_step(self) -> None:
        """Runs after each optimiser step, not after each accumulated batch."""

    @property
    def validation_is_comparable(self) -> bool:
        """Whether validation losses may be compared with later ones; weights are not chosen before that."""
        return True

    def rescaling(self, *, per_image: int = 1) -> nn.Module:
        """What a head without batch normalisation of its own sees the pooled features through: `Standardize`, or nothing.

        Batch normalisation inside the backbone, which the papers take for granted, centres the features. Where groups or
        instances are normalised instead, one direction is common to all images: cosines of a new network differ in the
        third digit, and short trainings stayed at chance (rubik_cube in 3D on phantoms, 120 steps: 1 % of the way to
        perfection, 77 % with it).

        Args:
            per_image: feature vectors that an image gives in a step.

        Raises:
            SslMedError: a single vector a step has no variance.
        """
        if self.backbone_config.norm == "batch":
            return nn.Identity()
        if self.batch_size * per_image < 2:
            raise SslMedError(
                f"trainer.batch_size is 1; with backbone.norm={self.backbone_config.norm} features are standardised over the "
                "batch: give at least 2, or backbone.norm=batch"
            )
        return Standardize(self.backbone.out_channels)

    # --- shared --------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> Tensors:
        """One step's loss terms; works without a Trainer.

        Args:
            batch: as in `ssl_med.spec.Batch`.
            generator: source of the views' randomness; by default seeded from the run's seed and the batches seen.
        """
        with torch.no_grad():
            views = self.views(batch, generator or self._generator("train", self.batches_seen, batch["image"].device))
        return self.terms(views)

    def _generator(self, phase: str, position: int, device: torch.device) -> torch.Generator:
        return seeded_generator(self.seed, _PHASES[phase], position, rank(), device=device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, with the terms and the metric logged under train/."""
        terms = self.losses(batch)
        self.batches_seen += 1
        size = len(batch["image"])
        self.log_dict({f"train/{key}": value.detach() for key, value in self._logged(terms).items()}, batch_size=size)
        if self.global_step % self.log_every == 0:
            self.log_dict(collapse(terms["features"], terms.get("pair")), batch_size=size)
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs the terms and the metric of one batch under val/, with views that are the same at each validation."""
        terms = self.losses(batch, self._generator("val", batch_idx, batch["image"].device))
        if not self.validation_is_comparable:
            return
        logged = {f"val/{key}": value for key, value in self._logged(terms).items()}
        self.log_dict(logged, batch_size=len(batch["image"]), sync_dist=True)

    def _logged(self, terms: Tensors) -> Tensors:
        named = {key: value for key, value in terms.items() if key not in _UNLOGGED}
        return {**named, self.metric.name: terms["metric"], f"{self.metric.name}{BASELINE}": terms["baseline"]}

    def on_train_epoch_start(self) -> None:
        """Calls `before_epoch`."""
        self.before_epoch()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Teachers move within the step: a checkpoint of a callback would otherwise hold the teacher of the step before."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores how many batches have been seen, from which the views of the next batch are drawn."""
        checkpoint["ssl_med"] = {"batches_seen": self.batches_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores how many batches have been seen."""
        self.batches_seen = checkpoint["ssl_med"]["batches_seen"]

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Optimiser and schedule of the `optim` settings."""
        return configure(self, self.optim, batch_size=self.batch_size)


@torch.no_grad()
def collapse(features: Tensor, pair: Tensor | None = None) -> Tensors:
    """Signs that all inputs are mapped to the same place or the same few directions.

    Args:
        features: (B, d).
        pair: (2, B, d), L2-normalised embeddings of the two views of each image.

    Returns:
        "collapse/feature_std": mean over dimensions of the standard deviation of L2-normalised features, times
        sqrt(d): 0 when collapsed, about 1 when isotropic. "collapse/effective_rank": exponential of the entropy of the
        centred features' normalised singular values (Roy and Vetterli 2007), at most min(B, d). With a pair also
        "collapse/alignment", mean squared distance of positives, and "collapse/uniformity", log of the mean of
        exp(-2 d^2) over pairs of different images of the first view (Wang and Isola 2020, alpha = t = 2); lower is
        better for both, and 0 is a collapsed uniformity.
    """
    features = to_float32(gather(features.detach()))
    unit = F.normalize(features, dim=1)
    std = unit.std(0).mean() * features.shape[1] ** 0.5
    values = torch.linalg.svdvals(features - features.mean(0))
    share = values / values.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    signs = {"collapse/feature_std": std, "collapse/effective_rank": entropy.exp()}
    if pair is not None:
        first, second = (to_float32(gather(x.detach())) for x in pair)
        signs["collapse/alignment"] = (first - second).square().sum(1).mean()
        if len(first) > 1:
            signs["collapse/uniformity"] = torch.pdist(first).square().mul(-2).exp().mean().log()
    return signs


@torch.no_grad()
def retrieval(first: Tensor, second: Tensor) -> Tensors:
    """How often the nearest of a batch's second views is one's own: what two-view methods return as their metric.

    Args:
        first: (B, d), L2-normalised.
        second: (B, d), L2-normalised.
    """
    hits = (first @ second.T).argmax(1) == torch.arange(len(first), device=first.device)
    return {"metric": hits.float().mean(), "baseline": first.new_tensor(1 / len(first))}


def to_float32(x: Tensor) -> Tensor:
    """Half precision -> float32; losses and cosine similarities are not computed in less."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
