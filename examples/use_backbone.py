"""Use a pretrained encoder outside of the suite: as features, and inside a network of your own.

python examples/use_backbone.py RUN      (a folder that `ssl-med pretrain` or ssl_med.pretrain wrote)
"""

import sys

import torch
from torch import Tensor, nn

import ssl_med


class Classifier(nn.Module):
    """A network of your own around the encoder; like MONAI's, it is a plain module that any training loop takes."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, classes)."""
        pyramid = self.encoder(x)  # finest level first; encoder.channels and encoder.strides describe it
        return self.head(self.encoder.pool(pyramid))


def main(run: str) -> Classifier:
    """Says what images the encoder expects, takes features, and makes one training step with a head of its own."""
    encoder, contract = ssl_med.load_backbone(run)
    scale = contract.intensity
    print(f"pretrained on {contract.name}: {contract.in_channels} channel(s), {contract.spatial_dims}D")
    print(f"spacing {contract.spacing_mm or 'as acquired'}, axes {contract.orientation or 'of the image'}")
    print(f"intensities: {scale.kind} {scale.low:g} to {scale.high:g} {scale.unit} becomes 0 to 1")

    images = torch.rand(4, contract.in_channels, *contract.patch_size)  # yours, as the contract says
    print(f"features: {ssl_med.embed(encoder, images).shape}")

    network = Classifier(encoder, classes=2).train()
    loss = nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 0, 1]))
    loss.backward()
    print(f"loss of a new head: {float(loss.detach()):.3f}")
    return network


if __name__ == "__main__":
    main(*sys.argv[1:])
