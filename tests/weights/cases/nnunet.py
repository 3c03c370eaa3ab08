"""nnU-Net: both networks, with plans for CT, with plans that turn the axes, and without plans."""

import numpy as np
import torch
from foreign_case import Case
from planned_layout import encode, kwargs, planned, turned

LOW, HIGH, MEAN, STD = -900.0, 300.0, 80.0, 140.0
SHAPE = (1, 16, 12, 8)  # x, y, z


def _plans(*, deep, order, scheme):
    name = "ResidualEncoderUNet" if deep else "PlainConvUNet"
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": kwargs(deep=deep),
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    fullres = {
        "patch_size": [8, 12, 16],
        "spacing": [3.0, 0.8, 0.7],
        "normalization_schemes": [scheme],
        "use_mask_for_norm": [False],
        "architecture": architecture,
    }
    foreground = {"percentile_00_5": LOW, "percentile_99_5": HIGH, "mean": MEAN, "std": STD}
    return {
        "transpose_forward": list(order),
        "configurations": {"3d_fullres": fullres, "3d_cascade_fullres": {"inherits_from": "3d_fullres"}},
        "foreground_intensity_properties_per_channel": {"0": foreground},
    }


def _checkpoint(*, deep, order=(0, 1, 2), scheme="ZScoreNormalization", configuration="3d_fullres"):
    def build(generator):
        return {
            "network_weights": planned(generator, deep=deep),
            "init_args": {
                "plans": _plans(deep=deep, order=order, scheme=scheme),
                "configuration": configuration,
                "device": torch.device("cpu"),
            },
            "logging": {"mean_fg_dice": [np.float64(0.5)]},
            "current_epoch": 2,
        }

    return build


def _forward(order=(0, 1, 2)):
    def forward(made, x):
        return turned(lambda image: encode(made["network_weights"], image), x, order)

    return forward


CASES = [
    Case("plain", build=_checkpoint(deep=False), forward=_forward(), shape=SHAPE),
    Case(
        "residual_ct",
        build=_checkpoint(deep=True, scheme="CTNormalization", configuration="3d_cascade_fullres"),
        forward=_forward(),
        shape=SHAPE,
    ),
    Case("turned", build=_checkpoint(deep=True, order=(1, 0, 2)), forward=_forward((1, 0, 2)), shape=(1, 16, 8, 12)),
    Case(
        "without_plans",
        build=lambda generator: {"network_weights": planned(generator, deep=False)},
        forward=_forward(),
        shape=SHAPE,
    ),
]
