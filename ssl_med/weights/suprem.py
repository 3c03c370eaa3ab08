"""SuPreM: three networks trained on the annotated CT scans of AbdomenAtlas 1.1.

Li et al., "How well do supervised 3D models transfer to medical imaging tasks?", ICLR 2024. All lie in `net`. SwinUNETR
(`module.backbone.swinViT...`) and Models Genesis' U-Net (`module.backbone.down_tr64...`) stand in a model that is told
the organ; MONAI's SegResNet (`module.convInit...`) stands alone.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.contracts import abdominal_ct
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule
from ssl_med.weights.models_genesis import UNET, unet
from ssl_med.weights.swin_unetr import KEEPS, MERGING, first_key, network, swin_rules

_SWIN = re.compile(r"module\.backbone\.(?:swinViT|swin_vit)\.patch_embed\.proj\.weight")
_AROUND = "module.backbone."
_UNET = f"{_AROUND}down_tr64.ops.0.conv1.weight"
_SEGRESNET = "module.convInit.conv.weight"


class SuPreM(Family):
    """SwinUNETR and U-Net with their decoders; of SegResNet the encoder, whose decoder interpolates where ours learns."""

    citation = "Li et al., ICLR 2024; Li et al., Medical Image Analysis 2024"
    licence = "CC-BY-NC-ND-4.0"
    commercial = False
    source = "MrGiovanni/SuPreM (supervised_suprem_swinunetr_2100.pth, supervised_suprem_unet_2100.pth, ..._segresnet_2100.pth)"
    containers = ("net",)
    keeps = KEEPS
    saw = (
        "AbdomenAtlas 1.1",
        "BTCV",
        "CHAOS",
        "Pancreas-CT",
        "CT-ORG",
        "LiTS",
        "KiTS",
        "AMOS22",
        "WORD",
        "AbdomenCT-1K",
        "MSD (CT tasks)",
    )
    traps = (
        MERGING,
        "The pretraining scaled -175 to 250 HU; the repository's own target task scales -250 to 250 HU.",
        "The U-Net normalises by the statistics of its batch in evaluation too. Ours has instance normalisation, which is "
        "that of one image at a time; the running statistics, which the original never reads, are left out.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """One of the three, behind the prefixes with which it was saved."""
        return first_key(file, _SWIN) != "" or file.has(_UNET) or file.has(_SEGRESNET)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Which of the three it is."""
        if first_key(file, _SWIN):
            return network(file, _SWIN)
        if file.has(_UNET):
            found = unet(file, prefix=_AROUND)
            return found._replace(config=replace(found.config, norm="instance"))
        first, blocks = file.shape(_SEGRESNET), _blocks(file)
        if len(blocks) < 2:
            raise SslMedError("is a SegResNet of one level; two or more exist here")
        return Architecture(backbone_config("segresnet", norm="group", filters=first[0], blocks=blocks), 3, first[1])

    def contract(self, file: ForeignFile) -> InputContract:
        """CT from -175 to 250 HU, voxels of 1.5 mm."""
        return abdominal_ct()

    def rules(self, file: ForeignFile) -> list[Rule]:
        """The prefix goes, then the names of the network."""
        if file.has(_SEGRESNET):
            return [Rename(r"module\.(.+)", r"\1"), *_segresnet(len(_blocks(file)), max(_blocks(file)))]
        around = r"module\.(?:precls_conv|GAP|controller|text_to_vision)\..+|module\.organ_embedding(?:\.weight)?"
        rules: list[Rule] = [Drop(around, "heads that are told the organ"), Rename(r"module\.backbone\.(.+)", r"\1")]
        return [*rules, *(swin_rules(file) if first_key(file, _SWIN) else _UNET_RULES)]


def _blocks(file: ForeignFile) -> tuple[int, ...]:
    """Residual blocks of each level of a SegResNet."""
    found: list[int] = []
    while count := len({match[1] for key in file.state if (match := _block(key, len(found)))}):
        found.append(count)
    return tuple(found)


def _block(key: str, level: int) -> re.Match[str] | None:
    return re.fullmatch(rf"module\.down_layers\.{level}\.(\d+)\.conv1\.conv\.weight", key)


def _segresnet(levels: int, most: int) -> list[Rule]:
    """MONAI's SegResNet as the encoder of its SegResNetDS, where a level ends with the step to the next."""
    rules: list[Rule] = [
        Drop(r"(?:up_layers|up_samples)\..+", "decoder that interpolates; ours has transposed convolutions"),
        Drop(r"conv_final\..+", "segmentation head"),
        Rename(r"convInit\.conv\.(.+)", r"encoder.conv_init.\1"),
        Rename(r"(down_layers\..+\.conv[12])\.conv\.(.+)", r"\1.\2"),
    ]
    for level in range(1, levels):
        rules.append(Rename(rf"down_layers\.{level}\.0\.conv\.(.+)", rf"encoder.layers.{level - 1}.downsample.\1"))
    for level, block in product(range(levels), range(most)):
        to = rf"encoder.layers.{level}.blocks.{block}.\1"
        rules.append(Rename(rf"down_layers\.{level}\.{block + 1}\.(.+)", to))
    return rules


# that of Models Genesis, but for its head; the running statistics of its normalisation are never read
_UNET_RULES: tuple[Rule, ...] = (
    Drop(r"out_tr\..+", "segmentation head"),
    Drop(r".+\.bn1\.(?:running_mean|running_var|num_batches_tracked)", "statistics that the original never reads"),
    *UNET,
)
