"""A folder as nnssl's repositories have it: the weights, the adaptation plan in and beside them, and config.json.

nnU-Net's pretrained trainer (`nnUNetv2_preprocess_like_nnssl`, `nnUNetv2_train_pretrained`) reads it and loads stem and
encoder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ssl_med.contract import InputContract
from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.nnunet_layout import NEEDING_IMPORT, ZYX, arch_kwargs, check_ours, foreign_state, turned

_RESAMPLING = "resample_data_or_seg_to_shape"


class NNSSLFolder(Exporter):
    """3D resenc or plainconv, with the decoder where there is one."""

    ending = ""

    def check(self, source: Source) -> None:
        """Only volumes; the pretrained trainer has no 2D network."""
        check_ours("nnssl", source.path, source.backbone)
        if source.backbone.spatial_dims != 3:
            raise SslMedError(f"to=nnssl: {source.path} is 2D; nnssl has volumes alone, to=nnunet takes 2D networks")

    def write(self, source: Source, out: Path) -> list[str]:
        """Writes the three files; the weights last, so that a folder with weights is whole."""
        plan = adaptation_plan(source)
        state = foreign_state(source.backbone, source.decoder)
        out.mkdir(parents=True)
        about = {"library_name": "ssl_med", "method": source.card.method, "input_contract": source.contract.to_dict()}
        for name, content in (("adaptation_plan.json", plan), ("config.json", about)):
            (out / name).write_text(json.dumps(content, indent=2) + "\n")
        with new_file(out / "checkpoint_final.pth") as file:
            torch.save({"network_weights": state, "nnssl_adaptation_plan": plan, "citations": []}, file)
        lines = [f"{len(state)} tensors, each under all of its names: nnUNetv2_preprocess_like_nnssl reads the folder"]
        if not _zscores(source.contract):
            lines.append(
                "nnU-Net normalises by z-scores after these weights, whatever they were trained on: here it was another scaling"
            )
        if source.backbone.config.name == "plainconv":
            lines.append(
                "of a PlainConvUNet nnU-Net's loader takes images of as many channels as here alone; of a resenc, of more"
            )
        return [*lines, *source.contract.lines()]


def _zscores(contract: InputContract) -> bool:
    return contract.scaling == "zscore" or contract.after in ("zscore", "zscore_nonzero")


def adaptation_plan(source: Source) -> dict[str, Any]:
    """What nnssl and nnU-Net must know of the network and of its images; lists are in the order (z, y, x)."""
    contract, config = source.contract, source.backbone.config
    deep = config.name == "resenc"
    name = "ResidualEncoderUNet" if deep else "PlainConvUNet"
    stem = "encoder.stem" if deep else "encoder.stages.0"
    projection = "encoder.stem.convs.0" if deep else "encoder.stages.0.0.convs.0"
    patch = list(turned(contract.patch_size, ZYX))
    spacing = list(turned(contract.spacing_mm, ZYX)) if contract.spacing_mm else None
    masked = contract.over != "image" or contract.after == "zscore_nonzero"
    style = "noresample" if spacing is None else "onemmiso" if set(spacing) == {1.0} else "median"
    configuration = {
        "data_identifier": f"nnsslPlans_{style}",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing_style": style,
        "normalization_schemes": ["ZScoreNormalization" if _zscores(contract) else "NoNormalization"],
        "use_mask_for_norm": [masked],
        "resampling_fn_data": _RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": _RESAMPLING,
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "spacing": spacing,
        "patch_size": patch,
    }
    kwargs = arch_kwargs(config, 3)
    return {
        "architecture_plans": {
            "arch_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
            "arch_kwargs": kwargs,
            "arch_kwargs_requiring_import": list(NEEDING_IMPORT),
        },
        "pretrain_plan": {
            "dataset_name": source.card.data_spec().name,
            "plans_name": "nnsslPlans",
            "original_median_spacing_after_transp": spacing or [1.0, 1.0, 1.0],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "configurations": {style: configuration},
            "experiment_planner_used": "ssl_med",
        },
        "pretrain_num_input_channels": source.backbone.in_channels,
        "recommended_downstream_patchsize": patch,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem,
        "keys_to_in_proj": [f"{projection}.conv", f"{projection}.all_modules.0"],
        "key_to_lpe": None,
    }
