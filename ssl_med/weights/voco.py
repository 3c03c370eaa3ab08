"""VoCo and VoComni: SwinUNETR of version 2 pretrained on up to 160,000 CT scans; B has 48 channels, L 96, H 192.

Wu et al., "VoCo", CVPR 2024; "Large-scale 3D medical image pre-training with geometric context priors", TPAMI 2026.
Keys are MONAI's, `swinViT.layers1c.0...` being the convolutions of version 2, behind `module.` and `backbone.` in some
files.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.weights.core.contracts import abdominal_ct
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Rule, strip
from ssl_med.weights.swin_unetr import KEEPS, MERGING, first_key, network, swin_rules

_FIRST = re.compile(r"(?:module\.)?(?:backbone\.)?(?:swinViT|swin_vit)\.patch_embed\.proj\.weight")


class VoCo(Family):
    """SwinUNETR of version 2; VoComni's files hold the decoder, those named SSL_head do not."""

    citation = "Wu et al., CVPR 2024 and TPAMI 2026"
    licence = "Apache-2.0 (code and weights; some of the data sets are for research alone)"
    commercial = True
    source = "Luffy503/VoCo on Hugging Face (VoCo_B_SSL_head.pt, VoComni_B.pt, ...)"
    containers = ("state_dict", "network_weights", "net", "student", "")
    keeps = KEEPS
    saw = (
        "BTCV",
        "LiTS",
        "KiTS",
        "Pancreas-CT",
        "WORD",
        "FLARE 2023",
        "TotalSegmentator",
        "AbdomenAtlas 1.0",
        "PANORAMA",
        "LUNA16",
        "LIDC-IDRI",
        "NLST",
        "CT-RATE",
        "STOIC 2021",
        "MELA",
        "DeepLesion",
        "TCIA COVID-19",
        "Stony Brook COVID-19",
        "TCIA CT Colonography",
        "HNSCC",
        "TCGA-HNSC",
        "OPC-Radiomics",
        "QIN-HEADNECK",
    )
    traps = (
        MERGING,
        "The published loader keeps a random value, in silence, where a tensor has another shape.",
        "Files named SSL_head hold no head: the transformer, and the blocks beside it without the rest of the decoder.",
        "VoComni_nnunet is another network, with another preparation: import it as family=nnunet.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """A SwinUNETR with convolutions before its stages."""
        return first_key(file, _FIRST) != "" and any(".layers1c.0." in key for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """B, L or H by the channels of the tokens."""
        return network(file, _FIRST)

    def contract(self, file: ForeignFile) -> InputContract:
        """CT from -175 to 250 HU, voxels of 1.5 mm."""
        return abdominal_ct("abdomens were scaled so; chests from -1000 to 500 HU at 1.25 x 1.25 x 5 mm")

    def rules(self, file: ForeignFile) -> list[Rule]:
        """SwinUNETR's, behind two wrappers."""
        return [*strip("module.", "backbone."), *swin_rules(file)]
