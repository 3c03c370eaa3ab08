"""The base class of every method: optimiser, logging, the collapse monitor and reproducible randomness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_med.distributed import gather, mean_over_processes, own_rows, world_size
from ssl_med.evaluation.metrics import BASELINE, Metric
from ssl_med.methods.core.about import Family, Paper
from ssl_med.methods.core.measures import collapse
from ssl_med.methods.core.start import Start
from ssl_med.networks.backbone import build_backbone, check_backbone, check_statistics, default_backbone, repeated
from ssl_med.networks.heads import Standardize
from ssl_med.networks.init import init_weights
from ssl_med.networks.pyramid import Backbone, BackboneConfig, Decoder
from ssl_med.optim import OptimConfig, configure, count_samples
from ssl_med.ranges import check_ranges
from ssl_med.rng import seeded_generator
from ssl_med.spec import BATCH_KEYS, Batch, DataSpec, Need, SslMedError

Tensors = dict[str, Tensor]
_PHASES = {"train": 0, "val": 1}
_UNLOGGED = ("features", "pair", "metric", "baseline")


class Method(pl.LightningModule, ABC):
    """A pretraining method: `views` makes what the network sees, `terms` makes the loss.

    Everything random happens in `views`, without gradient, batched on the batch's device; everything learned happens in
    `terms`, which is deterministic. So one step is `terms(views(batch, generator))`, and N processes that are given
    the parts of the same views must agree with one process.

    A method is a LightningModule that needs nothing else of the suite: `MoCo(spec=spec)` trains with
    `Trainer(...).fit(method, loader)` and any loader of dictionaries that hold `image` and what `need` asks for.

    A subclass defines `Config`, `family`, `paper`, `metric`, `build`, `views` and `terms`; it may define `dims`,
    `min_channels`, `any_intensity`, `needs_decoder`, `need`, `after_init`, `before_training`, `before_epoch` and `after_step`.

    Args:
        config: settings of the method, an instance of its `Config`; None: the paper's, which are the defaults.
        spec: what the images are.
        backbone: architecture to train; None: the suite's default for these dimensions.
        optim: optimiser and schedule; None: AdamW at 1e-3 that falls along a cosine.
        batch_size: samples per optimiser step over all devices; 0: unknown, which suffices unless `optim.lr_per_256` is set.
        seed: seeds the views; initial weights come from torch's own generator.
        start: weights to begin with in place of random ones; `backbone` is then theirs.

    Raises:
        SslMedError: the method cannot work with these data, this backbone or these settings.
    """

    Config: ClassVar[type]
    family: ClassVar[tuple[Family, ...]]
    """what kind of pretext task the loss is made of, the main one first"""
    paper: ClassVar[Paper]
    """where the method comes from"""
    metric: ClassVar[Metric]
    """of the pretext task: what `terms` returns as "metric" and, of a solver that learned nothing, as "baseline" """
    dims: ClassVar[tuple[int, ...]] = (2, 3)
    """spatial dimensions that the method works in"""
    min_channels: ClassVar[int] = 1
    """modalities that an image must have"""
    needs_decoder: ClassVar[bool] = False
    """whether the method, with its default settings, also trains a decoder"""
    min_batch: ClassVar[int] = 1
    """images that a batch needs for the loss to say something"""
    any_intensity: ClassVar[bool] = False
    """whether images may be standardised; else the method changes intensities, or restores them, within [0, 1]"""
    of_one_training: ClassVar[tuple[str, ...]] = ()
    """beginnings of keys of the state that belong to the images of one training, besides memories, clusters and schedules: a
    pretraining that goes on from another one makes them anew"""
    in_batch_negatives: ClassVar[bool] = False
    """whether the other images of a batch are negatives, so that no image may be in it twice"""
    backbone: Backbone
    decoder: Decoder | None

    def __init__(
        self,
        config: Any = None,
        *,
        spec: DataSpec,
        backbone: BackboneConfig | None = None,
        optim: OptimConfig | None = None,
        batch_size: int = 0,
        seed: int = 0,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        self.check_data(spec)
        backbone = backbone or (start.backbone.config if start else default_backbone(spec.spatial_dims))
        check_backbone(backbone, spec)
        self.config, self.spec = self.Config() if config is None else config, spec
        self.optim = optim or OptimConfig(name="adamw", lr=1e-3)
        check_ranges(self.config, "method")
        self._check_least(batch_size or self.min_batch)
        self.backbone_config, self.batch_size, self.seed = backbone, batch_size, seed
        self.batch_keys = ("image", *self.need(self.config, spec).keys)
        self.samples: int | None = None  # number of training samples, once `prepare` was called
        self.batches_seen = 0  # seeds the views; saved, so that a resumed run draws what it would have drawn
        self.log_every = 10  # steps between collapse monitors
        self.backbone = build_backbone(backbone, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
        self.decoder = None
        self.vectors = 1  # that an image gives to batch statistics of features
        self.build()
        init_weights(self, backbone.init)
        begun = [start.fill(self)] if start else []
        self.after_init()
        begun += [start.go_on(self)] if start and start.state is not None else []
        self.begun = "; ".join(begun)  # what came from `start`, in words

    @classmethod
    def check_data(cls, spec: DataSpec) -> None:
        """Refuses images that the method cannot work with.

        Raises:
            SslMedError: dimensions that are not among `dims`, fewer modalities than `min_channels`, or standardised intensities
                without `any_intensity`.
        """
        if spec.spatial_dims not in cls.dims:
            raise SslMedError(
                f"data '{spec.name}' has {spec.spatial_dims}D images; {cls.__name__} works in "
                f"{' and '.join(f'{n}D' for n in cls.dims)} only: choose other data or another method"
            )
        if spec.in_channels < cls.min_channels:
            raise SslMedError(
                f"data '{spec.name}' has {spec.in_channels} modality; {cls.__name__} needs at least "
                f"{cls.min_channels}: choose multi-modal data and name them in data.modalities"
            )
        if spec.intensity.standardised and not cls.any_intensity:
            raise SslMedError(
                f"data.normalisation={spec.intensity.normalisation}: {cls.__name__} needs intensities in [0, 1]; set "
                "data.normalisation=unit, here and where its weights are used"
            )

    # --- what a subclass defines -------------------------------------------------------------------------------------

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
        """Runs once before training, and before a checkpoint is loaded: a memory gets its size here; see `prepare`.

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
        """The layer between pooled features and a head that has no batch normalisation: `Standardize`, or the identity.

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
        self.vectors = per_image
        if self.batch_size == per_image == 1 and self.min_batch == 1:
            raise SslMedError(
                f"trainer.batch_size is 1; with backbone.norm={self.backbone_config.norm} features are standardised over the "
                "batch: give at least 2, or backbone.norm=batch"
            )
        return Standardize(self.backbone.out_channels)

    # --- shared --------------------------------------------------------------------------------------------------

    def prepare(self, samples: int) -> None:
        """Makes the method ready for a training set of `samples`; Lightning's `setup` calls it if nothing else has.

        Raises:
            SslMedError: too few samples for the method's settings.
        """
        self.samples = samples
        self.before_training(samples)

    def setup(self, stage: str) -> None:
        """Counts the training samples if the method needs their number and `prepare` was not called."""
        if stage == "fit" and self.samples is None and type(self).before_training is not Method.before_training:
            self.prepare(count_samples(self.trainer, type(self).__name__))

    def check_batch_size(self, batch_size: int, samples: int) -> list[str]:
        """Refuses a batch that the method cannot learn from; returns what else the reader should know of it.

        Args:
            batch_size: images of a batch over all devices, without accumulation.
            samples: of an epoch of training.

        Raises:
            SslMedError: too few images for the loss or for batch statistics, or more than there are where an image that is in
                the batch twice would be its own negative.
        """
        name = type(self).__name__
        self._check_least(batch_size)
        parts = list(self.modules())
        standard = {
            id(part.norm) for part in parts if isinstance(part, Standardize)
        }  # over all vectors of an image, too
        free = any(isinstance(part, nn.BatchNorm1d) and id(part) not in standard for part in parts)
        if batch_size == 1 and (free or (standard and self.vectors == 1)):
            raise SslMedError(f"trainer.batch_size is 1; {name} normalises features over the batch: give at least 2")
        check_statistics(self.backbone, self.spec.patch_size, norm=self.backbone_config.norm, batch_size=batch_size)
        if samples < batch_size and self.in_batch_negatives:
            raise SslMedError(
                f"trainer.batch_size is {batch_size}, but there are {samples} training samples: an image would be in a batch "
                f"twice and, for {name}, its own negative; set trainer.batch_size={samples} or less, or add data"
            )
        return repeated(batch_size, samples)

    def _check_least(self, batch_size: int) -> None:
        if batch_size < self.min_batch:
            raise SslMedError(
                f"trainer.batch_size is {batch_size}; {type(self).__name__} compares the images of a batch: give at least "
                f"{self.min_batch}"
            )

    def check_batch(self, batch: Any) -> None:
        """Refuses a batch that lacks what the method reads, or whose images are not those of the spec.

        Raises:
            SslMedError: says what is missing or what differs.
        """
        name, spec = type(self).__name__, self.spec
        if not isinstance(batch, Mapping):
            raise SslMedError(
                f"the loader yields {type(batch).__name__}; {name} needs dictionaries with the key 'image'"
            )
        for key in self.batch_keys:
            if key not in batch:
                raise SslMedError(
                    f"the loader's batches hold {', '.join(map(str, batch)) or 'nothing'}; {name} also needs '{key}': "
                    f"{BATCH_KEYS[key]}"
                )
        image = batch["image"]
        if image.shape[1:] != (spec.in_channels, *spec.patch_size) or not image.is_floating_point():
            raise SslMedError(
                f"batch['image'] is {tuple(image.shape)} of {image.dtype}; the spec of data '{spec.name}' says "
                f"{('B', spec.in_channels, *spec.patch_size)} of floating-point numbers".replace("'B'", "B")
                + ("" if spec.intensity.standardised else " in [0, 1]")
            )

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> Tensors:
        """One step's loss terms; works without a Trainer.

        Args:
            batch: as in `ssl_med.spec.Batch`.
            generator: source of the views' randomness; by default seeded from the run's seed and the batches seen.

        Raises:
            SslMedError: the batch lacks what the method needs.
        """
        self.check_batch(batch)
        with torch.no_grad():
            views = self._views(batch, generator or self._generator("train", self.batches_seen, batch["image"].device))
        return self.terms(views)

    def _views(self, batch: Batch, generator: torch.Generator) -> Tensors:
        """This process's part of the views of the global batch, which do not depend on the number of processes.

        Each process makes all views and keeps its own: numbers are drawn for a batch as a whole, and partners of a mixture or
        negatives may lie in another process's part.
        """
        if world_size() == 1:
            return self.views(batch, generator)
        whole: Any = {key: gather(batch[key]) for key in self.batch_keys}  # type: ignore[literal-required]
        return {key: own_rows(value) for key, value in self.views(whole, generator).items()}

    def _generator(self, phase: str, position: int, device: torch.device) -> torch.Generator:
        return seeded_generator(self.seed, _PHASES[phase], position, 0, device=device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, with the terms and the metric logged under train/."""
        terms = self.losses(batch)
        self.batches_seen += 1
        size = len(batch["image"])
        logged = mean_over_processes({f"train/{key}": value.detach() for key, value in self._logged(terms).items()})
        self.log_dict(logged, batch_size=size)
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
        """Lightning's hook: calls `before_epoch`."""
        self.before_epoch()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Updates teachers within the step: a checkpoint of a callback would otherwise hold the teacher of the step before."""
        super().optimizer_step(*args, **kwargs)
        self.after_step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores how many batches have been seen, from which the views of the next batch are drawn."""
        checkpoint["ssl_med"] = {"batches_seen": self.batches_seen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores how many batches have been seen."""
        self.batches_seen = checkpoint["ssl_med"]["batches_seen"]

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Optimiser and schedule that `optim` describes."""
        return configure(self, self.optim, batch_size=self.batch_size)
