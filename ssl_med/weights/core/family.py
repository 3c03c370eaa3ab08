"""The contract of a family of foreign weights: one file in `ssl_med/weights`, one public subclass of `Family`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from ssl_med.contract import InputContract
from ssl_med.networks.pyramid import BackboneConfig
from ssl_med.weights.core.files import ForeignFile, State
from ssl_med.weights.core.rules import Rule


class Architecture(NamedTuple):
    """The network that a file's tensors fill; `decoder`: with our encoder's decoder, under "decoder." and its names.

    skips: whether that decoder uses the encoder's skip connections.
    """

    config: BackboneConfig
    spatial_dims: int
    in_channels: int
    decoder: bool = False
    skips: bool = True


class Family(ABC):
    """Weights that were trained elsewhere and share one layout of keys.

    A family says which files it knows, which network they fill, what its images looked like and how its names become ours.
    The import does the rest, and refuses whatever stays unexplained. Loading every key does not prove that the network
    computes the same: each family has a case in `tests/weights/cases` that compares features with an independent forward.
    """

    citation: ClassVar[str]
    """paper, in a few words: who, what, where, when"""
    licence: ClassVar[str]
    """of the weights"""
    commercial: ClassVar[bool | None]
    """whether it and the terms of the images allow commercial use; None: not known, or each file has its own"""
    source: ClassVar[str]
    """where a user gets the files"""
    containers: ClassVar[tuple[str, ...]] = ("state_dict", "model_state_dict", "model", "network_weights", "net", "")
    """where in a file the tensors lie, best first; "model/teacher" is a container in another one, "" the file itself"""
    keeps: ClassVar[Mapping[str, str]] = {r".*\.num_batches_tracked": "count of batches, which older files do not have"}
    """pattern of our names -> why a file need not hold them: the network builds them itself"""
    saw: ClassVar[tuple[str, ...]] = ()
    """public data sets that the weights saw in their pretraining, as their paper says: "LiTS", "LUNA16" """
    traps: ClassVar[tuple[str, ...]] = ()
    """what goes wrong elsewhere with these weights, a sentence each; docs/weights.md shows them"""
    pickles: ClassVar[Mapping[str, str]] = {}
    """package whose objects a released file pickles -> how a user who trusts the file saves its tensors alone"""
    agreement: ClassVar[str] = ""
    """largest difference from the original implementation, as it was measured: "torchvision 0.20: 2e-6"; "": not measured"""

    @abstractmethod
    def recognises(self, file: ForeignFile) -> bool:
        """Whether a file's tensors have this family's layout; its shapes may tell two families apart."""

    def admits(self, file: ForeignFile) -> bool:
        """Whether a file that the user says is this family's can be it.

        More than `recognises` where the files of two families look alike: the one that is found without a name recognises
        them, the other admits them.
        """
        return self.recognises(file)

    @abstractmethod
    def architecture(self, file: ForeignFile) -> Architecture:
        """The network that the tensors fill, from their shapes and from what the file says.

        Raises:
            SslMedError: a size that we do not have.
        """

    @abstractmethod
    def contract(self, file: ForeignFile) -> InputContract:
        """What images must be. Its mean and std become part of the network (`backbone.input_mean`, `backbone.input_std`)."""

    @abstractmethod
    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """How the file's names become those of our encoder, and what is left out for which reason."""

    def seen(self, file: ForeignFile) -> Sequence[str]:
        """Public data sets that these weights saw; `saw`, unless the file says which."""
        return self.saw

    def adjust(self, tensors: State, file: ForeignFile) -> list[str]:
        """Changes renamed tensors in place where names alone do not do; returns a line for each thing that it did."""
        return []
