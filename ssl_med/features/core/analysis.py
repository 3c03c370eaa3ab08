"""The contract of an analysis: it looks at a frozen encoder on images and gives numbers, rows, arrays and figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ssl_med.features.core.images import Images
from ssl_med.ranges import check_ranges

if TYPE_CHECKING:  # what is measured without a figure needs no matplotlib
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Findings:
    """What an analysis found of one network.

    * numbers: name -> value, for tables and for comparison between networks.
    * headline: the name of the number that stands for all in one line.
    * rows: one dictionary per image, "case" first, where the analysis speaks of single images.
    * arrays: what `draw` and `between` need, kept beside the numbers.
    * notes: what the reader should know.
    """

    numbers: dict[str, float]
    headline: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing:
    """A figure with the name of its file, a title for those who cannot see it, and a line on how to read it."""

    stem: str
    title: str
    figure: Figure
    caption: str = ""


class Analysis(ABC):
    """One analysis: a file in `ssl_med/features` with one public subclass and its `Config`.

    Args:
        config: an instance of `Config`.
    """

    Config: ClassVar[type]
    paper: ClassVar[str]
    labels: ClassVar[Literal["none", "optional", "needed"]] = "none"
    """whether it reads labels: with "needed" the command asks for task=NAME, with "optional" it takes data=NAME, too"""
    decoder: ClassVar[bool] = False
    """whether it needs the pretrained decoder"""

    parts: ClassVar[tuple[str, ...]] = ()
    """parts of the split that it learns from, beside the images that it looks at: `Images.others`"""

    restores: ClassVar[bool] = False
    """whether it needs a pretraining that restores images: `Images.restore`"""

    def __init__(self, config: Any) -> None:
        check_ranges(config, "features")
        self.config = config

    @abstractmethod
    def measure(self, images: Images) -> Findings:
        """Looks at the encoder on all images; its weights and modes are afterwards as they were.

        Raises:
            SslMedError: too few images, or features that are not finite.
        """

    def passes(self, images: Images) -> int:
        """Images that go through the encoder in all; where they are more than one each, the command foretells its time."""
        return images.count

    def seconds(self, images: Images) -> float:
        """The time that all of them will take, as the command foretells it."""
        return self.passes(images) * images.pace()

    def between(self, found: Mapping[str, Findings]) -> dict[str, float]:
        """Numbers that relate networks, "A | B/name" for networks A and B; found: name of the network -> its findings."""
        return {}

    def draw(self, found: Mapping[str, Findings]) -> Sequence[Drawing]:
        """Figures of one network or of several side by side; found: name of the network -> its findings."""
        return ()
