"""Augmentations that MONAI has no equal of, in its dictionary form: noise by deviation, changes by channel.

Values are those of nnU-Net (Isensee et al., Nature Methods 18, 2021; its batchgeneratorsv2), whose images have mean 0 and
deviation 1. Ours are as data.normalisation says, in [0, 1] by default, so a strength that is given in deviations is multiplied
by that of the image.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, RandomizableTransform, Transform

from ssl_med.spec import SslMedError
from ssl_med.transforms.samples.arguments import chance, span


class RandDeviationNoised(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """Gaussian noise whose deviation is a random share of that of each channel; nnU-Net's noise for images of any scale.

    Args:
        keys: image.
        std: range of the share.
        prob: chance of noise.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        std: Sequence[float] = (0.0, 0.1),
        prob: float = 0.1,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, chance(prob, "prob"))
        self.std = span(std, "std", low=0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Adds noise of its own to every key."""
        found = dict(data)
        self.randomize(None)
        for key in self.key_iterator(found) if self._do_transform else ():
            x = torch.as_tensor(found[key])
            share = torch.from_numpy(self.R.uniform(*self.std, len(x)).astype(np.float32))
            # ten times as fast as RandomState
            generator = torch.Generator().manual_seed(int(self.R.randint(2**31 - 1)))
            noise = torch.randn(x.shape, generator=generator)
            spread = x.flatten(1).std(1) if not isinstance(x, MetaTensor) else x.as_tensor().flatten(1).std(1)
            found[key] = x + noise * (share * spread).view(-1, *[1] * (x.ndim - 1))
        return found


class RandChannelsd(RandomizableTransform, MapTransform):  # type: ignore[misc]
    """An array transform on each channel with a chance of its own, with values of its own.

    Args:
        keys: image.
        transform: takes and gives (1, *S).
        prob: chance that anything is done.
        channel_prob: chance of each channel, then.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: Transform,
        prob: float = 1.0,
        channel_prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, chance(prob, "prob"))
        if not isinstance(transform, Transform) or isinstance(transform, MapTransform):
            raise SslMedError(
                "argument 'transform' must be an array transform, {_target_: RandGaussianSmooth, prob: 1}"
            )
        self.transform, self.channel_prob = transform, chance(channel_prob, "channel_prob")

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandChannelsd:
        """Also of the transform inside."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Changes some channels of every key."""
        found = dict(data)
        self.randomize(None)
        for key in self.key_iterator(found) if self._do_transform else ():
            x = found[key]
            chosen = np.flatnonzero(self.R.random_sample(len(x)) < self.channel_prob).tolist()
            if not chosen:
                continue
            changed = x.clone()
            for channel in chosen:
                changed[channel : channel + 1] = self.transform(x[channel : channel + 1])
            found[key] = changed
        return found
