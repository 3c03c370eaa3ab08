"""SimCLR: Google's ResNets as simclr-converter writes them for PyTorch, and what common PyTorch programs save.

Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020. Layouts:

- tonylins/simclr-converter: `state_dict` with torchvision's keys and an `fc` of 1,000 classes. The file looks like
  torchvision's own, so the family must be named.
- Spijkervet/SimCLR: `encoder.` and `projector.{0,2}.weight`, linear layers without biases.
- sthalles/SimCLR: `state_dict` with `backbone.`, whose `fc` is the projection head `fc.0`, `fc.2`.
- PyTorch Lightning Bolts: `state_dict` with `encoder.` and `projection.model.N`.

Images are in [0, 1] without any further normalisation, in Google's code and in the first two programs for PyTorch.
"""

from __future__ import annotations

from dataclasses import replace

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder


class SimCLR(WrappedEncoder):
    """The encoder; images are not normalised."""

    citation = "Chen et al., SimCLR, ICML 2020"
    licence = "Apache-2.0 (Google's weights); ImageNet's terms for the images"
    commercial = False
    source = "https://github.com/google-research/simclr, converted by https://github.com/tonylins/simclr-converter"
    saw = ("ImageNet-1k",)
    traps = (
        "Images are in [0, 1] without a mean and a deviation: ImageNet's normalisation gives other features.",
        "TensorFlow pads the max pooling of even sides on the right alone, torch on both; sides of 32 n + 1, such as 225, "
        "give Google's features.",
        "The converter writes the classifier's bias to the wrong attribute: its `fc.bias` is random, which no encoder notices.",
        "SimCLR v2 and networks of width 2 and 4 are other networks, and are refused.",
    )
    agreement = "torchvision 0.29.1, whose networks the programs for PyTorch train: 0"
    prefixes = ("encoder.", "backbone.")
    mark = r"projector\.[02]\.weight|projection\.model\.\d+\..+|backbone\.fc\.[02]\.(weight|bias)"
    rest = (Drop(r"(projector|projection\.model)\..+", "projection head"),)

    def contract(self, file: ForeignFile) -> InputContract:
        """Values in [0, 1]."""
        found = super().contract(file)
        return replace(found, mean=(), std=(), notes=("the network takes values in [0, 1] as they are",))
