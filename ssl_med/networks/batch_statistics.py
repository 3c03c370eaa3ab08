"""Batch normalisation by the statistics of the batch in evaluation too, as Models Genesis' networks have it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BatchStatistics(nn.modules.batchnorm._BatchNorm):
    """In training the usual layer; in evaluation it normalises by mean and variance of the batch, and changes nothing.

    The features of an image then depend on the images beside it, and a batch of one image with one voxel has none. Running
    statistics are kept, so that its tensors are those of an ordinary layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> the same shape.

        Raises:
            ValueError: one value for each channel.
        """
        if self.training:
            return super().forward(x)
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, momentum=0.0, eps=self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of axes."""


def use_batch_statistics(module: nn.Module) -> None:
    """Replaces every batch normalisation inside a module, in place; tensors and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            own = BatchStatistics(child.num_features, eps=child.eps, momentum=child.momentum)
            own.load_state_dict(child.state_dict())
            setattr(module, name, own)
        else:
            use_batch_statistics(child)
