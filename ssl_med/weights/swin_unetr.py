"""SwinUNETR pretrained without labels on 5,050 and on 50,000 CT scans, and checkpoints of MONAI's class.

Networks and pretraining: Tang et al., "Self-supervised pre-training of Swin transformers for 3D medical image analysis", CVPR
2022; Valanarasu et al., "Disruptive autoencoders", MIDL 2024. Three containers hold the same transformer:

- `state_dict`, `module.layers1.0.blocks.0.mlp.fc1.weight`: the transformer alone (`model_swinvit.pt`).
- `model`, `encoder.layers1.0.0.blocks.0...` beside `encoder1.layer...` and `decoder1...` (`ssl_pretrained_weights.pth`).
- `state_dict`, `module.swinViT.layers1.0...`, before 2022 `swin_vit`: checkpoints of the pretraining, and MONAI's SwinUNETR.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.spec import SslMedError
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule, strip

WRAPPERS = ("module.",)
KEEPS = {r"swin\..*\.relative_position_index": "computed from the window"}
MERGING = (
    "MONAI 1.5 changed the order in which neighbouring tokens are joined; older weights load completely there and compute "
    "something else. Ours are built with backbone.merging=v1_legacy; for weights trained with MONAI 1.5 or later set "
    "backbone.merging=v1."
)
_FIRST = re.compile(r"(?:module\.)?(?:(?:swinViT|swin_vit|encoder)\.)?patch_embed\.proj\.weight")


class SwinUNETR(Family):
    """Version 1 of the network; what has convolutions before its stages (version 2) is VoCo's."""

    citation = "Tang et al., CVPR 2022; Valanarasu et al., MIDL 2024; Hatamizadeh et al. 2022; MONAI"
    licence = "Apache-2.0"
    commercial = True
    source = "Project-MONAI/MONAI-extra-test-data (model_swinvit.pt, ssl_pretrained_weights.pth), or SwinUNETR's state_dict()"
    containers = ("state_dict", "model", "model_state_dict", "")
    keeps = KEEPS
    saw = ("LUNA16", "TCIA COVID-19", "HNSCC", "TCIA CT Colonography", "LIDC-IDRI")
    traps = (
        MERGING,
        "The pretraining scaled -1000 to 1000 HU, the published fine-tuning -175 to 250 HU at 1.5 x 1.5 x 2 mm.",
        "The pretraining parsed a spacing and never applied it: its scans have the voxels that they were acquired with.",
        "Files of before MONAI 0.9 hold shortcuts (conv3) in blocks that never used them.",
    )
    agreement = (
        "MONAI 1.6.1's class with the order of tokens of its 1.4: no difference, of values up to 3.5; its "
        "`load_from` takes `to=swin_unetr`"
    )

    def recognises(self, file: ForeignFile) -> bool:
        """A transformer of four stages in 2D or 3D, without convolutions before them."""
        return first_key(file, _FIRST) != "" and not any(".layers1c." in f".{key}" for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes are those of the tensors."""
        return network(file, _FIRST)

    def contract(self, file: ForeignFile) -> InputContract:
        """CT from -1000 to 1000 HU, as acquired."""
        return InputContract(
            modality="CT",
            patch_size=(96,) * (file.state[first_key(file, _FIRST)].ndim - 2),
            low=-1000.0,
            high=1000.0,
            unit="HU",
            orientation="RAS",
            notes=("the published fine-tuning takes -175 to 250 HU and voxels of 1.5 x 1.5 x 2 mm",),
        )

    def rules(self, file: ForeignFile) -> list[Rule]:
        """One name for the three containers, then ours."""
        return [
            *strip(*WRAPPERS),
            Rename(r"encoder\.(layers\d)\.0\.0\.(.+)", r"swinViT.\1.0.\2"),
            Rename(r"encoder\.((?:layers\d|patch_embed)\..+)", r"swinViT.\1"),
            Rename(r"((?:layers\d|patch_embed)\..+)", r"swinViT.\1"),
            Drop(r"encoder\.(mask_token|norm\.(weight|bias))|norm\.(weight|bias)", "used in the pretraining alone"),
            *swin_rules(file),
        ]


def first_key(file: ForeignFile, pattern: re.Pattern[str]) -> str:
    """The key of the token layer's weight; "" where there is none with a transformer behind it."""
    key = next((key for key in file.state if pattern.fullmatch(key)), "")
    # the token layer of a vision transformer has the same name
    return key if any("attn.relative_position_bias_table" in other for other in file.state) else ""


def network(file: ForeignFile, pattern: re.Pattern[str]) -> Architecture:
    """The SwinUNETR whose token layer has the key of `pattern`, with its decoder where the file holds all of it.

    Raises:
        SslMedError: windows that are not cubes, or another number of stages.
    """
    weight = file.state[first_key(file, pattern)]
    size, channels, dims = weight.shape[0], weight.shape[1], weight.ndim - 2
    depths, heads, windows = [], [], set()
    for stage in (1, 2, 3, 4):
        tables = [
            file.state[key]
            for key in sorted(file.state)
            if re.fullmatch(rf"(?:.*\.)?layers{stage}\..*attn\.relative_position_bias_table", key)
        ]
        if not tables:
            raise SslMedError(f"has no transformer block in stage {stage}; a SwinUNETR has four stages")
        depths.append(len(tables))
        heads.append(int(tables[0].shape[1]))
        windows |= {int(table.shape[0]) for table in tables}
    side = round(max(windows) ** (1 / dims))
    if windows != {side**dims}:
        raise SslMedError(
            f"has attention windows with {sorted(windows)} relative positions; windows here have equal sides"
        )
    config = backbone_config(
        "swin_unetr",
        feature_size=size,
        depths=tuple(depths),
        heads=tuple(heads),
        window=(side + 1) // 2,
        merging="v1_legacy",
        v2=any(".layers1c." in f".{key}" for key in file.state),
    )
    return Architecture(config, dims, channels, decoder=holds_decoder(file))


def holds_decoder(file: ForeignFile) -> bool:
    """Whether the blocks of the decoder are there, not only those beside the transformer."""
    return any(re.fullmatch(r"(?:.*\.)?decoder1\.transp_conv\.conv\.weight", key) for key in file.state)


def swin_rules(file: ForeignFile) -> list[Rule]:
    """From MONAI's names (`swinViT.`, `encoder1.`, `decoder5.`) to ours."""
    rules: list[Rule] = [
        Rename(r"swin_vit\.(.+)", r"swinViT.\1"),
        Rename(r"swinViT\.(.+)\.mlp\.fc([12])\.(.+)", r"swinViT.\1.mlp.linear\2.\3"),
        Rename(r"swinViT\.(.+)", r"swin.\1"),
        Drop(r"(?:rotation|contrastive)_(?:head|pre)\..+|conv\..+", "heads of the pretraining"),
        Drop(r"out\.conv\.conv\.(?:weight|bias)", "segmentation head"),
        Drop(
            r"encoder(?:2|3|4|10)\.layer\.conv3\..+", "shortcut that MONAI before 0.9 made in blocks that do not use it"
        ),
    ]
    if not holds_decoder(file):
        return [
            *rules,
            Drop(r"encoder(?:1|2|3|4|10)\.layer\..+", "blocks of a decoder of which the file lacks the rest"),
        ]
    rules += [Rename(rf"encoder{number}\.(.+)", rf"decoder.laterals.{number - 1}.\1") for number in (1, 2, 3, 4)]
    rules.append(Rename(r"encoder10\.(.+)", r"decoder.bottom.\1"))
    for place, number in enumerate((5, 4, 3, 2, 1)):
        rules.append(Rename(rf"decoder{number}\.transp_conv\.(.+)", rf"decoder.up.{place}.\1"))
        rules.append(Rename(rf"decoder{number}\.conv_block\.(.+)", rf"decoder.blocks.{place}.\1"))
    return rules
