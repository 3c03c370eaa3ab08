"""Numbers that Anton et al. 2022 published of their analyses, to be read beside ours: by data family, then by weights."""

from __future__ import annotations

from collections.abc import Mapping

PAPER = "Anton et al. 2022"
_NETWORKS = (
    "SimCLR", "MoCo", "SwAV", "BYOL", "PIRL", "supervised ResNet-50", "supervised ResNet-18", "supervised DenseNet-121",
    "MIMIC-CheXpert", "MoCo-CXR",
)  # fmt: skip
_SELF = (*_NETWORKS[:5], *_NETWORKS[8:])  # without the supervised ones
# names that the paper gives to our families; its ChestX are images of ChestX-ray14 with seven findings
_NAMES = {
    "shenzhen": "Shenzhen", "montgomery": "Montgomery", "eyepacs": "EyePACS", "chest14": "ChestX", "bach": "BACH",
    "ichallenge_amd": "iChallenge-AMD", "ichallenge_pm": "iChallenge-PM", "chexpert": "CheXpert",
}  # fmt: skip

Table = Mapping[str, tuple[float, ...]]

# Table A7, one image of each data set
DIFFUSION: Table = {
    "shenzhen": (0.47, 0.40, 0.48, 0.39, 0.49, 0.42, 0.43, 0.45, 0.44, 0.47),
    "montgomery": (0.51, 0.43, 0.54, 0.41, 0.45, 0.44, 0.43, 0.49, 0.34, 0.31),
    "eyepacs": (0.45, 0.44, 0.48, 0.47, 0.43, 0.40, 0.36, 0.47, 0.48, 0.47),
    "chest14": (0.39, 0.46, 0.53, 0.41, 0.49, 0.34, 0.43, 0.43, 0.33, 0.36),
    "bach": (0.55, 0.43, 0.48, 0.41, 0.48, 0.43, 0.43, 0.43, 0.44, 0.47),
    "ichallenge_amd": (0.46, 0.40, 0.42, 0.36, 0.45, 0.43, 0.39, 0.41, 0.45, 0.50),
    "ichallenge_pm": (0.47, 0.45, 0.48, 0.42, 0.50, 0.46, 0.47, 0.40, 0.49, 0.55),
    "chexpert": (0.39, 0.49, 0.52, 0.50, 0.49, 0.47, 0.51, 0.52, 0.34, 0.33),
}
# Table A1; self-supervised on natural images alone
ROTATION: Table = {
    "eyepacs": (0.159, 0.266, 0.232, 0.185, 0.354),
    "ichallenge_amd": (0.011, 0.120, 0.015, 0.012, 0.187),
    "ichallenge_pm": (0.056, 0.152, 0.059, 0.057, 0.220),
}
HUE: Table = {"bach": (0.063, 0.319, 0.077, 0.097, 0.498)}
# Table A2
HORIZONTAL_FLIP: Table = {
    "chexpert": (0.582, 0.719, 0.843, 0.689, 0.716, 0.662, 0.997),
    "chest14": (0.423, 0.517, 0.433, 0.445, 0.547, 0.518, 0.778),
    "shenzhen": (0.506, 0.587, 0.569, 0.551, 0.682, 0.001, 0.803),
    "montgomery": (0.503, 0.547, 0.505, 0.504, 0.574, 0.003, 0.530),
}
# Table A3
MULTIVIEW: Table = {
    "chexpert": (0.017, 0.012, 0.014, 0.014, 0.023, 0.008, 0.024),
    "eyepacs": (0.273, 0.312, 0.325, 0.241, 0.472),
}


def beside(family: str, table: Table, *, where: str, what: str) -> list[str]:
    """The published numbers of a data family as one note; empty where there are none.

    Args:
        family: name of the data family.
        table: one of this module.
        where: the table's name in the paper, "Table A7".
        what: was measured, "attentive diffusion".
    """
    if family not in table:
        return []
    values = table[family]
    networks = _NETWORKS if len(values) == len(_NETWORKS) else _SELF[: len(values)]
    told = ", ".join(f"{name} {value:g}" for name, value in zip(networks, values, strict=True))
    return [f"{PAPER}, {where}, {what} on {_NAMES[family]}, images of 224 x 224: {told}"]
