"""A MONAI bundle: metadata with the input contract, and an inference that `python -m monai.bundle run` carries out on scans.

A fine-tuned segmentation answers with masks on the grid of each file; a pretrained encoder with the features of the
middle of each scan.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ssl_med.contract import InputContract
from ssl_med.files import new_file
from ssl_med.spec import SslMedError
from ssl_med.weights.core.bundle_network import network_of
from ssl_med.weights.core.exporter import Exporter, Source
from ssl_med.weights.core.facts import data_lines, licence_line, method_lines


class MonaiBundle(Exporter):
    """configs/metadata.json, configs/inference.json, models/model.pt, docs/README.md."""

    ending = ""

    def check(self, source: Source) -> None:
        """Only volumes: readers of images give their axes in another order."""
        if source.backbone.spatial_dims != 3:
            raise SslMedError(f"to=monai_bundle: {source.path} is 2D; a bundle is written for scans (3D) alone")
        turned = source.contract.orientation
        if turned and not turned.isalpha():
            raise SslMedError(
                f"to=monai_bundle: {source.path} has the orientation {turned!r}; three letters such as LPS are one"
            )

    def write(self, source: Source, out: Path) -> list[str]:
        """Writes the folder; the weights last, so that a bundle with weights is whole."""
        network = network_of(source)
        scaling, ours = _scaling(source.contract)
        needs_us = network.ours or ours
        for folder in ("configs", "models", "docs"):
            (out / folder).mkdir(parents=True)
        readme = _readme(source, needs_us=needs_us)
        for name, content in (
            ("metadata.json", _literal(_metadata(source, needs_us=needs_us))),
            ("inference.json", _inference(source, network.definition, scaling)),
        ):
            (out / "configs" / name).write_text(json.dumps(content, indent=2) + "\n")
        (out / "docs" / "README.md").write_text(readme)
        with new_file(out / "models" / "model.pt") as file:
            torch.save(network.state, file)
        return [
            f"python -m monai.bundle run --config_file {out}/configs/inference.json --bundle_root {out} --dataset_dir SCANS",
            "the bundle needs ssl_med, whose network or scaling MONAI does not have"
            if needs_us
            else "the bundle needs MONAI alone",
            *(
                []
                if source.regions is not None
                else ["there is no segmentation head: it answers with features of each scan"]
            ),
        ]


def _scaling(contract: InputContract) -> tuple[list[dict[str, Any]], bool]:
    """MONAI's transforms for the contract's scaling, and whether ours had to be taken."""
    if contract.scaling == "window" and contract.after in ("unit", "dataset"):
        low, high = contract.low, contract.high
        shift, unit = (contract.after_mean, contract.after_sd) if contract.after == "dataset" else (low, high - low)
        step = {
            "_target_": "ScaleIntensityRanged",
            "keys": "image",
            "a_min": low,
            "a_max": high,
            "b_min": (low - shift) / unit,
            "b_max": (high - shift) / unit,
            "clip": True,
        }
        return [step], False
    if contract.scaling == "zscore" and contract.over == "image":
        return [{"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}], False
    ours = {"_target_": "ssl_med.weights.core.whole.scaler", "contract": json.dumps(contract.to_dict())}
    return [{"_target_": "Lambdad", "keys": "image", "func": ours}], True


def _inference(source: Source, definition: dict[str, Any], scaling: list[dict[str, Any]]) -> dict[str, Any]:
    contract, regions = source.contract, source.regions
    load: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
    ]
    if contract.orientation:
        load.append({"_target_": "Orientationd", "keys": "image", "axcodes": contract.orientation, "labels": None})
    if contract.spacing_mm:
        load.append({"_target_": "Spacingd", "keys": "image", "pixdim": list(contract.spacing_mm), "mode": "bilinear"})
    load += [{"_target_": "EnsureTyped", "keys": "image", "dtype": "float32"}, *scaling]
    one = source.backbone.in_channels == 1
    config: dict[str, Any] = {
        "imports": ["$import glob", "$import os", "$import numpy", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/answers'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
        # one file for each scan, or a folder of the files of its channels, in the order of their names
        "files": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))"
        if one
        else "$[sorted(glob.glob(d + '*.nii*')) for d in sorted(glob.glob(@dataset_dir + '/*/'))]",
        "preprocessing": {"_target_": "Compose", "transforms": load},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': f} for f in @files]", "transform": "@preprocessing"},
    }
    read = "$@network.load_state_dict(torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True))"
    config["initialize"] = [
        "$torch.set_grad_enabled(False)",
        "$os.makedirs(@output_dir, exist_ok=True)",
        read,
        "$@network.eval()",
    ]
    config["finalize"] = ["$torch.set_grad_enabled(True)"]
    if regions is None:
        load.append({"_target_": "ResizeWithPadOrCropd", "keys": "image", "spatial_size": list(contract.patch_size)})
        name = "os.path.basename(str(i['image'].meta['filename_or_obj'])).split('.nii')[0]"
        features = "@network(i['image'][None].to(@device))[0].cpu().numpy()"
        config["run"] = [f"$[numpy.save(os.path.join(@output_dir, {name} + '.npy'), {features}) for i in @dataset]"]
        return config
    config["inferer"] = {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(contract.patch_size),
        "sw_batch_size": 1,
        "overlap": regions.overlap,
        "mode": "gaussian",
    }
    after: list[dict[str, Any]] = [
        {
            "_target_": "Invertd",
            "keys": "pred",
            "transform": "@preprocessing",
            "orig_keys": "image",
            "nearest_interp": False,
        },
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0},
    ]
    if any(regions.largest):
        kept = [number for number, flag in enumerate(regions.largest) if flag]
        step = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": kept, "is_onehot": True}
        after.append({**step, "independent": True, "connectivity": 3})
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "mask",
        "resample": False,
    }
    after.append({**save, "separate_folder": False, "output_dtype": "$numpy.uint8", "print_log": False})
    config["postprocessing"] = {"_target_": "Compose", "transforms": after}
    config["run"] = [
        "$[@postprocessing({**i, 'pred': @inferer(i['image'][None].to(@device), @network)[0].cpu()}) for i in @dataset]"
    ]
    return config


def _metadata(source: Source, *, needs_us: bool) -> dict[str, Any]:
    contract, regions, backbone = source.contract, source.regions, source.backbone
    packages = {"nibabel": version("nibabel")} | ({"ssl-med": version("ssl-med")} if needs_us else {})
    if regions is not None and any(regions.largest):
        packages["scikit-image"] = "0.19"  # with which MONAI finds the largest piece
    names = contract.channels or tuple(f"channel {number}" for number in range(backbone.in_channels))
    image = {
        "type": "image",
        "format": "hounsfield" if contract.unit == "HU" else "magnitude",
        "modality": contract.modality,
        "num_channels": backbone.in_channels,
        "spatial_shape": list(contract.patch_size),
        "dtype": "float32",
        "value_range": [] if contract.scaling == "zscore" or contract.after != "unit" else [0, 1],
        "is_patch_data": regions is not None,
        "channel_def": {str(number): name for number, name in enumerate(names)},
    }
    segments = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(regions.names) if regions is not None else backbone.out_channels,
        "spatial_shape": list(contract.patch_size),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": regions is not None,
        "channel_def": {str(number): name for number, name in enumerate(regions.names)} if regions is not None else {},
    }
    if regions is None:
        segments |= {"type": "feature", "format": "feature", "value_range": [], "spatial_shape": []}
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": "written by ssl_med"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": packages,
        "task": f"segmentation of {', '.join(regions.names)}" if regions is not None else "features of an encoder",
        "description": f"{backbone.config.name}, {source.card.method}; seed {source.card.seed}, {source.card.steps} steps",
        "authors": "",
        "copyright": licence_line(source.card),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": segments}},
        "input_contract": json.dumps(contract.to_dict()),
    }


def _literal(value: Any) -> Any:
    """The same where no text is an expression: MONAI evaluates what begins with $, @ or %, in metadata too."""
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_literal(inner) for inner in value]
    return f" {value}" if isinstance(value, str) and value.startswith(("$", "@", "%")) else value


def _readme(source: Source, *, needs_us: bool) -> str:
    answer = "a mask on the grid of its file" if source.regions is not None else "features of its middle (.npy)"
    needs = "It needs MONAI, nibabel and ssl_med." if needs_us else "It needs MONAI and nibabel."
    lines = "\n".join(f"- {line}" for line in source.contract.lines())
    channels = source.backbone.in_channels
    where = "each scan is a file" if channels == 1 else f"each scan is a folder of {channels} files, ordered by name"
    return (
        f"# {source.backbone.config.name}, {source.card.method}\n\n"
        f"Every scan of a folder ({where}) gets {answer}. {needs}\n\n"
        "```\npython -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir SCANS\n```\n\n"
        f"Images, as the network was trained on them:\n\n{lines}\n\n"
        f"Method: {' '.join(method_lines(source.card))}\n\nData: {' '.join(data_lines(source.card))}\n\n"
        f"Licence: {licence_line(source.card)}\n"
    )
