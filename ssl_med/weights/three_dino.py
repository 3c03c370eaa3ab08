"""3DINO: DINOv2 in 3D, trained on MR, CT and PET of many organs.

Paper: Xu et al., "A generalizable 3D framework and model for self-supervised learning in medical imaging", npj Digital Medicine
2025. Official code: github.com/AICONSlab/3DINO. File: ["teacher"] with backbone.* in chunks of blocks and the heads dino_head,
ibot_head. Positions for other grids: trilinear with an offset of 0.1 in the scale. Images: one channel, values between the
percentiles 0.05 and 99.95 scaled to [-1, 1]; axes, orientation and spacing as stored.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssl_med.contract import InputContract
from ssl_med.weights.core.family import Architecture
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule, strip
from ssl_med.weights.core.transformer import ENCODER, TokenFamily, inner, network, side_of
from ssl_med.weights.dinov2 import HEADS_OF_TRAINING, PREFIX, layout


class ThreeDino(TokenFamily):
    """ViT-L with patches of 16 x 16 x 16."""

    citation = "Xu et al., npj Digital Medicine 2025"
    licence = "CC-BY-NC-ND-4.0"
    commercial = False
    source = "https://huggingface.co/AICONSlab/3DINO-ViT"
    containers = ("teacher", "")
    saw = ("public MR, CT and PET of over 10 organs, listed in the paper",)
    traps = (
        "The paper lists the public data sets of its pretraining and this family does not: look there before you test on one.",
        "Its loader is not strict: heads and every misnamed tensor are left out without a word.",
    )

    def recognises(self, file: ForeignFile) -> bool:
        """DINOv2's layout with patches in 3D."""
        return layout(file, dims=3)

    def architecture(self, file: ForeignFile) -> Architecture:
        """Sizes from the shapes."""
        return network(inner(file.state, PREFIX), resize="offset")

    def contract(self, file: ForeignFile) -> InputContract:
        """Volumes of the size of the positions: 112 voxels a side after the adaptation to high resolution, 96 before."""
        found = self.architecture(file)
        return InputContract(
            modality="",
            patch_size=(side_of(found),) * 3,
            scaling="percentile",
            low=0.05,
            high=99.95,
            unit="percentile",
            mean=(0.5,),
            std=(0.5,),
            notes=(
                "the original takes the percentiles of all voxels, this contract those of the voxels that are not zero",
            ),
        )

    def rules(self, file: ForeignFile) -> Sequence[Rule]:
        """Prefixes go; heads of the training and the token of masked patches are left out."""
        return [*strip("module.", "backbone."), Drop(HEADS_OF_TRAINING, "heads of the pretraining"), *ENCODER]
