"""ResNet-18 (He et al., "Deep residual learning for image recognition", CVPR 2016) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet18(ResNetBackbone):
    """Two basic blocks a stage; 11.2 million parameters for colour images."""

    block, blocks, expansion = "basic", (2, 2, 2, 2), 1
