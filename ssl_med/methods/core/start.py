"""Weights that a pretraining starts from: an encoder, perhaps a decoder, perhaps all that a run of the method held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssl_med.methods.core.schedule import Schedule
from ssl_med.networks.clusters import Clusters
from ssl_med.networks.memory import Memory
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import SslMedError

if TYPE_CHECKING:
    from ssl_med.methods.core.base import Method

_ANEW = (Memory, Clusters, Schedule)  # what belongs to the images, or to the length, of one training


@dataclass(frozen=True)
class Start:
    """What a method begins with in place of random weights.

    * backbone: its encoder. * decoder: of the same file, if it holds one.
    * state: `state_dict()` of a run of the same method: its teacher, heads and queue go on.
    * name: of the weights, for complaints.
    """

    backbone: Backbone
    decoder: Decoder | None = None
    state: Mapping[str, Tensor] | None = None
    name: str = "start"

    @torch.no_grad()
    def fill(self, method: Method) -> str:
        """Encoder and decoder, before teachers are copied; says what was filled and what starts at random.

        Raises:
            SslMedError: the method's encoder is another network.
        """
        wanted, given = method.backbone.state_dict(), self.backbone.state_dict()
        if differing := _differing(wanted, given):
            raise SslMedError(
                f"{self.name}: its encoder is another network than {method.backbone_config.name} ({differing[0]}); give the "
                "method backbone=start.backbone.config"
            )
        method.backbone.load_state_dict(given)
        if method.decoder is None:
            return "encoder"
        if self.decoder is None:
            return "encoder; the weights have no decoder, so it starts at random"
        if self.decoder.skips != method.decoder.skips:
            skips = "skip connections" if self.decoder.skips else "no skip connections"
            return f"encoder; the weights' decoder has {skips}, the method's is another, so it starts at random"
        if differing := _differing(method.decoder.state_dict(), self.decoder.state_dict()):
            return f"encoder; the weights' decoder is another network ({differing[0]}), so it starts at random"
        method.decoder.load_state_dict(self.decoder.state_dict())
        return "encoder and decoder"

    def go_on(self, method: Method) -> str:
        """All else of a run of the same method, once everything is built; says what starts anew.

        What belongs to one training set or to the length of one training starts anew: memories and clusters of samples,
        and schedules.

        Raises:
            SslMedError: parts of the run have other shapes than the method's.
        """
        assert self.state is not None
        anew = [f"{name}." for name, part in method.named_modules() if isinstance(part, _ANEW)]
        anew += method.of_one_training
        own = method.state_dict()
        carried, given = (
            {key: value for key, value in state.items() if not key.startswith(tuple(anew))}
            for state in (own, self.state)
        )
        if differing := _differing(carried, given):
            raise SslMedError(
                f"{self.name}: the run had other settings of {type(method).__name__} or of the images, since {differing[0]}; "
                "give the same, or start from its backbone.safetensors, which holds the network alone"
            )
        method.load_state_dict({**own, **given})
        parts = [name.removesuffix(".") for name in anew if any(key.startswith(name) for key in own)]
        return "all else of the method" + (f", but anew: {', '.join(parts)}" if parts else "")


def _differing(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Which tensors two networks do not have in common, each in words."""
    found = [f"{key} is missing" for key in wanted.keys() - given.keys()]
    found += [f"{key} has no place" for key in given.keys() - wanted.keys()]
    for key in wanted.keys() & given.keys():
        theirs, mine = tuple(given[key].shape), tuple(wanted[key].shape)
        found += [f"{key} is {theirs} there and {mine} here"] if theirs != mine else []
    return sorted(found)
