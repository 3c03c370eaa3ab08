"""MIMIC-CheXpert: DenseNet-121 that was pretrained on MIMIC-CXR and CheXpert by momentum contrast.

Sriram et al., "COVID-19 prognosis via self-supervised representation learning and multi-image prediction", 2021 (repository
CovidPrognosis). Container `state_dict`: `model.encoder_q.` and `model.encoder_k.` with torchvision's keys, `model.queue`.
Images are 224 x 224; their histogram is equalised in 256 bins, which gives grey levels of 0 to 255, and three equal channels
go into the network without any further normalisation (covidprognosis/data/transforms.py, cp_examples/moco_pretrain).
"""

from __future__ import annotations

from ssl_med.contract import InputContract
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop
from ssl_med.weights.core.wrapped import WrappedEncoder


class MimicCheXpert(WrappedEncoder):
    """The query encoder of a Lightning module."""

    citation = "Sriram et al., arXiv 2101.04909, 2021"
    licence = "MIT (code); the weights are for research alone, under the terms of MIMIC-CXR and CheXpert"
    commercial = False
    source = "https://github.com/facebookresearch/CovidPrognosis, configs/models.yaml"
    saw = ("MIMIC-CXR", "CheXpert")
    traps = (
        "The network saw grey levels of 0 to 255, not 0 to 1, and no mean was subtracted.",
        "Files called mimic_lr_... saw MIMIC-CXR alone, those called mimic-chexpert_lr_... both data sets.",
    )
    agreement = "torchvision 0.29.1, whose networks its code trains: 0"
    prefixes = ("model.encoder_q.",)
    rest = (
        Drop(r"model\.encoder_k\..+", "momentum encoder"),
        Drop(r"model\.queue(_ptr)?", "queue of keys"),
    )

    def contract(self, file: ForeignFile) -> InputContract:
        """Grey levels of 0 to 255: what the data scale to [0, 1], the network scales back."""
        channels = self.architecture(file).in_channels
        return InputContract(
            modality="X-ray",
            patch_size=(224, 224),
            mean=(0.0,) * channels,
            std=(1 / 255,) * channels,
            notes=(
                "the histogram of each image was equalised in 256 bins before: "
                "data.transforms=[{_target_: HistogramNormalized, keys: [image], num_bins: 256, min: 0, max: 1}] does so here",
                "the three channels were equal: a grey image is repeated",
            ),
        )
