"""ResNet-101 (He et al., "Deep residual learning for image recognition", CVPR 2016) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet101(ResNetBackbone):
    """3, 4, 23 and 3 bottleneck blocks; 42.5 million parameters for colour images."""

    block, blocks, expansion = "bottleneck", (3, 4, 23, 3), 4
