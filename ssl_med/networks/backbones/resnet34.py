"""ResNet-34 (He et al., "Deep residual learning for image recognition", CVPR 2016) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet34(ResNetBackbone):
    """3, 4, 6 and 3 basic blocks; 21.3 million parameters for colour images."""

    block, blocks, expansion = "basic", (3, 4, 6, 3), 1
