"""nnU-Net's plain convolutional encoder (Isensee et al., Nature Methods 2021): two convolutions a stage, no pooling layers."""

from ssl_med.networks.nnunet_parts import PlannedBackbone


class PlainConv(PlannedBackbone):
    """Convolution, normalisation and leaky ReLU; the first convolution of a stage has its stride."""
