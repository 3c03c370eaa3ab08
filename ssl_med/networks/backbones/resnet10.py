"""ResNet-10 as in MedicalNet (Chen et al., "Med3D", 2019) in 2D and 3D."""

from ssl_med.networks.resnet_parts import ResNetBackbone


class ResNet10(ResNetBackbone):
    """One basic block a stage; 4.9 million parameters for colour images."""

    block, blocks, expansion = "basic", (1, 1, 1, 1), 1
