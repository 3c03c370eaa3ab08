"""Samples after pipelines of MONAI transforms, seeded by (seed, epoch, index): workers and resumes change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.core.loader import Key
from datamodules.core.volumes import Sample
from ssl_med.spec import SslMedError
from ssl_med.transforms.samples.lists import TransformList
from ssl_med.transforms.samples.pipeline import Pipeline, own_globals

_TAG = 0x40A1  # keeps these draws apart from those of crops


class Transformed(Dataset[Sample]):
    """Samples of a dataset, changed: image and mask by each list in turn, `image2` of a pair with draws of its own.

    Args:
        samples: the dataset, by (epoch, index).
        lists: what is done, in order; only the last may look around the crop.
        seed: of the draws.
        patch: size of a crop.
    """

    def __init__(self, samples: Any, lists: Sequence[TransformList], *, seed: int, patch: tuple[int, ...]) -> None:
        self.samples, self.seed, self.patch = samples, seed, patch
        self.pipelines = [pipeline for pipeline in map(Pipeline, lists) if pipeline.steps]
        if hasattr(samples, "owners"):
            self.owners = samples.owners

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Sample:
        if not self.pipelines:
            sample: Sample = self.samples[key]
            return sample
        words = (self.seed, key[0] + 1, key[1], _TAG)
        with own_globals(*words):
            for number, pipeline in enumerate(self.pipelines):
                pipeline.seed(*words, number)
            size = self.pipelines[-1].window(self.patch)
            placed = getattr(self.samples, "placed", None)  # a family of the user's may know nothing of windows
            sample, window, to_world = (self.samples[key], None, None) if placed is None else placed(key, size)
            if to_world is None and "spacing" in sample:
                to_world = np.diag([*sample["spacing"].tolist(), *[1.0] * (4 - len(sample["spacing"]))])
            if window is not None:
                self.pipelines[-1].see(window.middle)
            found = self._changed(sample, "image", to_world)
            if "image2" in found:
                for number, pipeline in enumerate(self.pipelines):
                    pipeline.seed(*words, number, 2)
                found = self._changed(found, "image2", None)
        return found

    def _changed(self, sample: Sample, name: str, to_world: Any) -> Sample:
        image, mask = sample[name], sample.get("mask") if name == "image" else None
        mask = None if mask is None else mask.float()
        whole = tuple(image.shape)
        for pipeline in self.pipelines:
            image, mask = pipeline(image, mask, affine=to_world, case=sample["id"])
        size = self.patch if self.pipelines[-1].resamples else whole[1:]
        for key, x in ((name, image), ("mask", mask)):
            if x is not None and (x.dtype != torch.float32 or tuple(x.shape[1:]) != tuple(size)):
                shape, label = "x".join(map(str, x.shape)), self.pipelines[-1].label
                raise SslMedError(
                    f"{sample['id']}: {label} made {key} {shape} {str(x.dtype).removeprefix('torch.')}; training needs float32 "
                    f"of the size {'x'.join(map(str, size))}"
                )
        return {**sample, name: image, **({} if mask is None else {"mask": mask})}
