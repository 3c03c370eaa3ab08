"""CT-FM: MONAI's SegResNetDS encoder, contrasted on 148,000 CT scans of the Imaging Data Commons.

Pai et al., "Vision foundation models for computed tomography", 2025. Three forms: a folder of Hugging Face with the encoder
alone (conv_init, layers.N.{blocks.M.{norm,conv}K, downsample}), one with SegResNetDS (encoder.*, up_layers.*, of which only the
fine-tuned ones have a trained decoder), and the checkpoint of Lightning (backbone.*, projection_head.*). Axes are S, P, L.
"""

from __future__ import annotations

import re

from ssl_med.contract import InputContract
from ssl_med.networks.backbone import backbone_config
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rename, Rule

_WRAPPERS = r"(?:model\.)?(?:backbone\.)?(?:encoder\.)?"
_LAYOUT = re.compile(
    rf"{_WRAPPERS}(conv_init\.weight|layers\.\d+\.(downsample\.weight|blocks\.\d+\.(conv|norm)[12]\.\w+))|"
    r"(model\.)?(backbone\.)?up_layers\..*|(model\.)?projection_head\..*"
)
_UNTRAINED = 2  # outputs of SegResNetDS when nobody asks for others: nothing was trained to fill them


class CTFM(Family):
    """The encoder of SegResNetDS; the decoder, too, of fine-tuned networks."""

    citation = "Pai, Hadzic, et al.: Vision Foundation Models for Computed Tomography (CT-FM), arXiv 2501.09001, 2025"
    licence = "Apache-2.0"
    commercial = True
    source = "https://huggingface.co/project-lighter: ct_fm_feature_extractor, ct_fm_segresnet, whole_body_segmentation"
    saw = ("Imaging Data Commons CT",)
    traps = (
        "Axes are superior, posterior, left with spacing 3, 1, 1 mm; volumes of another order load and give other features.",
        "Scans are padded by -1024 HU, which is 0 after scaling; other windows than [-1024, 2048] were not seen.",
        "ct_fm_segresnet has a decoder that nobody trained: it is left out here.",
        "The Imaging Data Commons holds many public sets (LIDC-IDRI and NLST among them), so a test set may be inside.",
    )
    agreement = "MONAI 1.6.1, SegResNetDS of the original sizes: encoder and decoder 0"

    def recognises(self, file: ForeignFile) -> bool:
        """Every key is one of SegResNetDS', with normalisation that has statistics."""
        first = [key for key in file.state if re.fullmatch(rf"{_WRAPPERS}conv_init\.weight", key)]
        statistics = any(key.endswith("blocks.0.norm1.running_mean") for key in file.state)
        return len(first) == 1 and statistics and all(_LAYOUT.fullmatch(key) for key in file.state)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Filters and blocks are those of the file."""
        first = next(value for key, value in file.state.items() if key.endswith("conv_init.weight"))
        blocks = _counts(file, rf"{_WRAPPERS}layers\.(\d+)\.blocks\.(\d+)\..*")
        up = _counts(file, r"(?:model\.)?(?:backbone\.)?up_layers\.(\d+)\.blocks\.(\d+)\..*") if _trained(file) else ()
        config = backbone_config("segresnet", norm="batch", filters=first.shape[0], blocks=blocks, blocks_up=up)
        return Architecture(config, first.ndim - 2, first.shape[1], decoder=bool(up))

    def contract(self, file: ForeignFile) -> InputContract:
        """CT along S, P, L."""
        return InputContract(
            modality="CT",
            patch_size=(32, 128, 128),
            low=-1024.0,
            high=2048.0,
            unit="HU",
            spacing_mm=(3.0, 1.0, 1.0),
            orientation="SPL",
            padding=-1024.0,
        )

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Heads are left out, and a decoder that was not trained."""
        decoder: list[Rule] = [Drop(r"(model\.)?(backbone\.)?up_layers\..*", "decoder that was not trained")]
        if _trained(file):
            decoder = [
                Drop(r"(model\.)?(backbone\.)?up_layers\.\d+\.head\..*", "segmentation head"),
                Rename(r"(?:model\.)?(?:backbone\.)?(up_layers\..*)", r"decoder.\1"),
            ]
        return [
            Drop(r"(model\.)?projection_head\..*", "projection head"),
            *decoder,
            Rename(rf"{_WRAPPERS}((conv_init|layers)\..*)", r"encoder.\1"),
        ]


def _trained(file: ForeignFile) -> bool:
    """Whether a decoder is there with heads for classes that somebody chose."""
    heads = [value.shape[0] for key, value in file.state.items() if re.fullmatch(r".*up_layers\.\d+\.head\.bias", key)]
    return bool(heads) and set(heads) != {_UNTRAINED}


def _counts(file: ForeignFile, pattern: str) -> tuple[int, ...]:
    """Blocks of each level."""
    found: dict[int, set[int]] = {}
    for key in file.state:
        if match := re.fullmatch(pattern, key):
            found.setdefault(int(match[1]), set()).add(int(match[2]))
    return tuple(len(found[level]) for level in sorted(found))
