"""The contract of an exporter: one file in `ssl_med/weights/export`, one public subclass of `Exporter`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from ssl_med.catalogue import get_class, list_names, nearest
from ssl_med.checkpoint import Card
from ssl_med.contract import InputContract
from ssl_med.networks.pyramid import Backbone, Decoder
from ssl_med.spec import SslMedError

PACKAGE = "ssl_med.weights.export"


@dataclass(frozen=True)
class Regions:
    """What a fine-tuned network has beyond its decoder.

    * head: convolution to one channel for each region. * names: of the regions. * softmax: they exclude each other, and the
      background is a class. * largest: flags of regions of which only the largest piece is kept. * overlap: of windows.
    """

    head: nn.Module
    names: tuple[str, ...]
    softmax: bool = False
    largest: tuple[bool, ...] = ()
    overlap: float = 0.5


@dataclass(frozen=True)
class Source:
    """What is exported: a network in evaluation mode, filled, with its card; decoder: None where the file has none.

    * path: the backbone file or the folder of the run that it came from. * regions: of a fine-tuned segmentation.
    """

    path: Path
    backbone: Backbone
    decoder: Decoder | None
    card: Card
    regions: Regions | None = None

    @property
    def contract(self) -> InputContract:
        """What images must be."""
        return self.card.input_contract()


class Exporter(ABC):
    """Writes a network in the form in which another program reads it.

    `ssl-med weights export RUN|FILE to=NAME out=PATH` calls `check`, then `write`; `out` is not there yet.
    """

    ending: ClassVar[str]
    """what `out` must end in, such as .pth; "": it is a folder"""

    @abstractmethod
    def check(self, source: Source) -> None:
        """Refuses a network that this form does not know, before anything is written.

        Raises:
            SslMedError: says what it can take.
        """

    @abstractmethod
    def write(self, source: Source, out: Path) -> list[str]:
        """Writes it; returns lines for the user: what was written, what could not be said in this form, and how it is read."""


def exporter_of(name: str) -> Exporter:
    """The exporter in ssl_med/weights/export/NAME.py.

    Raises:
        SslMedError: there is none; the text offers the nearest name.
    """
    known = list_names(PACKAGE)
    if name not in known:
        raise SslMedError(f"to={name}: is unknown{nearest(name, known)}")
    found: Exporter = get_class(PACKAGE, name, kind="exporter", base=Exporter)()
    return found


def export(source: Source, name: str, out: Path) -> list[str]:
    """Checks and writes; arguments as the command's.

    Raises:
        SslMedError: an unknown form, a network that it does not know, or an `out` that is there or has another ending.
    """
    exporter = exporter_of(name)
    if out.suffix != exporter.ending:
        kind = f"end in {exporter.ending}" if exporter.ending else "be a folder, without an ending"
        raise SslMedError(f"out={out}: to={name} must {kind}")
    if out.exists():
        raise SslMedError(f"out={out}: is there already; remove it or choose another name")
    exporter.check(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    return exporter.write(source, out)
