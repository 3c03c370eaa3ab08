"""Corruptions of Models Genesis against plain loops and MONAI: a table of `make bench ARGS=speed`."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from experiments.bench import references as reference
from experiments.bench.inputs import crops_like_ct, method_of_size
from experiments.bench.variants import BASE, LAW, NEAR, BenchSpeedConfig, Variant, table
from experiments.run.environment import say
from ssl_med.methods.models_genesis import ModelsGenesis, ModelsGenesisConfig
from ssl_med.spec import Batch
from ssl_med.transforms import _compiled, corruptions
from ssl_med.transforms.intensity import nonlinear


def transforms(config: BenchSpeedConfig) -> list[dict[str, Any]]:
    """Corruptions of Models Genesis, one after the other and as its generation of pairs."""
    generator, shape, windows = torch.Generator().manual_seed(0), config.patch, config.windows
    random.seed(0)
    np.random.seed(0)
    x = crops_like_ct(config.crops, shape, generator)
    images = list(x.numpy())
    maps = corruptions.shuffle_maps(config.maps, shape, generator, windows=windows)
    if _compiled.sources() is None:
        say("\nnumba is not installed: rows with and without it are the same")

    def loop(work: Callable[[Any], Any]) -> Variant:
        return Variant("definition", BASE, lambda: [work(image) for image in images], len(images))

    def ours(name: str, equivalence: str, work: Callable[[], Any]) -> Variant:
        return Variant(name, equivalence, work, len(x))

    exact = ours("ours", LAW, lambda: corruptions.local_shuffle(x, generator, p=1.0, windows=windows))
    plain = ours("ours, without numba", LAW, lambda: _without_numba(exact.work))
    pooled = ours(
        "ours, pooled", "same law, few maps", lambda: corruptions.pooled_shuffle(x, generator, maps=maps, p=1.0)
    )
    shuffling = f"local shuffling, {windows:,} windows"
    genesis = ModelsGenesisConfig(windows=windows)
    methods = [
        method_of_size(ModelsGenesis, ModelsGenesisConfig(windows=windows, pooled=n), config) for n in (0, config.maps)
    ]
    batch: Batch = {"image": x}
    pieces = {
        "Models Genesis pair": [
            loop(lambda image: reference.generate_pair(image, genesis)),
            ours("ours", LAW, lambda: methods[0].views(batch, generator)),
            ours("ours, without numba", LAW, lambda: _without_numba(lambda: methods[0].views(batch, generator))),
            ours("ours, pooled", "same law, few maps", lambda: methods[1].views(batch, generator)),
        ],
        shuffling: [loop(lambda image: reference.local_shuffle(image, windows=windows)), exact, plain, pooled],
        f"{shuffling}, against MONAI": [
            _monai_shuffle(x[0], windows),
            replace(exact, equivalence=NEAR),
            replace(plain, equivalence=NEAR),
            replace(pooled, equivalence=NEAR),
        ],
        "non-linear": [
            loop(reference.nonlinear),
            ours("ours", NEAR, lambda: nonlinear(x, generator, p=1.0)),
        ],
        "in-painting": [loop(reference.inpaint), ours("ours", LAW, lambda: corruptions.inpaint(x, generator))],
        "out-painting": [loop(reference.outpaint), ours("ours", LAW, lambda: corruptions.outpaint(x, generator))],
    }
    size = "×".join(map(str, shape))
    return table(f"Transforms, per crop of {size}, batches of {len(x)}", pieces, config.repeats)


def _without_numba(work: Callable[[], Any]) -> None:
    with mock.patch.object(_compiled, "sources", return_value=None):
        work()


def _monai_shuffle(image: Tensor, windows: int) -> Variant:
    """MONAI's nearest transform: it shuffles the current content, so a value can wander from window to window."""
    from monai.transforms.intensity.array import RandCoarseShuffle

    largest = [side // 10 for side in image.shape[1:]]
    shuffle = RandCoarseShuffle(holes=windows, spatial_size=1, max_spatial_size=largest, prob=1.0)
    return Variant("MONAI RandCoarseShuffle", BASE, lambda: shuffle(image))
