"""ResNet-152 (He et al., "Deep residual learning for image recognition", CVPR 2016) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet152(ResNetBackbone):
    """3, 8, 36 and 3 bottleneck blocks; 58.1 million parameters for colour images."""

    block, blocks, expansion = "bottleneck", (3, 8, 36, 3), 4
