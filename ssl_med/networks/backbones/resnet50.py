"""ResNet-50 (He et al., "Deep residual learning for image recognition", CVPR 2016) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet50(ResNetBackbone):
    """3, 4, 6 and 3 bottleneck blocks; 23.5 million parameters for colour images."""

    block, blocks, expansion = "bottleneck", (3, 4, 6, 3), 4
