"""`ssl-med plan`: voxel size, intensities, patch, network and batch for a segmentation task, from its data and the memory."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from datamodules.core.extent import Extent, extents
from experiments.api.overrides import overrides_of
from experiments.config.data import PlanRequest, compose_plan
from experiments.run.environment import say
from ssl_med.evaluation.tasks import TaskConfig, task_class
from ssl_med.files import write_text
from ssl_med.networks.backbone import backbone_config, build_backbone
from ssl_med.networks.footprint import MOMENTS, step_bytes
from ssl_med.networks.planning import NetworkPlan, Shape, Topology, fit, median_shape, target_spacing
from ssl_med.spec import DataSpec
from ssl_med.yaml_text import dump

USAGE = "ssl-med plan task=NAME data.root=DIR [memory=24GB] [backbone=plainconv|resenc] [out=FILE] [key=value ...]"
EXAMPLES = (
    "ssl-med plan task=lits data.root=/data/LiTS memory=24GB",
    "ssl-med plan task=hippocampus data.root=DIR memory=8GB backbone=resenc out=plan.yaml",
)
NAMES = ("task", "data", "backbone")
REQUIRED = ("task",)
SETTINGS = {
    "": "experiments.config.data:PlanConfig",
    "task": "ssl_med.evaluation.tasks:TaskConfig",
    "data": "datamodules.{data}:Config",
    "trainer": "experiments.config.sections:TrainerConfig batch_size",
}
DEFAULTS = ("root",)

_CONTEXT = 0.5 * 2**30  # bytes that a GPU's driver and libraries hold
_USABLE = 0.9  # share of the rest: memory is handed out in blocks, and some of it lies idle between them
_PERCENTILES = (0.5, 99.5)
_CROPPED = 0.75  # nnU-Net takes voxels that are not 0 alone where cutting zeros away leaves less of the scans


@dataclass(frozen=True)
class Plan:
    """Settings by section, and what is said of them, line by line."""

    settings: dict[str, Any]
    said: list[str]


def plan(overrides: Sequence[str]) -> Plan:
    """Measures the training scans, plans, prints, and writes the settings to `out`.

    Raises:
        SslMedError: a wrong request, data that cannot be read, or too little memory.
    """
    asked = compose_plan(overrides)
    # scans are measured as they are, but a store holds them at a voxel size of its own
    as_acquired = asked.spec.spatial_dims == 3 and not asked.data.store
    data = asked.data_class(
        replace(asked.data, spacing_mm=None) if as_acquired else asked.data, labelled=True, batch_size=1
    )
    data.setup("fit")
    cases = data.parts["train"]
    measured = extents(data, cases, workers=asked.config.workers or _cores())
    bar = tqdm(
        measured,
        total=len(cases),
        desc="measuring scans",
        unit="scan",
        dynamic_ncols=True,
        mininterval=0.5 if sys.stderr.isatty() else 60,
        disable=os.environ.get("SSL_MED_QUIET") == "1",
    )
    # in the order of the cases, so that a plan does not depend on the number of processes
    found = dict(sorted(((case.name, extent) for case, extent in bar), key=lambda pair: pair[0]))
    made = planned(asked, list(found.values()))
    for line in made.said:
        say(f"# {line}")
    for word in overrides_of(made.settings):
        say(word)
    if asked.config.out:
        text = "".join(f"# {line}\n" for line in made.said) + dump(made.settings)
        write_text(Path(asked.config.out), text)
        say(f"# written to {asked.config.out}; use it: ssl-med finetune task={asked.task} config={asked.config.out}")
    return made


def planned(asked: PlanRequest, found: Sequence[Extent]) -> Plan:
    """The plan for scans of these extents; what the user set stays as it is, and the rest follows from it."""
    two = asked.spec.spatial_dims == 2
    data: dict[str, Any] = {}
    spacings, shapes = [one.spacing for one in found], [one.shape for one in found]
    said = [f"plan for task={asked.task}: {len(found)} training {'images' if two else 'scans'}"]
    if two:
        median, spacing = _image_size(asked, shapes, data, said), (1.0, 1.0)
    else:
        spacing = tuple(asked.given.get("data.spacing_mm") or _rounded(target_spacing(spacings, shapes)))
        median = median_shape(spacings, shapes, spacing)
        data["spacing_mm"] = list(spacing)
        before = " x ".join(f"{size:.3g}" for size in np.median(spacings, 0))
        said.append(f"median voxel {before} mm; at the voxel size below the median scan has {_times(median)} voxels")
    said += _intensity(asked, found, data)
    network = fit(
        spacing,
        median,
        len(found),
        count=lambda patch, topology, batch: _bytes(asked, patch, topology, batch),
        budget=int((asked.memory - _CONTEXT) * _USABLE),
        patch=asked.given.get("data.patch_size", ()),
        batch=asked.given.get("trainer.batch_size", 0),
    )
    if two and max(network.patch) > data.get("image_size", math.inf):
        data["image_size"] = max(network.patch)
    data["patch_size"] = list(network.patch)
    said.append(_memory(asked, network))
    settings = {
        "data": dict(sorted(data.items())),
        "trainer": {"batch_size": network.batch},
        "backbone": {
            "name": asked.network,
            "norm": "instance",
            "features": list(network.topology.features),
            "strides": [list(one) for one in network.topology.strides],
            "kernels": [list(one) for one in network.topology.kernels],
        },
    }
    return Plan(settings, said)


def _image_size(asked: PlanRequest, shapes: Sequence[Shape], data: dict[str, Any], said: list[str]) -> Shape:
    """Median image in pixels after its shorter side was resized to `image_size`, which is planned unless it is given."""
    median = np.median(np.array(shapes, float), 0)
    size = asked.given.get("data.image_size") or round(float(np.median([min(shape) for shape in shapes])))
    data["image_size"] = size
    said.append(f"median image {_times([round(side) for side in median])} pixels, its shorter side resized to {size}")
    # crops may be no longer than the shorter side
    return (size, size)


def _intensity(asked: PlanRequest, found: Sequence[Extent], data: dict[str, Any]) -> list[str]:
    """Limits and normalisation of intensities by modality, and what is said of them."""
    intensity = asked.spec.intensity
    wanted = asked.given.get("data.normalisation", "")
    if intensity.unit != "HU":
        what = f"{intensity.low:g} to {intensity.high:g} {intensity.unit}"
        share = float(np.median([one.share for one in found]))
        # photographs keep their range, as nnU-Net's rgb_to_0_1
        planned = "unit" if asked.spec.coloured else "zscore_nonzero" if share < _CROPPED else "zscore"
        if intensity.kind != "percentile" and planned == "zscore_nonzero":
            planned = "zscore"
        data["normalisation"] = wanted or planned
        words = {
            "unit": "become 0 to 1",
            "zscore": "become a z-score",
            "dataset": "are less one mean and over one deviation",
        }
        words["zscore_nonzero"] = (
            f"that are not 0 become a z-score; the box without zeros is {share:.0%} of the median scan"
        )
        data |= {key[5:]: value for key, value in asked.given.items() if key.startswith("data.intensity_")}
        return [f"intensities: {what} of each image {words[data['normalisation']]}"]
    values = np.concatenate([one.foreground[0] for one in found])
    if not values.size:
        return ["intensities: no foreground voxel in any scan, the window stays as it is"]
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    low = asked.given.get("data.intensity_low", round(low, 1))
    high = asked.given.get("data.intensity_high", round(high, 1))
    data |= {"intensity_low": low, "intensity_high": high if high > low else low + 1}
    data["normalisation"] = wanted or "dataset"
    clipped = f"intensities: CT, {low:g} to {high:g} HU (0.5 to 99.5 % of the foreground)"
    if data["normalisation"] != "dataset":
        return [f"{clipped}, then data.normalisation={data['normalisation']}"]
    mean = asked.given.get("data.intensity_mean", round(float(values.mean()), 2))
    sd = asked.given.get("data.intensity_sd", round(float(values.std()), 2) or 1.0)
    data |= {"intensity_mean": mean, "intensity_sd": sd}
    return [f"{clipped}, less the foreground's mean of {mean:g} and over its deviation of {sd:g}"]


def _bytes(asked: PlanRequest, patch: Shape, topology: Topology, batch: int) -> int:
    """Of a training step of the network with its decoder, as the task trains it, in 32-bit arithmetic."""
    config = backbone_config(asked.network, **_topology_settings(topology))

    def loss(network: nn.Module) -> Tensor:
        image = torch.empty(batch, asked.spec.in_channels, *patch)
        return network(image, torch.empty(batch, len(asked.spec.class_names), *patch))  # type: ignore[no-any-return]

    return step_bytes(lambda: Trained(config, asked.task_config, asked.spec), loss, moments=MOMENTS[asked.optimiser])


def _topology_settings(topology: Topology) -> dict[str, Any]:
    return {"features": topology.features, "strides": topology.strides, "kernels": topology.kernels}


class Trained(nn.Module):
    """Encoder, decoder and head with their loss, as a fine-tuning trains them."""

    def __init__(self, config: Any, task: TaskConfig, spec: DataSpec) -> None:
        super().__init__()
        self.encoder = build_backbone(config, spatial_dims=spec.spatial_dims, in_channels=spec.in_channels)
        self.decoder = self.encoder.build_decoder()
        self.task = task_class(spec)(task, spec, self.encoder, self.decoder)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """(B, C, *S), (B, K, *S) -> scalar loss."""
        return self.task.training_loss({"image": image, "mask": mask}, self.encoder, self.decoder)


def _memory(asked: PlanRequest, network: NetworkPlan) -> str:
    used = (network.bytes / _USABLE + _CONTEXT) / 2**30
    levels = len(network.topology.strides)
    return (
        f"memory: {used:.1f} of {asked.memory / 2**30:.1f} GiB for a batch of {network.batch} in 32-bit "
        f"({asked.network} of {levels} levels, {network.bytes / 2**30:.1f} GiB of tensors); 16-mixed needs less"
    )


def _rounded(spacing: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{size:.4g}") for size in spacing)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def run(arguments: Sequence[str]) -> None:
    """Carries out the command."""
    plan(arguments)
