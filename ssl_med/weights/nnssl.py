"""Networks pretrained with nnssl: OpenMind, nnFoundation and the SSL3D challenge, each with its adaptation plan.

Wald et al., "An OpenMind for 3D medical vision self-supervised learning", ICCV 2025; "Revisiting MAE pre-training for
3D medical image segmentation", CVPR 2025. The plan inside the file, or beside it as adaptation_plan.json, names the
network, its sizes and the keys behind which stem and encoder lie, which differ between methods: nothing is guessed from
prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ssl_med.contract import InputContract
from ssl_med.spec import SslMedError
from ssl_med.weights.core import nnunet_layout as layout
from ssl_med.weights.core import nnunet_plans as plans
from ssl_med.weights.core.family import Architecture, Family
from ssl_med.weights.core.files import ForeignFile
from ssl_med.weights.core.rules import Drop, Rule

_NETWORKS = ("ResEncL", "NoSkipResEncL", "ResidualEncoderUNet", "PlainConvUNet")
_STRIDES = ((1, 1, 1), *((2, 2, 2),) * 5)  # of ResEncL, whose plan gives no keywords
_HEADS = (
    r"(?:projector|predictor|projection_head|prediction_head|recon_head|contrast_proj_head|rotation_proj_head|"
    r"predictor_heads|pixel_restore_heads|batch_norms|densify_projs|densify_norms|mask_tokens?)(?:\..+)?"
)


class NNSSL(Family):
    """The encoder that the adaptation plan names."""

    citation = "Wald et al., ICCV 2025 (OpenMind) and CVPR 2025 (nnssl)"
    licence = "of the repository: OpenMind CC-BY-4.0, nnFoundation CC-BY-SA-4.0, SSL3D challenge CC-BY-4.0"
    commercial = True
    source = "AnonRes/... (OpenMind) and MIC-DKFZ/nnFoundation on Hugging Face: checkpoint_final.pth with adaptation_plan.json"
    containers = ("network_weights",)
    saw = ("OpenMind (OpenNeuro)",)
    traps = (
        "Where the encoder lies depends on the method that trained it; the adaptation plan says so, a prefix does not.",
        "nnssl reads scans as (z, y, x): the kernels are turned for our (x, y, z).",
        "Each tensor of a convolution stands twice in the file, and the encoder once more in the decoder.",
        "Files of SparK were saved without the plan; nnssl's add_adaptation_plan writes it.",
        "nnFoundation saw 125 data sets of CT, MR and PET, which its cards list: look there before testing on a public set.",
    )
    agreement = "nnU-Net's pretrained trainer (0e49508) takes `to=nnssl`: resenc 9e-6 of 7.5, plainconv 3e-6 of 4.8"

    def recognises(self, file: ForeignFile) -> bool:
        """An adaptation plan lies in the file or beside it."""
        return "architecture_plans" in _plan(file)

    def architecture(self, file: ForeignFile) -> Architecture:
        """The network of the plan.

        Raises:
            SslMedError: one that does not exist here.
        """
        about = _plan(file)["architecture_plans"]
        name, kwargs = str(about["arch_class_name"]).rpartition(".")[2], about.get("arch_kwargs") or {}
        if name not in _NETWORKS:
            raise SslMedError(f"is a {name}; of nnssl's networks {', '.join(_NETWORKS)} exist here")
        stages, stem = _keys(file)
        return layout.architecture(
            file.state,
            strides=kwargs.get("strides") or _STRIDES,
            axes=_axes(file),
            norm=plans.norm_of(kwargs),
            stages=stages,
            stem=stem,
            with_decoder=False,
        )

    def contract(self, file: ForeignFile) -> InputContract:
        """Spacing and normalisation of the pretraining, the patch that the plan recommends."""
        plan = _plan(file)
        chosen = dict(_configuration(plan))
        if patch := plan.get("recommended_downstream_patchsize"):
            chosen["patch_size"] = patch
        if chosen.get("spacing_style") == "noresample":
            chosen.pop("spacing", None)
        return plans.contract(chosen, {}, axes=_axes(file), modality="")

    def rules(self, file: ForeignFile) -> list[Rule]:
        """Second names are compared; what is not behind the plan's keys is left out by name."""
        stages, stem = _keys(file)
        return [
            *layout.import_rules(
                file.state, _axes(file), stages=stages, stem=stem, decoder=False, why_not="decoder of the pretraining"
            ),
            Drop(_HEADS, "heads of the pretraining"),
        ]


def _plan(file: ForeignFile) -> Mapping[str, Any]:
    found: Mapping[str, Any] = file.extra.get("nnssl_adaptation_plan") or file.extra.get("adaptation_plan.json") or {}
    return found


def _keys(file: ForeignFile) -> tuple[str, str]:
    """Names of stages and stem."""
    plan = _plan(file)
    return str(plan["key_to_encoder"]), str(plan["key_to_stem"])


def _configuration(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the pretraining: the only one, in either form that nnssl writes."""
    found: Mapping[str, Any] = plan["pretrain_plan"]["configurations"]
    return found if "normalization_schemes" in found or "spacing" in found else next(iter(found.values()))


def _axes(file: ForeignFile) -> layout.Axes:
    whole = _plan(file)["pretrain_plan"]
    return layout.axes_of(whole.get("transpose_forward") or (0, 1, 2), 3)
