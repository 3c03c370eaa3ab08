"""What an analysis looks at: the images of one data set and a frozen encoder, in portions, with what was finished kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ssl_med.evaluation.features import Features, arithmetic, extract, pooled
from ssl_med.files import new_file
from ssl_med.networks.pyramid import Backbone
from ssl_med.spec import Batch, DataSpec

Arrays = Mapping[str, np.ndarray]
T = TypeVar("T")


@dataclass
class Images:
    """The samples of one data set, and the frozen encoder that looks at them.

    * backbone: in evaluation mode, on `device`, without gradients of its weights.
    * spec: of the images, and of the labels where there are any.
    * load: starts a pass over all samples in order, as batches of `ssl_med.spec.Batch`.
    * count: number of samples. * subjects: the patient of each sample, as a number.
    * device: where to compute. * seed: of everything random. * precision: of the encoder, as trainer.precision.
    * decoder: the pretrained decoder, where the weights hold one and the analysis asks for it.
    * kept_in: folder in which finished parts are kept until the run has ended; None keeps nothing.
    * restore: images (B, C, *S) and a generator -> what a pretraining makes of them, see `ssl_med.methods.core.restoring`.
    * progress: whether bars are shown. * others: images of other parts of the split, by `Analysis.parts`.
    """

    backbone: Backbone
    spec: DataSpec
    load: Callable[[], Iterable[Batch]]
    count: int
    subjects: Sequence[int]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    precision: str = "32"
    decoder: nn.Module | None = None
    restore: Callable[[Tensor, torch.Generator], Mapping[str, Tensor]] | None = None
    kept_in: Path | None = None
    progress: bool = False
    others: Mapping[str, Images] = field(default_factory=dict)

    def batches(self, doing: str = "images") -> Iterator[Batch]:
        """One pass over all samples, on the device; `doing` names the progress bar."""
        for batch in self.shown(self.load(), doing):
            there: Any = {
                key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()
            }
            yield there

    def shown(self, steps: Iterable[T], doing: str, *, total: int | None = None) -> Iterable[T]:
        """The same steps below a progress bar."""
        bar: Iterable[T] = tqdm(steps, desc=doing, total=total, disable=not self.progress, leave=False)
        return bar

    @torch.inference_mode()
    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, C, *S) -> every level of the pyramid, finest first, (B, channels[i], *S[i])."""
        with arithmetic(self.device, self.precision):
            found: list[Tensor] = self.backbone(image)
        return [level.float() for level in found]

    @torch.inference_mode()
    def pooled(self, image: Tensor) -> Tensor:
        """(B, C, *S) -> the global average of the last level, (B, D)."""
        with arithmetic(self.device, self.precision):
            return pooled(self.backbone, image, (len(self.backbone.channels) - 1,)).float()

    def pooled_levels(self) -> list[Tensor]:
        """Pooled features of all samples, level by level: (N, channels[i]) float32 on the CPU, finest level first.

        Raises:
            NotFiniteError: a feature is nan or infinite.
        """
        return self.by_level(self.all_features(range(len(self.backbone.channels))).x)

    def by_level(self, joined: Tensor) -> list[Tensor]:
        """(N, D) of all levels joined -> (N, channels[i]) of each."""
        return list(torch.split(joined, list(self.backbone.channels), dim=1))

    def all_features(self, levels: Sequence[int] = (-1,)) -> Features:
        """Names of all samples, their pooled features of some levels, joined, and their labels; on the CPU.

        Args:
            levels: of the pyramid, 0 the finest, -1 the last.

        Returns:
            Features (N, D) float32; labels (N,) int64 or (N, K) float32, 0 where there are none.

        Raises:
            NotFiniteError: a feature is nan or infinite.
        """
        last = len(self.backbone.channels)
        chosen = tuple(level % last for level in levels)

        def features_of(batch: Batch) -> tuple[list[str], Tensor, Tensor]:
            joined = pooled(self.backbone, batch["image"], chosen)
            labels = batch.get("label", torch.zeros(len(joined), dtype=torch.int64))
            return list(batch["id"]), joined, labels

        batches = self.shown(self.load(), "features")
        return extract(self.backbone, batches, features_of, device=self.device, precision=self.precision)

    def pictures(self, numbers: Collection[int]) -> dict[int, np.ndarray]:
        """Pixels (C, *S) float32 of the samples of these numbers, in order; the pass ends with the last one."""
        found, start = {}, 0
        for batch in self.load():
            for place in range(len(batch["image"])):
                if start + place in numbers:
                    found[start + place] = batch["image"][place].float().cpu().numpy()
            start += len(batch["image"])
            if len(found) == len(numbers):
                break
        return found

    def pace(self) -> float:
        """Seconds that an image takes through the encoder, measured on one portion."""
        batch = next(iter(self.load()))["image"].to(self.device)
        return self.timed(lambda: self.pooled(batch)) / len(batch)

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds of `work` on the device, done once before, which also sets up."""
        work()
        start = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What `make` returns, from its file where an earlier start of the same run has finished it.

        Args:
            name: of the part, unique in the run; letters, digits, points and dashes.
            make: computes it.
        """
        if self.kept_in is None:
            return make()
        path = self.kept_in / f"{name}.safetensors"
        if path.is_file():
            try:
                known: Arrays = load_file(path)
                return known
            except (SafetensorError, OSError, ValueError):
                path.unlink()  # damaged: it is made again
        found = {key: np.ascontiguousarray(value) for key, value in make().items()}
        with new_file(path) as file:
            save_file(found, file)
        return found
