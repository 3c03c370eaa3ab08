"""Fine-tuning: one LightningModule joins a backbone (pretrained or not), a task and an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ssl_med.distributed import gather, gather_objects, mean_over_processes, own_rows
from ssl_med.evaluation.averaging import WeightAverage
from ssl_med.evaluation.components import Verdict, judged
from ssl_med.evaluation.protocols.finetune import TransferConfig, parts, start_steps
from ssl_med.evaluation.tasks import PooledTask, Row, Segmentation, Task, TaskConfig, mirror_axes, task_class
from ssl_med.finite import check_rows
from ssl_med.losses.classification import mixed
from ssl_med.networks.init import init_weights
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.optim import OptimConfig, configure
from ssl_med.rng import seeded_generator
from ssl_med.spec import Batch, DataSpec
from ssl_med.transforms.spatial import flip, random_resized_crop, small_rotation


class Transfer(pl.LightningModule):
    """Trains on the task, what the protocol says; afterwards `test_rows`, `test_index` and `test_metrics` hold the result.

    A level of the encoder that is not trained yet takes part in the backward pass and loses its gradients before the step:
    the wrapper of several devices does not follow parameters that come to be trained later.

    Args:
        spec: of the labelled data.
        backbone: the encoder, already filled.
        decoder: for segmentation, filled or at its initialisation.
        task, optim: their configs.
        init: scheme of the task head's initialisation.
        batch_size: samples per step over all devices.
        seed: of the augmentation.
        transfer: which levels of the encoder are trained, from which step, at which rate.
        epoch_batches: batches of what the schedule calls an epoch; 0: those of the loader.
    """

    def __init__(
        self,
        *,
        spec: DataSpec,
        backbone: Backbone,
        decoder: Decoder | None,
        task: TaskConfig,
        optim: OptimConfig,
        init: str = "torch",
        batch_size: int,
        seed: int = 0,
        transfer: TransferConfig | None = None,
        epoch_batches: int = 0,
    ) -> None:
        super().__init__()
        self.transfer, self.epoch_batches = transfer or TransferConfig(), epoch_batches
        self.starts = start_steps(self.transfer, len(backbone.channels))
        self.spec, self.optim, self.batch_size, self.seed = spec, optim, batch_size, seed
        self.backbone, self.decoder = backbone, decoder
        self.task: Task = task_class(spec)(task, spec, backbone, decoder)
        init_weights(self.task, init)
        if self.transfer.protocol == "frozen":
            self.backbone.requires_grad_(False)
        self.average: WeightAverage | None = None
        self.batches_seen = 0
        self._rows: list[Row] = []
        self.test_rows: list[Row] = []
        self.test_metrics: dict[str, float] = {}
        self.test_index: dict[str, int] = {}  # case -> place in the test part

    def setup(self, stage: str) -> None:
        """Copies the network for its average, once all that is known before training is in it."""
        if stage == "fit" and self.transfer.ema and self.average is None:
            self.average = WeightAverage(self._trained(), self.transfer.ema)

    def _trained(self) -> nn.ModuleDict:
        parts = {"backbone": self.backbone, "decoder": self.decoder, "task": self.task}
        return nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def answer(self, image: Tensor) -> Tensor:
        """Logits for evaluation images, of the averaged weights where there are some."""
        if self.average is None:
            return self.task.predict(image, self.backbone, self.decoder)
        found: Any = dict(self.average.network.named_children())
        logits: Tensor = found["task"].predict(image, found["backbone"], found.get("decoder"))
        return logits

    def settle(self) -> None:
        """After training: the averaged weights take the place of the trained ones, for good."""
        if self.average is not None:
            self._trained().load_state_dict(self.average.network.state_dict())
            self.average = None

    def augment(self, batch: Batch) -> Batch:
        """Random flips; for images also a mild random resized crop and rotation. Masks follow their images.

        With task.augment the loader has changed the samples already.
        """
        config = self.task.config
        if config.augment:
            return batch
        generator = seeded_generator(self.seed, self.batches_seen, 0, device=batch["image"].device)
        image, mask = batch["image"], batch.get("mask")
        # of the global batch, so that nothing depends on the number of processes; each keeps its part
        image, mask = gather(image), None if mask is None else gather(mask)
        channels = image.shape[1]
        if self.spec.spatial_dims == 2 and mask is None:
            if config.crop_scale < 1:
                image = random_resized_crop(image, generator, scale=(config.crop_scale, 1.0))
            if config.rotation_deg > 0:
                image = small_rotation(image, generator, degrees=config.rotation_deg)
        if config.flips:
            joint = image if mask is None else torch.cat([image, mask], 1)
            joint = flip(joint, generator, p=0.5, axes=mirror_axes(config, self.spec))
            image = joint[:, :channels]
            mask = None if mask is None else joint[:, channels:]
        result: Batch = {**batch, "image": own_rows(image)}
        if mask is not None:
            result["mask"] = own_rows(mask)
        return result

    def mix(self, batch: Batch) -> Batch:
        """Mixup of images and labels over the global batch, so that nothing depends on the number of processes."""
        assert isinstance(self.task, PooledTask)
        image, target = gather(batch["image"]), gather(self.task.soft(batch["label"]))
        rng = np.random.default_rng([self.seed, self.batches_seen, 1])
        alpha, device = self.task.config.mixup, image.device
        share = torch.as_tensor(rng.beta(alpha, alpha, len(image)), device=device)
        order = torch.as_tensor(rng.permutation(len(image)), device=device)
        image, target = mixed(image, share, order), mixed(target, share, order)
        return {**batch, "image": own_rows(image), "label": own_rows(target)}

    def waiting(self) -> tuple[int, ...]:
        """Levels of the encoder that are not trained at this step."""
        return tuple(level for level, start in enumerate(self.starts) if self.global_step < start)

    def train(self, mode: bool = True) -> Transfer:
        """Levels that are not trained stay in evaluation mode: their normalisation statistics neither change nor mix."""
        super().train(mode)
        if mode:
            levels = self.backbone.levels_of_modules()
            for level in self.waiting():
                for module in levels[level]:
                    module.eval()
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        if max(self.starts) > 0:
            self.train()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:  # noqa: D102
        levels = self.backbone.levels_of_modules()
        for level in self.waiting():
            for module in levels[level]:
                for parameter in module.parameters():
                    parameter.grad = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self._trained())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: D102
        with torch.no_grad():
            batch = self.augment(batch)
            if self.task.config.mixup:
                batch = self.mix(batch)
        self.batches_seen += 1
        loss = self.task.training_loss(batch, self.backbone, self.decoder)
        self.log_dict(mean_over_processes({"train/loss": loss.detach()}), batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, self.task.rows, with_loss=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: D102
        self._evaluate(batch, self.task.test_rows, with_loss=False)

    def _evaluate(self, batch: Batch, rows: Callable[[Tensor, Batch], list[Row]], *, with_loss: bool) -> None:
        logits = self.answer(batch["image"])
        loss = float(self.task.loss(logits, batch)) if with_loss else math.nan
        ends = torch.stack(logits.detach().flatten(1).aminmax(dim=1))
        sizes = ends.abs().amax(0).tolist()  # not finite where an answer is not
        places = zip(rows(logits, batch), batch["subject"].tolist(), batch["index"].tolist(), sizes, strict=True)
        for row, subject, index, size in places:
            about = {"loss": loss, "index": index, "size": size}
            self._rows.append({"case": row["case"], "subject": subject, **row, **about})

    @torch.no_grad()
    def judge_pieces(self, batches: Iterable[Batch]) -> Verdict:
        """Decides by validation batches of which regions only the largest piece is kept from now on; see `components`."""
        assert isinstance(self.task, Segmentation)
        self.eval()
        moved = (self.transfer_batch_to_device(batch, self.device, 0) for batch in batches)
        found = ((batch["id"], self.task.answers(self.answer(batch["image"])), batch["mask"]) for batch in moved)
        verdict = judged(found, self.spec.class_names)
        self.task.largest = tuple(one["largest_only"] for one in verdict.values())
        return verdict

    @torch.no_grad()
    def picture(self, batch: Batch) -> dict[str, np.ndarray]:
        """What the test saw and answered for the first sample of a batch; see `Task.picture`."""
        self.eval()
        return self.task.picture(self.answer(batch["image"]), batch)

    def _collect(self) -> tuple[list[Row], float, dict[str, int]]:
        """Rows of all processes by case, their mean loss, and the place of each case in its part."""
        found = {row["case"]: row for row in gather_objects(self._rows)}  # a padded last batch may repeat a case
        self._rows = []
        rows = [found[case] for case in sorted(found)]
        check_rows([row["case"] for row in rows], torch.tensor([row.pop("size") for row in rows]), "answers")
        return rows, float(np.mean([row.pop("loss") for row in rows])), {row["case"]: row.pop("index") for row in rows}

    def on_validation_epoch_end(self) -> None:  # noqa: D102
        rows, loss, _ = self._collect()
        metrics = self.task.summarize(rows)
        values = {"val/loss": loss, f"val/{self.task.metric}": metrics[self.task.metric]}
        self.log_dict({key: torch.tensor(value) for key, value in values.items()}, rank_zero_only=False)

    def on_test_epoch_end(self) -> None:  # noqa: D102
        self.test_rows, _, self.test_index = self._collect()
        self.test_metrics = {f"test/{key}": value for key, value in self.task.summarize(self.test_rows).items()}
        self.log_dict({key: torch.tensor(value) for key, value in self.test_metrics.items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        checkpoint["ssl_med"] = {"batches_seen": self.batches_seen}
        if self.average is not None:
            self.average.swap_in(checkpoint, "average.")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:  # noqa: D102
        self.batches_seen = checkpoint["ssl_med"]["batches_seen"]
        if self.average is not None:
            self.average.swap_out(checkpoint, "average.")

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]  # noqa: D102
        return configure(
            self,
            self.optim,
            batch_size=self.batch_size,
            parts=parts(self.transfer, self.backbone, [self.decoder, self.task]),
            epoch_batches=self.epoch_batches,
        )
