"""Models Genesis: the 3D U-Net that restored deformed chest CT, encoder and decoder, and the layout that others share with it.

Zhou et al., "Models Genesis", Medical Image Analysis 2021. Keys, behind `module.`: down_tr{64,128,256,512}.ops.{0,1}.{conv1,
bn1}, up_tr{256,128,64}.{up_conv, ops.{0,1}.{conv1,bn1}}, out_tr.final_conv. Crops of 64 x 64 x 32 voxels along x, y, z, in
[-1000, 1000] HU, not resampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule, strip

WRAPPERS = ("module.", "classficationNet.")  # the second is the original's spelling
DOWN, UP = (64, 128, 256, 512), (256, 128, 64)
_UNIT = r"(conv1\.(weight|bias)|bn1\.(weight|bias|running_mean|running_var|num_batches_tracked))"
_LAYOUT = re.compile(
    rf"down_tr(64|128|256|512)\.ops\.[01]\.{_UNIT}|up_tr(256|128|64)\.(up_conv\.(weight|bias)|ops\.[01]\.{_UNIT})|"
    r"out_tr\.final_conv\.(weight|bias)"
)


class ModelsGenesis(Family):
    """The U-Net alone, without any other head."""

    citation = "Zhou, Sodha, Pang, Gotway, Liang: Models Genesis, MICCAI 2019 and Medical Image Analysis 2021"
    licence = "Arizona State University: academic and other non-commercial research only"
    commercial = False
    source = "https://github.com/MrGiovanni/ModelsGenesis: Genesis_Chest_CT.pt"
    saw = ("LUNA16",)
    traps = (
        "The original normalises by the statistics of the batch in evaluation too, so its features depend on the images "
        "beside one. Here running statistics are used; backbone.batch_statistics=true computes what the original does.",
        "Axes are x, y, z: arrays as SimpleITK reads them are z, y, x, and load without a complaint.",
        "The restoration head ends in a sigmoid; a segmentation head on top of it trains badly.",
    )
    agreement = "ModelsGenesis 12f7feb, batch statistics: encoder 0, decoder 3.5e-6 (features up to 7)"

    def recognises(self, file: ForeignFile) -> bool:
        """Every key is one of the U-Net's."""
        return all(_LAYOUT.fullmatch(key) for key in map(bare, file.state)) and holds_unet(file)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Widths and channels are those of the file; the decoder comes along where it is there."""
        return unet(file)

    def contract(self, file: ForeignFile) -> InputContract:
        """Chest CT, or MR for the weights that the authors trained on it."""
        return chest_ct("the authors' MR weights take 0 to 4000 in place of it, scaled to [0, 1]")

    def rules(self, file: ForeignFile) -> list[Rule]:
        """The restoration head is left out."""
        return [*UNET]


# names of the U-Net's parts; other families put what they leave out before it
UNET: tuple[Rule, ...] = (
    *strip(*WRAPPERS),
    Drop(r"out_tr\..*", "restoration head"),
    *(Rename(rf"down_tr{width}\.ops\.(.*)", rf"levels.{level}.\1") for level, width in enumerate(DOWN)),
    *(Rename(rf"up_tr{width}\.up_conv\.(.*)", rf"decoder.up.{step}.\1") for step, width in enumerate(UP)),
    *(Rename(rf"up_tr{width}\.ops\.(.*)", rf"decoder.levels.{step}.\1") for step, width in enumerate(UP)),
    Rename(r"(.*)\.conv1\.(weight|bias)", r"\1.conv.\2"),
    Rename(r"(.*)\.bn1\.(.*)", r"\1.adn.N.\2"),
)


def bare(key: str) -> str:
    """A key without the prefixes of wrappers."""
    for prefix in WRAPPERS:
        key = key.removeprefix(prefix)
    return key


def holds_unet(file: ForeignFile) -> bool:
    """Whether the first convolution of such a U-Net is there, in 3D."""
    return any(bare(key) == "down_tr64.ops.0.conv1.weight" and value.ndim == 5 for key, value in file.state.items())


def unet(file: ForeignFile, *, skips: bool = True, prefix: str = "") -> Architecture:
    """The U-Net of a file's widths behind `prefix` and those of wrappers; skips: whether its decoder uses them."""
    shapes = {bare(key.removeprefix(prefix)): tuple(value.shape) for key, value in file.state.items()}
    first = shapes["down_tr64.ops.0.conv1.weight"]
    widths: Sequence[int] = [shapes[f"down_tr{width}.ops.1.conv1.weight"][0] for width in DOWN]
    config = backbone_config("unet", channels=(first[0], *widths))
    return Architecture(config, 3, first[1], decoder="up_tr256.up_conv.weight" in shapes, skips=skips)


def chest_ct(*notes: str) -> InputContract:
    """Crops of LUNA16's scans, as all of these families cut them."""
    return InputContract(
        modality="CT",
        patch_size=(64, 64, 32),
        low=-1000.0,
        high=1000.0,
        unit="HU",
        orientation="LPS",
        notes=("not resampled: voxels are those of the scanner", *notes),
    )
